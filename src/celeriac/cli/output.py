"""Output for people: text from tasks and servers cannot control the terminal, nor pass for something else."""

from __future__ import annotations

import sys

import click

__all__ = ["echo", "echo_value", "is_terminal", "printable"]


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
    if is_terminal():
        echo(text)
    else:
        click.echo(text, color=True)  # otherwise click would leave out escape sequences


def is_terminal() -> bool:
    """Return whether the output is a terminal, and not a file or a pipe, or closed."""
    return sys.stdout is not None and sys.stdout.isatty()
