"""`app.control`: sends commands to workers (revoke, terminate, ping and others).

A command is broadcast to all workers. Each worker that it addresses runs it (`worker/remote_control.py`), and replies
on the channel that the command names. `inspector.py` sends commands and collects the replies.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from celeriac.model.serialization import dumps
from celeriac.tasks.protocols import App

__all__ = ["COMMANDS", "Command", "Control", "Reply"]

COMMANDS = "control"
"""The channel on which workers listen for commands."""

REVOKE_SECONDS = 7 * 86400.0  # how long a revocation is remembered


class Command(msgspec.Struct, omit_defaults=True):
    """A command to workers."""

    name: str
    arguments: dict[str, Any] = {}
    destination: list[str] | None = None  # names of workers; None: all workers
    reply_to: str | None = None  # the channel for replies; None: no reply is wanted


class Reply(msgspec.Struct, omit_defaults=True):
    """A worker's reply to a command."""

    worker: str
    value: Any = None
    error: str | None = None


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
        ids = [ids] if isinstance(ids, str) else list(ids)
        await self._app.broker.revoke(ids, self._app.clock.now() + REVOKE_SECONDS)
        if terminate:
            await self.send("terminate", {"ids": ids})

    async def send(self, name: str, arguments: Mapping[str, Any] | None = None, *,
                   destination: Sequence[str] | None = None, reply_to: str | None = None) -> None:  # fmt: skip
        """Send a command to workers without waiting for replies."""
        command = Command(name, dict(arguments or {}), list(destination) if destination is not None else None, reply_to)
        await self._app.broker.broadcast(COMMANDS, [dumps(msgspec.to_builtins(command))])
