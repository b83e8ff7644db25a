"""Tokens of remote workers: what a broker's token says, and where its message is, so that any process can find it."""

from __future__ import annotations

from urllib.parse import quote, unquote

from celeriac.ports.broker import Claim, Delivery

__all__ = ["claim_of", "message_of", "token_of"]


def token_of(delivery: Delivery) -> str:
    """Return the token of a delivery as a client gets it."""
    message = delivery.message
    return f"{delivery.token}~{quote(message.queue, safe='')}~{quote(message.id, safe='')}"


def claim_of(token: str) -> Claim | None:
    """Return what a client's token claims; None if it is no token."""
    parts = token.split("~")
    return Claim(parts[0], unquote(parts[1]), unquote(parts[2])) if len(parts) == 3 else None


def message_of(token: str) -> str | None:
    """Return the id of the message that a token is for, as far as it says; None if it is no token."""
    claim = claim_of(token)
    return claim.id if claim is not None else None
