"""Translates refusals of an AMQP server and failures of the network into Celeriac's errors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from celeriac.drivers.amqp.address import Address
from celeriac.drivers.amqp.dialect import RABBITMQ, Dialect
from celeriac.drivers.amqp.frames import Publication
from celeriac.drivers.server_errors import DECLARED_OTHERWISE, ConnectionLost, RequestRefused
from celeriac.errors import AccessRefused, BrokerMisconfigured, BrokerUnavailable

__all__ = ["MISSING", "ChannelClosed", "NoConfirms", "Refused", "RightsMissing", "channel_closed", "closed", "ended"]

FORBIDDEN = 403
MISSING = 404  # the code of a queue or exchange that does not exist


class NoConfirms(ConnectionLost):
    """The server has ended a connection because it was asked for publisher confirms."""


class ChannelClosed(RequestRefused):
    """The server has closed a channel."""

    def __init__(self, code: int, text: str, dialect: Dialect = RABBITMQ) -> None:
        super().__init__(f"{dialect.product} refused a request: {text} ({code}).{_step(code, text, dialect)}")
        self.code = code
        self.text = text
        self.too_large = code == 406 and "larger than" in text

    @property
    def passes(self) -> bool:
        """Whether a retry may succeed: a node that has just started does not have all its queues yet."""
        return "inaccessible" in self.text or self.code in (506, 541)


class RightsMissing(ChannelClosed, AccessRefused):
    """The server has closed a channel because its user lacks a permission."""


class Refused(ChannelClosed):
    """The server has refused messages: their queue is being created, or is full, or its node has failed."""

    def __init__(self, refused: int, total: int, left: Sequence[Publication], dialect: Dialect) -> None:
        super().__init__(0, f"{refused} of {total} messages were not accepted. Check for a full queue or a failed node",
                         dialect)  # fmt: skip
        self.left = left  # still to be sent: the server has the others

    @property
    def passes(self) -> bool:
        """Whether a retry may succeed: it may, until the time-out."""
        return True


def channel_closed(code: int, text: str, dialect: Dialect) -> ChannelClosed:
    """Return the error for a `channel.close` of the server. A queue in exclusive use has the code of missing rights."""
    return (RightsMissing if code == FORBIDDEN and "exclusive" not in text else ChannelClosed)(code, text, dialect)


def _step(code: int, text: str, dialect: Dialect) -> str:
    if code == 406 and "timed out" in text:
        return (" A task ran longer than the server's `consumer_timeout` (30 minutes by default), so the server took "
                "the message back. Raise it in rabbitmq.conf: consumer_timeout = 86400000")  # fmt: skip
    if code == 406 and "inequivalent" in text:
        return (f"{DECLARED_OTHERWISE} If `amqp_queue_type` has changed, set it as it was, or choose another name or "
                "`amqp_prefix`.")  # fmt: skip
    if code == 406 and "larger than" in text:
        return (" Send less, or send a reference (to a file, a row), or raise the server's limit"
                + (dialect.advice(" in rabbitmq.conf: max_message_size = 134217728") or "."))  # fmt: skip
    if code == FORBIDDEN:
        return (" Give the user the permissions of its role (docs/security.md), or all"
                + (dialect.advice(": rabbitmqctl set_permissions -p VHOST USER '.*' '.*' '.*'") or "."))  # fmt: skip
    return ""


def ended(close: Any) -> ConnectionLost:
    """Return the error for a `connection.close` on an open connection: a retry may succeed."""
    return ConnectionLost(f"the server closed the connection: {close.reply_text} ({close.reply_code})")


def closed(close: Any, address: Address, dialect: Dialect) -> BrokerUnavailable:
    """Return the error for a `connection.close` while the connection is opened."""
    code, text, server = close.reply_code, close.reply_text, f"{dialect.product} at {address}"
    if code == FORBIDDEN:
        return BrokerMisconfigured(f"{server} refuses the user {address.username!r}: wrong name or "
                                   f"password, or no permission to connect ({text}).")  # fmt: skip
    if code == 530:
        command = dialect.advice(f": rabbitmqctl add_vhost '{address.vhost}'")
        return BrokerMisconfigured(f"{server} refuses the vhost {address.vhost!r} ({text}). Create it{command}, and "
                                   f"give {address.username!r} permissions there.")  # fmt: skip
    return BrokerUnavailable(f"{server} closed the connection: {text} ({code}).")
