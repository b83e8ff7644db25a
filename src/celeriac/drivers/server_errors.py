"""How requests to message servers end badly: what AMQP 0-9-1, AMQP 1.0 and STOMP have in common of it.

Each driver's `error_translation.py` derives its refusals from `RequestRefused`, and reads what its server says.
"""

from __future__ import annotations

from celeriac.errors import BrokerError

__all__ = ["DECLARED_OTHERWISE", "ConnectionLost", "RequestRefused"]

DECLARED_OTHERWISE = (
    " The queue was declared by another program, or by Celeriac in another way: amqp://, amqp10:// and stomp:// "
    "declare queues differently. Let its workers empty it, and delete it, or use another virtual host "
    "(docs/brokers-amqp10.md)."
)  # what to do about a queue with other properties


class ConnectionLost(ConnectionError):
    """The connection ended; what was being sent may or may not have arrived."""


class RequestRefused(BrokerError):
    """The server has refused a request. A procedure that made it may handle that."""

    too_large = False  # whether a message is larger than the server accepts
    shared = False  # by several callers whose requests were under way: any of them may be the cause
