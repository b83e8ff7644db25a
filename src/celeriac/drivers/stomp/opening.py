"""The frames that open a connection, what the server answers, and the requests that both connections carry out."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import msgspec

from celeriac.drivers.stomp.address import Address
from celeriac.drivers.stomp.dialects import Dialect, dialect_of
from celeriac.drivers.stomp.error_translation import MANY, not_opened
from celeriac.drivers.stomp.frames import Frame, Publication, frame, headers
from celeriac.errors import BrokerMisconfigured

__all__ = ["WINDOW", "Browse", "Facts", "facts_of", "hello", "packed", "subscribe"]

BEAT = re.compile(r"[0-9]{1,12}")  # milliseconds
WINDOW = 500  # publications that are sent before their receipts are read


class Facts(msgspec.Struct, frozen=True):
    """What is known about a server when a connection is open."""

    dialect: Dialect
    sends: float  # seconds, after which this side must have sent something; 0: never
    receives: float  # seconds, after which the server must have sent something; 0: never


class Browse(NamedTuple):
    """A request to be shown messages of a queue; only where the server's dialect `browses`."""

    destination: str
    selector: str = ""
    limit: int = 1_000_000

    @property
    def headers(self) -> dict[str, str]:
        """Those of the subscription that shows the messages."""
        return {"browser": "true", **({"selector": self.selector} if self.selector else {})}


def hello(address: Address, heartbeat: float) -> bytes:
    """Return the frame that opens a connection, with a heartbeat each so many seconds (0: none)."""
    beat = int(heartbeat * 1000)
    items = {"accept-version": "1.2", "host": address.vhost, "heart-beat": f"{beat},{beat}"}
    if address.username is not None:
        items["login"] = address.username
    if address.password is not None:
        items["passcode"] = address.password
    return frame("CONNECT", items, escape=False)


def facts_of(answer: Frame, address: Address, heartbeat: float) -> Facts:
    """Return what the answer to `hello` says. Raises `BrokerUnavailable`, `BrokerMisconfigured`."""
    if answer.command == "ERROR":
        raise not_opened(answer.headers.get("message", ""), answer.body, address)
    if answer.command != "CONNECTED":
        raise BrokerMisconfigured(f"The server at {address} does not speak STOMP: it sent "
                                  f"{answer.command[:MANY]!r}.")
    theirs = [int(part) / 1000 if BEAT.fullmatch(part) else 0.0
              for part in answer.headers.get("heart-beat", "0,0").split(",")]  # fmt: skip
    sends, receives = (max(one, heartbeat) if one and heartbeat else 0.0 for one in (theirs[-1], theirs[0]))
    return Facts(dialect_of(answer, address), sends, receives)


def subscribe(id: str, destination: str, ack: str, more: Mapping[str, str]) -> bytes:
    """Return the frame that begins a subscription."""
    return frame("SUBSCRIBE", {"id": id, "destination": destination, "ack": ack, **more})


def packed(items: Sequence[Publication], acknowledged: Sequence[str], dialect: Dialect,
           number: int) -> tuple[bytes, int]:  # fmt: skip
    """Return the frames that send publications and acknowledge messages, and how many receipts confirm them.

    The receipts are `number`, `number + 1` and so on. A server that does not do both in one step sends first, and is to
    be told to acknowledge when it has confirmed.
    """
    if not dialect.atomic or (len(items) == 1 and not acknowledged):
        parts = [item.pack(b"receipt:%d\n" % (number + at)) for at, item in enumerate(items)]
        return b"".join(parts), len(items)
    name = b"transaction:%d\n" % number
    parts = [b"BEGIN\n%b\n\0" % name, *[item.pack(name) for item in items]]
    parts += [b"ACK\n%b%b\n\0" % (headers({"id": id}), name) for id in acknowledged]
    parts.append(b"COMMIT\n%breceipt:%d\n\n\0" % (name, number))
    return b"".join(parts), 1
