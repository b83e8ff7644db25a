"""Output for people: text from tasks and servers cannot control the terminal, nor pass for something else."""

from __future__ import annotations

import logging
import sys

import click

from celeriac.logs import add_task, shortened

__all__ = ["LogFormatter", "echo", "echo_value", "printable"]

SUPERVISOR = "celeriac.worker"  # the logger whose lines about a task name it in their texts


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
    """Formats log records for stderr: with the second format if a task has logged the record.

    Control characters are escaped, and continuation lines are indented: no text of a task (its name, the message of
    its exception) can look like a line of the log. Long records are cut.
    """

    def __init__(self, format: str, task_format: str | None = None) -> None:
        super().__init__(format)
        self._of_tasks = logging.Formatter(task_format or format)

    def format(self, record: logging.LogRecord) -> str:
        """Return the record as text."""
        is_of_task = add_task(record) and record.name != SUPERVISOR
        text = self._of_tasks.format(record) if is_of_task else super().format(record)
        return printable(shortened(text)).replace("\n", "\n  ")
