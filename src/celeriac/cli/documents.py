"""The option `--json`, and printing the document that it asks for."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from typing import Any, TypeVar

import click
import msgspec

from celeriac.documents import to_json

__all__ = ["as_json", "emit"]

Command = TypeVar("Command", bound=Callable[..., Any])

as_json: Callable[[Command], Command] = click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")


ESCAPED = {code: f"\\u{code:04x}" for code in range(0x7F, 0xA0)}
"""Control characters that JSON allows in strings, and that terminals obey."""


def emit(document: Any) -> None:
    """Print a JSON document. Values that JSON does not support are printed as text."""
    text = msgspec.json.format(to_json(document), indent=2).decode().translate(ESCAPED)
    try:
        text.encode(getattr(sys.stdout, "encoding", None) or "utf-8")
    except UnicodeEncodeError:  # a locale without UTF-8
        text = json.dumps(json.loads(text), indent=2)
    click.echo(text)
