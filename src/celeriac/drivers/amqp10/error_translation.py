"""Translates refusals of an AMQP 1.0 server and failures of the network into Celeriac's errors."""

from __future__ import annotations

from celeriac.drivers.amqp10.address import Address
from celeriac.drivers.server_errors import DECLARED_OTHERWISE, ConnectionLost, RequestRefused
from celeriac.errors import AccessRefused, BrokerMisconfigured

__all__ = ["FAULT", "Closed", "Refusal", "Refused", "RightsMissing", "misconfigured", "opening_failed", "refused"]

FAULT = "amqp:internal-error"  # of the server itself: the next connection may not meet it
UNAUTHORIZED = "amqp:unauthorized-access"
DELETED = "amqp:resource-deleted"
MISSING = ("amqp:not-found", DELETED, "amqp:link:detach-forced")
TOO_LARGE = ("amqp:link:message-size-exceeded", "amqp:frame-size-too-small")


class Refusal(ConnectionLost):
    """The server has said why it ended a link, a session or the connection."""

    def __init__(self, condition: str, text: str) -> None:
        super().__init__(f"{text} ({condition})" if text else condition)
        self.condition = condition
        self.text = text


class Closed(Refusal):
    """The server has ended the connection, and said why."""


class Refused(RequestRefused):
    """The server has refused a link, or a message."""

    def __init__(self, what: str, refusal: Exception) -> None:
        condition = getattr(refusal, "condition", "")
        super().__init__(f"The server refused {what}: {refusal}.{_step(condition, str(refusal))}")
        self.condition: str = condition
        self.too_large = condition in TOO_LARGE

    @property
    def deleted(self) -> bool:
        """Whether the node is no more, nor what was in it."""
        return self.condition == DELETED

    @property
    def missing(self) -> bool:
        """Whether there is no such node (any more)."""
        return self.condition in MISSING


class RightsMissing(Refused, AccessRefused):
    """The server has refused a link because its user lacks a permission."""


def refused(what: str, refusal: Exception) -> Refused:
    """Return the error for a refusal of a link or a message."""
    return (RightsMissing if getattr(refusal, "condition", "") == UNAUTHORIZED else Refused)(what, refusal)


def _step(condition: str, text: str) -> str:
    if "inequivalent arg" in text:
        return DECLARED_OTHERWISE
    if condition == UNAUTHORIZED:
        return (" Give the user the right to use this address, to create it, to send to it and to receive from it "
                "(docs/brokers-amqp10.md).")  # fmt: skip
    if condition in MISSING:
        return (" Create the queue, or let the server create queues that are asked for (docs/brokers-amqp10.md says "
                "how).")  # fmt: skip
    if condition in TOO_LARGE:
        return " Send less, or send a reference (to a file, a row), or raise the server's limit."
    return ""


def opening_failed(error: Exception, address: Address) -> Exception:
    """Return the error for a connection that the server has ended before it was open."""
    if not isinstance(error, Refusal):
        return error
    if error.condition == UNAUTHORIZED and "mech=" in error.text:  # these are proton's words
        named = f"the user {address.username!r}: wrong name or password"
        who = named if address.username else "a client without a user"
        return BrokerMisconfigured(f"The AMQP 1.0 server at {address} refuses {who}, or does not offer SASL "
                                   f"{address.mechanism} ({error.text}). Name both in the URL: "
                                   "amqp10://user:password@host")  # fmt: skip
    if isinstance(error, Closed) and error.condition in (UNAUTHORIZED, "amqp:not-found", "amqp:not-allowed"):
        return BrokerMisconfigured(f"The AMQP 1.0 server at {address} refuses the connection: {error}. Check the "
                                   f"virtual host in the URL, and that the user may use it: {address.username!r}.")
    if "header mismatch" in error.text:
        return BrokerMisconfigured(f"The server at {address} does not speak AMQP 1.0: {error.text}. Check the port, "
                                   "and that AMQP 1.0 is switched on there.")  # fmt: skip
    return error


def misconfigured(error: BaseException, address: Address) -> BrokerMisconfigured | None:
    """Return the error for an end of an open connection that connecting again would not help; None for others."""
    if isinstance(error, Closed) and isinstance(why := opening_failed(error, address), BrokerMisconfigured):
        return why
    if isinstance(error, Refusal) and error.condition == UNAUTHORIZED:
        return BrokerMisconfigured(f"The AMQP 1.0 server at {address} refuses the user {address.username!r}: {error}. "
                                   "Check the virtual host in the URL, and that the user may use it.")  # fmt: skip
    return None
