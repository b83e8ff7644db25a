"""Translates refusals of an AMQP server and failures of the network into Celeriac's errors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from celeriac.drivers.amqp.address import Address
from celeriac.drivers.amqp.frames import Publication
from celeriac.drivers.sockets import distrust
from celeriac.errors import AccessRefused, BrokerError, BrokerMisconfigured, BrokerUnavailable

__all__ = ["MISSING", "ChannelClosed", "ConnectionLost", "NoConfirms", "Refused", "RightsMissing", "channel_closed",
           "closed", "ended", "unavailable"]  # fmt: skip

FORBIDDEN = 403
MISSING = 404  # the code of a queue or exchange that does not exist


class ConnectionLost(ConnectionError):
    """The connection ended; what was being sent may or may not have arrived."""


class NoConfirms(ConnectionLost):
    """The server has ended a connection because it was asked for publisher confirms."""


class ChannelClosed(BrokerError):
    """The server has closed a channel."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(f"RabbitMQ refused a request: {text} ({code}).{_step(code, text)}")
        self.code = code
        self.text = text
        self.shared = False  # by several callers whose publications were being sent: any of them may be the cause

    @property
    def passes(self) -> bool:
        """Whether a retry may succeed: a node that has just started does not have all its queues yet."""
        return "inaccessible" in self.text or self.code in (506, 541)

    @property
    def too_large(self) -> bool:
        """Whether a message is larger than the server accepts."""
        return self.code == 406 and "larger than" in self.text


class RightsMissing(ChannelClosed, AccessRefused):
    """The server has closed a channel because its user lacks a permission."""


class Refused(ChannelClosed):
    """The server has refused messages: their queue is being created, or is full, or its node has failed."""

    def __init__(self, refused: int, total: int, left: Sequence[Publication]) -> None:
        super().__init__(0, f"{refused} of {total} messages were not accepted. Check for a full queue or a failed node")
        self.left = left  # still to be sent: the server has the others

    @property
    def passes(self) -> bool:
        """Whether a retry may succeed: it may, until the time-out."""
        return True


def channel_closed(code: int, text: str) -> ChannelClosed:
    """Return the error for a `channel.close` of the server. A queue in exclusive use has the code of missing rights."""
    return (RightsMissing if code == FORBIDDEN and "exclusive" not in text else ChannelClosed)(code, text)


def _step(code: int, text: str) -> str:
    if code == 406 and "timed out" in text:
        return (" A task ran longer than the server's `consumer_timeout` (30 minutes by default), so the server took "
                "the message back. Raise it in rabbitmq.conf: consumer_timeout = 86400000")  # fmt: skip
    if code == 406 and "inequivalent" in text:
        return (" The queue was declared by another program, or with another `amqp_queue_type`. Empty and delete it, "
                "or choose another name or `amqp_prefix`.")  # fmt: skip
    if code == 406 and "larger than" in text:
        return (" Send less, or send a reference (to a file, a row), or raise the limit in rabbitmq.conf: "
                "max_message_size = 134217728")  # fmt: skip
    if code == FORBIDDEN:
        return (" Give the user the permissions of its role (docs/security.md), or all: "
                "rabbitmqctl set_permissions -p VHOST USER '.*' '.*' '.*'")  # fmt: skip
    return ""


def ended(close: Any) -> ConnectionLost:
    """Return the error for a `connection.close` on an open connection: a retry may succeed."""
    return ConnectionLost(f"the server closed the connection: {close.reply_text} ({close.reply_code})")


def closed(close: Any, address: Address) -> BrokerUnavailable:
    """Return the error for a `connection.close` while the connection is opened."""
    code, text = close.reply_code, close.reply_text
    if code == FORBIDDEN:
        return BrokerMisconfigured(f"RabbitMQ at {address} refuses the user {address.username!r}: wrong name or "
                                   f"password, or no permission to connect ({text}).")  # fmt: skip
    if code == 530:
        return BrokerMisconfigured(f"RabbitMQ at {address} refuses the vhost {address.vhost!r} ({text}). Create it: "
                                   f"rabbitmqctl add_vhost '{address.vhost}', and give {address.username!r} "
                                   "permissions there.")  # fmt: skip
    return BrokerUnavailable(f"RabbitMQ at {address} closed the connection: {text} ({code}).")


def unavailable(error: BaseException, address: Address, timeout: float, blocked: str = "") -> BrokerUnavailable:
    """Return the error for a server that cannot be reached, does not answer, or is `blocked`, for this reason."""
    if isinstance(error, BrokerUnavailable):
        return error
    if distrusted := distrust(error, f"RabbitMQ at {address}", "amqps://"):
        return BrokerMisconfigured(distrusted)
    if blocked:
        return BrokerUnavailable(f"RabbitMQ at {address} accepts no messages at present: {blocked}. Give it more "
                                 "memory or disk, or let workers catch up: rabbitmq-diagnostics alarms")  # fmt: skip
    if isinstance(error, TimeoutError):
        return BrokerUnavailable(f"RabbitMQ at {address} did not answer within {timeout:g} s "
                                 "(`broker_publish_timeout`).")  # fmt: skip
    return BrokerUnavailable(f"RabbitMQ at {address} cannot be reached: {error}. Is it running? "
                             f"On {address.hosts[0][0]}: `rabbitmq-diagnostics ping`")  # fmt: skip
