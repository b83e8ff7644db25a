"""`app.control`: sends commands to workers (revoke, terminate, ping and others).

A command is broadcast to all workers. Each worker that it addresses runs it (`worker/commands.py`), and replies
on the channel that the command names. `inspector/` sends commands and collects the replies.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import msgspec

from celeriac.errors import EncodeError
from celeriac.model.gate import Instant, Name, OptionalName, Unreadable, check_nesting, reader
from celeriac.model.message import new_id
from celeriac.model.options import several
from celeriac.tasks.protocols import App

__all__ = [
    "COMMANDS",
    "REVOKE_SECONDS",
    "Command",
    "Control",
    "Reply",
    "encode",
    "in_commands",
    "read_command",
    "read_reply",
]

COMMANDS = "control"
"""The channel on which workers listen for commands."""

REPLIES = "reply."
"""How the names of channels for replies begin: a command must not make workers send to other channels."""

REVOKE_SECONDS = 7 * 86400.0  # how long a revocation is remembered


class Command(msgspec.Struct, omit_defaults=True):
    """A command to workers."""

    name: Name
    arguments: dict[str, Any] = {}
    destination: list[Name] | None = None  # names of workers; None: all workers
    reply_to: Name | None = None  # the channel for replies; None: no reply is wanted
    sent_at: Instant = 0.0  # set if it is signed, as is the nonce: so that it cannot be repeated
    nonce: OptionalName = ""


class Reply(msgspec.Struct, omit_defaults=True):
    """A worker's reply to a command."""

    worker: Name
    value: Any = None
    error: str | None = None
    host: OptionalName = ""  # with the pid, these tell workers of one name apart
    pid: int = 0


LARGEST_COMMAND = 1 << 20  # bytes
LARGEST_REPLY = 1 << 26
IDS_LENGTH = LARGEST_COMMAND // 8  # characters of the ids in one command: a character may take six bytes


def encode(value: Command | Reply) -> bytes:
    """Return a command or a reply as JSON. Raises `EncodeError`, also if it is larger than what is read."""
    try:
        data = msgspec.json.encode(value)
    except (TypeError, ValueError, RecursionError) as error:
        raise EncodeError(f"A control command takes plain data (strings, numbers, lists, dicts): {error}.") from None
    kind, largest = ("command", LARGEST_COMMAND) if isinstance(value, Command) else ("reply", LARGEST_REPLY)
    if len(data) > largest:
        raise EncodeError(f"A control {kind} may have {largest:,} bytes, and this one has {len(data):,}. Send it in "
                          "parts, or with less data.")  # fmt: skip
    return data


def in_commands(ids: Sequence[str]) -> Iterator[list[str]]:
    """Yield ids in lists for one command each; one empty list if there are none."""
    batch: list[str] = []
    room = IDS_LENGTH
    for id in ids:
        room -= len(id) + 3
        if room < 0 and batch:
            yield batch
            batch, room = [], IDS_LENGTH - len(id) - 3
        batch.append(id)
    yield batch


def _check_command(command: Command) -> None:
    check_nesting(command.arguments, "arguments")
    if command.reply_to is not None and not command.reply_to.startswith(REPLIES):
        raise Unreadable(f"the name of its channel for replies does not begin with {REPLIES!r}")


read_command: Callable[[bytes | memoryview], Command] = reader(
    Command, "a control command", _check_command, LARGEST_COMMAND, json=True
)
"""Return a command from its JSON. Raises `Unreadable`, a `ValueError`."""

def _check_reply(reply: Reply) -> None:
    check_nesting([reply.value], "values")


read_reply: Callable[[bytes | memoryview], Reply] = reader(
    Reply, "a reply to a control command", _check_reply, LARGEST_REPLY, json=True
)
"""Return a reply from its JSON. Raises `Unreadable`, a `ValueError`."""


class Control:
    """`app.control`."""

    def __init__(self, app: App) -> None:
        self._app = app

    def revoke(self, ids: str | Sequence[str], terminate: bool = False) -> None:
        """Prevent all workers, including those started later, from starting these tasks.

        With `terminate`, also end those that are running.
        """
        self._app.broker.complete(self.arevoke(ids, terminate))

    async def arevoke(self, ids: str | Sequence[str], terminate: bool = False) -> None:
        """Coroutine version of `revoke`."""
        ids = several(ids)
        await self._app.broker.revoke(ids, self._app.clock.now() + REVOKE_SECONDS)
        if terminate:
            for some in in_commands(ids):
                await self.send("terminate", {"ids": some})

    async def send(self, name: str, arguments: Mapping[str, Any] | None = None, *,
                   destination: str | Sequence[str] | None = None, reply_to: str | None = None) -> None:  # fmt: skip
        """Send a command to workers without waiting for replies.

        `reply_to` is the channel for replies, if any are wanted. Raises `ValueError` unless it begins with "reply.",
        and `EncodeError` for a command that workers would not read.
        """
        if reply_to is not None and not reply_to.startswith(REPLIES):
            raise ValueError(f"reply_to must be the name of a channel that begins with {REPLIES!r}, not {reply_to!r}")
        broker = self._app.broker
        workers = None if destination is None else several(destination)
        command = Command(name, dict(arguments or {}), workers, reply_to)
        if broker.codec.signs:
            command.sent_at, command.nonce = self._app.clock.now(), new_id()
        await broker.broadcast(COMMANDS, [broker.codec.seal("command", encode(command))])
