"""Telling workers what to do: revoke, terminate, ping and the rest, and hearing what they answer.

A command goes to all workers by broadcast, and each that it concerns answers on the channel that the command names;
`inspector.py` asks, and gathers the answers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from celeriac.model.serialization import dumps
from celeriac.tasks.protocols import App

__all__ = ["COMMANDS", "Command", "Control", "Reply"]

COMMANDS = "control"
"""The channel that workers listen on."""

REVOKE_SECONDS = 7 * 86400.0  # how long a revocation is remembered


class Command(msgspec.Struct, omit_defaults=True):
    """An order to workers."""

    name: str
    arguments: dict[str, Any] = {}
    destination: list[str] | None = None  # names of workers; None: all
    reply_to: str | None = None  # the channel to answer on; None: nobody waits


class Reply(msgspec.Struct, omit_defaults=True):
    """A worker's answer."""

    worker: str
    value: Any = None
    error: str | None = None


class Control:
    """`app.control`."""

    def __init__(self, app: App) -> None:
        self._app = app

    def revoke(self, ids: str | Sequence[str], terminate: bool = False) -> None:
        """Prevent tasks from being started by any worker, running now or started later.

        With `terminate`, also end their attempts that are running.
        """
        self._app.broker.complete(self.arevoke(ids, terminate))

    async def arevoke(self, ids: str | Sequence[str], terminate: bool = False) -> None:
        """Do as `revoke`, for coroutines."""
        ids = [ids] if isinstance(ids, str) else list(ids)
        await self._app.broker.revoke(ids, self._app.clock.now() + REVOKE_SECONDS)
        if terminate:
            await self.send("terminate", {"ids": ids})

    async def send(self, name: str, arguments: Mapping[str, Any] | None = None, *,
                   destination: Sequence[str] | None = None, reply_to: str | None = None) -> None:  # fmt: skip
        """Send a command, and expect no answer."""
        command = Command(name, dict(arguments or {}), list(destination) if destination is not None else None, reply_to)
        await self._app.broker.broadcast(COMMANDS, [dumps(msgspec.to_builtins(command))])
