"""The audit of commands: each that changes something is written into the history, with who ran it.

Front ends share the history's list of what operators did: `celeriac stats audit`, the HTTP API and the dashboard show
it. It is best effort: what was done is not undone because it cannot be written down.
"""

from __future__ import annotations

import getpass
import socket
from collections.abc import Callable, Mapping
from functools import wraps
from typing import Any, Concatenate, Final, ParamSpec, TypeVar

import click
import msgspec

from celeriac.cli.output import echo
from celeriac.cli.session import Session
from celeriac.errors import CeleriacError
from celeriac.inspector.audit import ACTION
from celeriac.model.history import Event

__all__ = ["audited", "operator"]

P = ParamSpec("P")
R = TypeVar("R")

NOT_TOLD: Final = frozenset({"as_json", "timeout", "yes"})  # how a command runs, not what it does
ABOUT: Final = ("ids", "queues", "names", "name", "queue", "task", "destination", "signature")
LONGEST: Final = 200  # characters of a name
LARGEST: Final = 4_000  # bytes of the arguments


def audited(function: Callable[Concatenate[Session, P], R]) -> Callable[Concatenate[Session, P], R]:
    """Write a command down once it has run; one that fails has told why, and changed nothing that it did not tell.

    It goes under `with_session`.
    """

    @wraps(function)
    def command(session: Session, /, *args: P.args, **kwargs: P.kwargs) -> R:
        try:
            result = function(session, *args, **kwargs)
        except click.exceptions.Exit:  # it was done, in part: some workers did not answer
            _note(session, kwargs)
            raise
        _note(session, kwargs)
        return result

    command.__dict__["audited"] = True  # a test looks for it
    return command


def operator() -> str:
    """Return who runs this command: user@host."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a user id without a name, as containers have them
        user = "nobody"
    return f"{user}@{socket.gethostname()}"[:LONGEST]


def _note(session: Session, given: Mapping[str, Any]) -> None:
    history = session.app.history
    if history is None:
        return
    context = click.get_current_context()
    arguments = {name: value for name, value in given.items() if name not in NOT_TOLD and value not in (None, (), [])}
    event = Event(at=session.app.clock.now(), kind=ACTION, id=_about(arguments), by=operator(),
                  text=context.command.get_short_help_str(LONGEST),
                  data={"command": _name(context), "arguments": _plain(arguments)})  # fmt: skip
    try:
        session.run(history.audit(event))
    except CeleriacError as error:
        echo(f"Note: this is missing in the audit: {error}", err=True)


def _name(context: click.Context) -> str:
    names: list[str] = []
    while context.parent is not None:
        names.append(context.info_name or "")
        context = context.parent
    return " ".join(["celeriac", *reversed(names)])


def _about(arguments: Mapping[str, Any]) -> str:
    """Return the one thing that a command changes, or ""."""
    for name in ABOUT:
        value = arguments.get(name)
        if isinstance(value, str):
            return value[:LONGEST]
        if isinstance(value, tuple) and len(value) == 1:
            return str(value[0])[:LONGEST]
    return ""


def _plain(arguments: Mapping[str, Any]) -> Any:
    """Return arguments as plain data; of what is large, its size."""
    plain = msgspec.to_builtins(arguments, enc_hook=str)
    size = len(msgspec.json.encode(plain))
    return plain if size <= LARGEST else {"bytes": size}
