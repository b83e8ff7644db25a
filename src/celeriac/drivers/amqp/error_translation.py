"""What an AMQP server refuses, and what the network does, become our errors here, and nowhere else."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from celeriac.drivers.amqp.address import Address
from celeriac.drivers.amqp.frames import Publication
from celeriac.errors import BrokerError, BrokerMisconfigured, BrokerUnavailable

__all__ = ["MISSING", "ChannelClosed", "ConnectionLost", "NoConfirms", "Refused", "closed", "ended",
           "unavailable"]  # fmt: skip

MISSING = 404  # the code of a queue or exchange that does not exist


class ConnectionLost(ConnectionError):
    """The connection ended; what was on its way may have arrived, or not."""


class NoConfirms(ConnectionLost):
    """The server has ended a connection because it was asked whether it confirms what is published."""


class ChannelClosed(BrokerError):
    """The server has closed a channel, and says why."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(f"RabbitMQ refuses: {text} ({code}).{_step(code, text)}")
        self.code = code
        self.text = text
        self.shared = False  # publications of several callers were on their way: it need not be about ours

    @property
    def passes(self) -> bool:
        """Whether it passes by itself: a node that has just started does not have all its queues yet."""
        return "inaccessible" in self.text or self.code in (506, 541)

    @property
    def too_large(self) -> bool:
        """Whether a message is larger than the server takes."""
        return self.code == 406 and "larger than" in self.text


class Refused(ChannelClosed):
    """The server has not taken messages: their queue is just being made, or full, or its node has failed."""

    def __init__(self, refused: int, total: int, left: Sequence[Publication]) -> None:
        super().__init__(0, f"it has not taken {refused} of {total} messages. Is a queue full, or has its node failed?")
        self.left = left  # what is still to be sent: the others are there

    @property
    def passes(self) -> bool:
        """It may: worth asking again until the time-out."""
        return True


def _step(code: int, text: str) -> str:
    if code == 406 and "timed out" in text:
        return (" A task ran longer than the server's `consumer_timeout` (30 minutes by default), and it took the "
                "message back. Raise it in rabbitmq.conf: consumer_timeout = 86400000")  # fmt: skip
    if code == 406 and "inequivalent" in text:
        return (" The queue was declared by somebody else, or with another `amqp_queue_type`. Empty and delete it, or "
                "choose another name or `amqp_prefix`.")  # fmt: skip
    if code == 406 and "larger than" in text:
        return (" Send less, or where it lies (a file, a row), or raise it in rabbitmq.conf: "
                "max_message_size = 134217728")  # fmt: skip
    if code == 403:
        return " Give the user the permissions: rabbitmqctl set_permissions -p VHOST USER '.*' '.*' '.*'"
    return ""


def ended(close: Any) -> ConnectionLost:
    """Return what the server's `connection.close` means on a connection that stood: it may be tried again."""
    return ConnectionLost(f"it has closed the connection: {close.reply_text} ({close.reply_code})")


def closed(close: Any, address: Address) -> BrokerUnavailable:
    """Return the error that a `connection.close` of the server's means."""
    code, text = close.reply_code, close.reply_text
    if code == 403:
        return BrokerMisconfigured(f"RabbitMQ at {address} refuses the user {address.username!r}: wrong name or "
                                   f"password, or no right to connect ({text}).")  # fmt: skip
    if code == 530:
        return BrokerMisconfigured(f"RabbitMQ at {address} refuses the vhost {address.vhost!r} ({text}). Create it: "
                                   f"rabbitmqctl add_vhost '{address.vhost}', and give {address.username!r} "
                                   "permissions there.")  # fmt: skip
    return BrokerUnavailable(f"RabbitMQ at {address} has closed the connection: {text} ({code}).")


def unavailable(error: BaseException, address: Address, timeout: float, blocked: str = "") -> BrokerUnavailable:
    """Return the error for a server that cannot be reached, or does not answer."""
    if isinstance(error, BrokerUnavailable):
        return error
    if blocked:
        return BrokerUnavailable(f"RabbitMQ at {address} takes no messages for now: {blocked}. Give it memory or disk, "
                                 "or let workers catch up: rabbitmq-diagnostics alarms")  # fmt: skip
    if isinstance(error, TimeoutError):
        return BrokerUnavailable(f"RabbitMQ at {address} did not answer within {timeout:g} s "
                                 "(`broker_publish_timeout`).")  # fmt: skip
    return BrokerUnavailable(f"RabbitMQ at {address} cannot be reached: {error}. Is it running? "
                             f"On {address.hosts[0][0]}: `rabbitmq-diagnostics ping`")  # fmt: skip
