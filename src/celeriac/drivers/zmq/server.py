"""One hub, for every thread, event loop and process that uses it.

Threads borrow blocking channels. Each event loop has a `Session`. Lines are opened on first use, by the process that
uses them (a forked child opens its own), and closed with their loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable, Sequence
from typing import Any, Final

from celeriac.drivers.registry import Registry
from celeriac.drivers.zmq.address import Address
from celeriac.drivers.zmq.channel import Channel
from celeriac.drivers.zmq.conversation import Ask
from celeriac.drivers.zmq.parcels import message_packer, open_message, open_outcome, outcome_packer
from celeriac.drivers.zmq.session import Session
from celeriac.model.codec import PLAIN_CODEC, Codec
from celeriac.model.message import Message
from celeriac.model.outcome import Outcome

__all__ = ["Server", "server"]

IDLE_CHANNELS: Final = 64  # kept for the next threads

Again = Callable[[], tuple[Any, ...]] | None


class Server:
    """A hub, and the codec with which values are sealed before they go there."""

    def __init__(self, url: str, server_key: str | None = None, key_file: str | None = None, timeout: float = 10.0,
                 codec: Codec = PLAIN_CODEC) -> None:  # fmt: skip
        self.address = Address.of(url, server_key, key_file)
        self.timeout = timeout
        self.codec = codec
        self.pack = message_packer(codec)
        """Return a message as bytes for the hub."""
        self.pack_outcome = outcome_packer(codec)
        """Return an outcome as bytes for the hub."""
        self._idle: list[Channel] = []
        self._local = threading.local()
        _registry.know(self)

    def message(self, data: bytes, queue: str | None) -> Message:
        """Return the message of bytes from the hub. Raises `Unreadable`."""
        return open_message(data, queue, self.codec)

    def outcome(self, id: str, data: bytes) -> Outcome:
        """Return the outcome of bytes from the hub; a failure if they cannot be read."""
        return open_outcome(id, data, self.codec)

    # --- Requests -------------------------------------------------------------------------------------

    def do(self, verb: str, *arguments: Any, wait: float = 0.0, again: Again = None) -> Any:
        """Return the hub's answer, blocking.

        A request is repeated until there is an answer; with `again`, with other arguments. Raises `BrokerUnavailable`
        after `wait` and the time-out, `BrokerError`, …
        """
        ask = Ask(verb, arguments, again)
        self.do_all((ask,), wait)
        return ask.value()

    def do_all(self, asks: Sequence[Ask], wait: float = 0.0) -> None:
        """Have requests answered, several of them under way. The first error is not raised here: see `Ask.value`."""
        try:
            channel = self._idle.pop()
        except IndexError:
            channel = Channel(self.address)
        try:
            channel.ask_all(asks, wait, self.timeout)
        except BaseException:  # the exception of a time limit may come between a request and its answer
            channel.close()
            raise
        if len(self._idle) < IDLE_CHANNELS:
            self._idle.append(channel)
        else:
            channel.close()

    async def ado(self, verb: str, *arguments: Any, wait: float = 0.0, again: Again = None) -> Any:
        """Coroutine version of `do`. If it is cancelled, the request may or may not have been carried out."""
        return await self.session().ask(Ask(verb, arguments, again), wait)

    def post(self, verb: str, *arguments: Any) -> None:
        """Send a request on this loop's line, after those sent before; its answer, and its loss, do not matter."""
        self.session().post(Ask(verb, arguments))

    def session(self) -> Session:
        """Return what the running event loop has open to this hub."""
        loop = asyncio.get_running_loop()
        session: Session | None = getattr(self._local, "session", None)
        if session is None or session.loop is not loop:
            session = self._local.session = Session(self.address, self.timeout)
        return session

    # --- Ends -----------------------------------------------------------------------------------------

    def close(self) -> None:
        """Close the idle channels of all threads, and the session of the running event loop."""
        idle, self._idle = self._idle, []
        for channel in idle:
            channel.close()
        session: Session | None = getattr(self._local, "session", None)
        if session is not None:
            with contextlib.suppress(RuntimeError):
                if session.loop is asyncio.get_running_loop():
                    session.close()

    def forget(self) -> None:
        """In a forked child: leave the parent's lines alone."""
        _inherited.append(self._idle)
        self._idle = []
        _registry.inherited.append(self._local)
        self._local = threading.local()

    def __repr__(self) -> str:
        return f"<Server {self.address}>"


def server(url: str, server_key: str | None = None, key_file: str | None = None, timeout: float = 10.0,
           codec: Codec = PLAIN_CODEC) -> Server:  # fmt: skip
    """Return the process's one `Server` for these arguments, so that broker and backend share it."""
    return _registry.of(url, server_key, key_file, timeout, codec)


_inherited: list[list[Channel]] = []
"""Channels of parents; kept, so that nothing closes them."""
_registry: Registry[Server] = Registry(Server)
