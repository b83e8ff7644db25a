"""Translates refusals of a STOMP server and failures of the network into Celeriac's errors."""

from __future__ import annotations

from celeriac.drivers.server_errors import DECLARED_OTHERWISE, RequestRefused
from celeriac.drivers.stomp.address import Address
from celeriac.errors import AccessRefused, BrokerMisconfigured, BrokerUnavailable

__all__ = ["MANY", "Refused", "RightsMissing", "not_opened", "refused"]

RIGHTS = ("not authorized", "access refused", "access_refused", "permission")
TOO_LARGE = ("frame size", "max frame", "maximum data length", "too large", "larger than")
MANY = 300  # characters of a server's text that are shown


class Refused(RequestRefused):
    """The server has refused a request, and ended the connection."""

    def __init__(self, text: str) -> None:
        super().__init__(f"The STOMP server refused a request: {text}.{_step(text)}")
        self.too_large = any(words in text.lower() for words in TOO_LARGE)


class RightsMissing(Refused, AccessRefused):
    """The server has refused a request because its user lacks a permission."""


def refused(message: str, body: bytes) -> Refused:
    """Return the error for an ERROR frame."""
    text = _text(message, body)
    return (RightsMissing if any(words in text.lower() for words in RIGHTS) else Refused)(text)


def _text(message: str, body: bytes) -> str:
    """Return what an ERROR frame says in one line, without the stack trace of the server."""
    lines = body.decode(errors="replace").strip("\0\n\r\t ").splitlines()
    detail = lines[0] if lines else ""
    text = message if not detail or message in detail or detail in message else f"{message}: {detail}"
    return (text if len(text) <= MANY else f"{text[:MANY]}…").rstrip(".")


def _step(text: str) -> str:
    low = text.lower()
    if any(words in low for words in TOO_LARGE):
        return (" Send less, or send a reference (to a file, a row), or raise the limit of frames on the server "
                "(docs/brokers-stomp.md).")  # fmt: skip
    if any(words in low for words in RIGHTS):
        return " Give the user the permissions that docs/brokers-stomp.md lists."
    if "inequivalent arg" in low:
        return DECLARED_OTHERWISE
    return ""


def not_opened(message: str, body: bytes, address: Address) -> BrokerUnavailable:
    """Return the error for an ERROR frame that answers CONNECT."""
    text = _text(message, body)
    low = text.lower()
    if "virtual host" in low or "vhost" in low:
        return BrokerMisconfigured(f"The STOMP server at {address} refuses the virtual host {address.vhost!r} "
                                   f"({text}). Name another one: stomp://host/virtual-host")  # fmt: skip
    if any(words in low for words in (*RIGHTS, "password", "credential", "authentication", "login", "bad connect")):
        return BrokerMisconfigured(f"The STOMP server at {address} refuses the user {address.username!r}: wrong name "
                                   f"or password, or no permission to connect ({text}).")  # fmt: skip
    return BrokerUnavailable(f"The STOMP server at {address} refused the connection: {text}.")
