"""The first words on a connection, and what they tell of the server. A generator, so that both transports drive it."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

import msgspec
from pamqp import commands, header

from celeriac.drivers.amqp.address import Address
from celeriac.drivers.amqp.error_translation import NoConfirms, closed
from celeriac.drivers.amqp.frames import Event, Method, method
from celeriac.errors import BrokerMisconfigured

__all__ = ["PROTOCOL", "Facts", "opening"]

PROTOCOL: bytes = header.ProtocolHeader(0, 9, 1).marshal()
CAPABILITIES = {"publisher_confirms": True, "consumer_cancel_notify": True, "connection.blocked": True,
                "basic.nack": True, "authentication_failure_close": True}  # fmt: skip
FRAME_MAX = 131072
CHANNEL_MAX = 65535
ENOUGH = (3, 10)  # RabbitMQ from which quorum queues have time limits, and dead-letter safely
STURDY = (4, 0)  # … and are our choice: those of 3.10, on one node, do not all come back when the server was killed


class Facts(msgspec.Struct, frozen=True):
    """What is known of a server, from its greeting."""

    product: str = ""
    version: str = ""
    confirms: bool = True
    frame_max: int = FRAME_MAX
    channel_max: int = CHANNEL_MAX
    heartbeat: float = 0.0  # seconds

    @property
    def has_quorum(self) -> bool:
        """Whether it has quorum queues that do what we need."""
        return self.product == "RabbitMQ" and self._numbers() >= ENOUGH

    @property
    def prefers_quorum(self) -> bool:
        """Whether its quorum queues are better for us than its classic ones."""
        return self.product == "RabbitMQ" and self._numbers() >= STURDY

    def _numbers(self) -> tuple[int, ...]:
        return tuple(int(part) for part in self.version.split(".")[:2] if part.isdigit())


def opening(address: Address, heartbeat: int, name: str, ask: bool = True) -> Generator[bytes, Event, Facts]:
    """Yield what is to be sent, take the answers, and return what is known of the server.

    One that does not say whether it has confirms is asked for them. It may end the connection over that: raises
    `NoConfirms`, and the next one is to be opened without asking.
    """
    start = _expect((yield PROTOCOL), commands.Connection.Start, address)
    if "PLAIN" not in start.mechanisms.split():
        raise BrokerMisconfigured(f"The AMQP server at {address} does not take PLAIN: it offers {start.mechanisms}.")
    ours: dict[str, Any] = {"product": "celeriac", "connection_name": name, "capabilities": CAPABILITIES}
    proof = f"\0{address.username}\0{address.password}"
    tune = _expect((yield method(0, commands.Connection.StartOk(ours, "PLAIN", proof))), commands.Connection.Tune,
                   address)  # fmt: skip
    frame_max = min(tune.frame_max or FRAME_MAX, FRAME_MAX)
    beat = min(heartbeat, tune.heartbeat or heartbeat)
    channel_max = tune.channel_max or CHANNEL_MAX
    tuned = method(0, commands.Connection.TuneOk(channel_max, frame_max, beat))
    _expect((yield tuned + method(0, commands.Connection.Open(address.vhost))), commands.Connection.OpenOk, address)
    theirs: dict[str, Any] = start.server_properties or {}
    confirms: Any = (theirs.get("capabilities") or {}).get("publisher_confirms")
    if confirms is None:
        confirms = ask and (yield from _confirming(address))
    return Facts(product=str(theirs.get("product", "")), version=str(theirs.get("version", "")), frame_max=frame_max,
                 channel_max=channel_max, confirms=bool(confirms), heartbeat=float(beat))  # fmt: skip


def _confirming(address: Address) -> Generator[bytes, Event, bool]:
    """Ask on a channel whether confirms can be had; close it."""
    _expect((yield method(1, commands.Channel.Open())), commands.Channel.OpenOk, address)
    event = yield method(1, commands.Confirm.Select())
    found = event.frame if isinstance(event, Method) else None
    if isinstance(found, commands.Connection.Close):
        raise NoConfirms(found.reply_text)
    if isinstance(found, commands.Channel.Close):
        again = method(1, commands.Channel.CloseOk()) + method(1, commands.Channel.Open())
        _expect((yield again), commands.Channel.OpenOk, address)
    _expect((yield method(1, commands.Channel.Close(200, "", 0, 0))), commands.Channel.CloseOk, address)
    return isinstance(found, commands.Confirm.SelectOk)


def _expect(event: Event, kind: type[Any], address: Address) -> Any:
    found = event.frame if isinstance(event, Method) else event
    if isinstance(found, commands.Connection.Close):
        raise closed(found, address)
    if not isinstance(found, kind):
        raise BrokerMisconfigured(f"What answers at {address} is no AMQP 0-9-1 server: it says {found!r}.")
    return found
