"""The handshake that opens a connection, and what it tells about the server. A generator: both connections drive it."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

import msgspec
from pamqp import commands, header

from celeriac.drivers.amqp.address import Address
from celeriac.drivers.amqp.dialect import RABBITMQ, Dialect, dialect_of
from celeriac.drivers.amqp.error_translation import NoConfirms, closed
from celeriac.drivers.amqp.frames import Event, Method, method
from celeriac.errors import BrokerMisconfigured

__all__ = ["PROTOCOL", "Facts", "opening"]

PROTOCOL: bytes = header.ProtocolHeader(0, 9, 1).marshal()
CAPABILITIES = {"publisher_confirms": True, "consumer_cancel_notify": True, "connection.blocked": True,
                "basic.nack": True, "authentication_failure_close": True}  # fmt: skip
FRAME_MAX = 131072
CHANNEL_MAX = 65535
HAS_QUORUM = (3, 10)  # the RabbitMQ from which quorum queues have time limits, and dead-letter with confirms
DEAD_LETTERS_SAFELY = (3, 11)  # the RabbitMQ whose quorum queues go on dead-lettering after a node has restarted
PREFERS_QUORUM = (4, 0)  # after a KILL of a single node, not all quorum queues of 3.10 come back


class Facts(msgspec.Struct, frozen=True):
    """What a server says of itself in the handshake."""

    product: str = ""
    version: str = ""
    dialect: Dialect = RABBITMQ
    confirms: bool = True
    frame_max: int = FRAME_MAX
    channel_max: int = CHANNEL_MAX
    heartbeat: float = 0.0  # seconds

    @property
    def has_quorum(self) -> bool:
        """Whether its quorum queues have all that Celeriac needs."""
        return self.product == "RabbitMQ" and self._numbers() >= HAS_QUORUM

    @property
    def prefers_quorum(self) -> bool:
        """Whether to use its quorum queues rather than its classic ones."""
        return self.product == "RabbitMQ" and self._numbers() >= PREFERS_QUORUM

    @property
    def may_lose_delayed(self) -> bool:
        """Whether delayed messages may stay in its quorum queues for ever, once a node of its cluster was restarted."""
        return self.product == "RabbitMQ" and self._numbers() < DEAD_LETTERS_SAFELY

    def _numbers(self) -> tuple[int, ...]:
        return tuple(int(part) for part in self.version.split(".")[:2] if part.isdecimal() and len(part) < 9)


def opening(address: Address, heartbeat: int, name: str, ask: bool = True) -> Generator[bytes, Event, Facts]:
    """Yield the bytes to send, receive the answers, and return what is known about the server.

    If the server does not say whether it has publisher confirms, asks for them. It may end the connection because of
    that: raises `NoConfirms`, and the next connection must be opened without asking.
    """
    start = _expect((yield PROTOCOL), commands.Connection.Start, address)
    theirs: dict[str, Any] = start.server_properties or {}
    dialect = dialect_of(theirs)
    if "PLAIN" not in start.mechanisms.split():
        raise BrokerMisconfigured(f"{dialect.product} at {address} does not offer PLAIN authentication, which Celeriac "
                                  f"needs. It offers: {start.mechanisms}.")
    ours: dict[str, Any] = {"product": "celeriac", "connection_name": name, "capabilities": CAPABILITIES}
    proof = f"\0{address.username}\0{address.password}"
    tune = _expect((yield method(0, commands.Connection.StartOk(ours, "PLAIN", proof))), commands.Connection.Tune,
                   address, dialect)  # fmt: skip
    frame_max = min(tune.frame_max or FRAME_MAX, FRAME_MAX)
    beat = min(heartbeat, tune.heartbeat or heartbeat)
    channel_max = tune.channel_max or CHANNEL_MAX
    tuned = method(0, commands.Connection.TuneOk(channel_max, frame_max, beat))
    _expect((yield tuned + method(0, commands.Connection.Open(address.vhost))), commands.Connection.OpenOk, address,
            dialect)  # fmt: skip
    confirms: Any = (theirs.get("capabilities") or {}).get("publisher_confirms")
    if confirms is None:
        confirms = theirs.get("qpid.confirmed_publish_supported") == "true" or None
    if confirms is None:
        confirms = ask and (yield from _confirming(address, dialect))
    return Facts(product=str(theirs.get("product", "")), version=str(theirs.get("version", "")), frame_max=frame_max,
                 dialect=dialect, channel_max=channel_max, confirms=bool(confirms),
                 heartbeat=float(beat))  # fmt: skip


def _confirming(address: Address, dialect: Dialect) -> Generator[bytes, Event, bool]:
    """Try on a channel whether the server has confirms; close the channel."""
    _expect((yield method(1, commands.Channel.Open())), commands.Channel.OpenOk, address, dialect)
    event = yield method(1, commands.Confirm.Select())
    found = event.frame if isinstance(event, Method) else None
    if isinstance(found, commands.Connection.Close):
        raise NoConfirms(found.reply_text)
    if isinstance(found, commands.Channel.Close):
        again = method(1, commands.Channel.CloseOk()) + method(1, commands.Channel.Open())
        _expect((yield again), commands.Channel.OpenOk, address, dialect)
    _expect((yield method(1, commands.Channel.Close(200, "", 0, 0))), commands.Channel.CloseOk, address, dialect)
    return isinstance(found, commands.Confirm.SelectOk)


def _expect(event: Event, kind: type[Any], address: Address, dialect: Dialect | None = None) -> Any:
    """Return an event of this kind. The dialect is known after the first one."""
    found = event.frame if isinstance(event, Method) else event
    if isinstance(found, commands.Connection.Close) and dialect is not None:
        raise closed(found, address, dialect)
    if not isinstance(found, kind):
        raise BrokerMisconfigured(f"The server at {address} does not speak AMQP 0-9-1: it sent {found!r}.")
    return found
