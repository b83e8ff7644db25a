"""What servers do in their own ways: the names of headers, and what they can do besides STOMP 1.2. Pure.

STOMP leaves to the server what a destination means, how a window is set, and what a transaction covers.
"""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import quote

import msgspec

from celeriac.drivers.stomp.address import Address
from celeriac.drivers.stomp.error_translation import MANY
from celeriac.drivers.stomp.frames import Frame
from celeriac.errors import BrokerMisconfigured

__all__ = ["ACTIVEMQ", "RABBITMQ", "Dialect", "dialect_of"]


class Dialect(msgspec.Struct, frozen=True, kw_only=True):
    """A kind of server."""

    product: str
    window: str  # header of SUBSCRIBE: how many messages may be unacknowledged
    in_turn: Mapping[str, str]  # headers of SUBSCRIBE: one subscriber gets all messages, and after it the next one
    of_lines: Mapping[str, str] = {}  # headers of SEND and SUBSCRIBE that declare a line
    of_journal: Mapping[str, str] = {}  # likewise, the journal
    atomic: bool = False  # a transaction sends and acknowledges in one step, and its receipt means that this is done
    browses: bool = False  # shows messages without taking them, acknowledged ones excepted
    takes_back: bool = False  # puts back what a subscription had and was not acknowledged, when that ends
    rank: str = ""  # header of SUBSCRIBE: subscriptions of a higher one get messages first
    schedules: bool = False  # keeps messages until they are due
    escapes: bool = False  # names of queues are percent-encoded
    has_vhosts: bool = False
    begins: str = ""  # names, on a server without virtual hosts: the URL's path, and a dot

    def queue(self, name: str) -> str:
        """Return the destination of a queue."""
        return f"/queue/{quote(name, safe=' ') if self.escapes else self.begins + name}"

    def existing(self, name: str) -> str:
        """Return the destination of a queue that is not declared if it is missing, where the server can do that."""
        return f"/amq/queue/{quote(name, safe=' ')}" if self.escapes else self.queue(name)

    def subscribing(self, size: int, before: int) -> dict[str, str]:
        """Return the headers of a subscription's size, and of its rank behind so many others of the same reader.

        Where several readers have room, each gets one message before any of them gets two, then two before four.
        """
        ranked = {self.rank: str(-before.bit_length())} if self.rank else {}
        return {self.window: str(size), **ranked}

    def expiry(self, at: float) -> dict[str, str]:
        """Return the headers of a message that the server may drop at an instant."""
        return {"expires": str(int(at * 1000))} if self.browses else {}

    def of_replies(self, unread: float) -> dict[str, str]:
        """Return the headers that declare a queue which the server deletes after so many seconds without a reader."""
        return {"x-expires": str(int(unread * 1000))} if self.escapes else {}

    def topic(self, name: str) -> str:
        """Return the destination of what all present subscribers get."""
        return f"/topic/{self.begins}{name}"


ACTIVEMQ = Dialect(
    product="ActiveMQ", window="activemq.prefetchSize", in_turn={"activemq.exclusive": "true"}, atomic=True,
    browses=True, takes_back=True, rank="activemq.priority", schedules=True,
)  # fmt: skip
RABBITMQ = Dialect(
    product="RabbitMQ", window="prefetch-count", in_turn={}, of_lines={"x-max-priority": "9"},
    of_journal={"x-single-active-consumer": "true"}, escapes=True, has_vhosts=True,
)  # fmt: skip
BY_NAME = {dialect.product: dialect for dialect in (ACTIVEMQ, RABBITMQ)}


def dialect_of(connected: Frame, address: Address) -> Dialect:
    """Return the dialect of a server, as it says who it is. Raises `BrokerMisconfigured` for others."""
    server, version = (connected.headers.get(name, "")[:MANY] for name in ("server", "version"))
    if version != "1.2":
        raise BrokerMisconfigured(f"The server at {address} speaks STOMP {version or '1.0'}, and Celeriac needs 1.2.")
    found = BY_NAME.get(server.partition("/")[0])
    if found is None:
        raise BrokerMisconfigured(f"The STOMP server at {address} is {server or 'one without a name'}. Celeriac works "
                                  f"with {' and '.join(BY_NAME)}; others do things in other ways.")
    if found.has_vhosts or address.vhost == "/":
        return found
    return msgspec.structs.replace(found, begins=f"{address.vhost}.")
