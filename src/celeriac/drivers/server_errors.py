"""How requests to message servers end badly: what AMQP 0-9-1, AMQP 1.0 and STOMP have in common of it.

Each driver's `error_translation.py` derives its refusals from `RequestRefused`, and reads what its server says.
"""

from __future__ import annotations

from celeriac.errors import BrokerError

__all__ = ["ConnectionLost", "RequestRefused"]


class ConnectionLost(ConnectionError):
    """The connection ended; what was being sent may or may not have arrived."""


class RequestRefused(BrokerError):
    """The server has refused a request. A procedure that made it may handle that."""

    too_large = False  # whether a message is larger than the server accepts
    shared = False  # by several callers whose requests were under way: any of them may be the cause
