"""Output for people: text from tasks and servers cannot control the terminal, nor pass for something else."""

from __future__ import annotations

import logging
import sys

import click

__all__ = ["LogFormatter", "echo", "echo_value", "printable"]

LONGEST_LINE = 20_000  # characters of one log record


def printable(text: str) -> str:
    r"""Return text with characters that are not printable escaped, except newlines and tabs.

    >>> printable("a\x1b[2Jb\u202ec\n")
    'a\\x1b[2Jb\\u202ec\n'
    """
    if text.isprintable():
        return text
    return "".join(
        char if char.isprintable() or char in "\n\t" else char.encode("unicode_escape").decode() for char in text
    )


def echo(text: object = "", *, err: bool = False) -> None:
    """Print text and a newline, with control characters escaped."""
    click.echo(printable(str(text)), err=err)


def echo_value(value: object) -> None:
    """Print a value: as it is into a file or a pipe, with control characters escaped on a terminal."""
    text = value if isinstance(value, str) else repr(value)
    if sys.stdout.isatty():
        echo(text)
    else:
        click.echo(text, color=True)  # otherwise click would leave out escape sequences


class LogFormatter(logging.Formatter):
    """Formats log records for stderr.

    Control characters are escaped, and continuation lines are indented: no text of a task (its name, the message of
    its exception) can look like a line of the log. Long records are cut.
    """

    def format(self, record: logging.LogRecord) -> str:
        """Return the record as text."""
        text = super().format(record)
        if len(text) > LONGEST_LINE:
            text = f"{text[:LONGEST_LINE]} … ({len(text) - LONGEST_LINE:,} characters left out)"
        return printable(text).replace("\n", "\n  ")
