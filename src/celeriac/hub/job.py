"""A job: a request that the hub carries out, and its answer once there is one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from celeriac.drivers.zmq.frames import Request

if TYPE_CHECKING:
    from celeriac.hub.sessions import Session

__all__ = ["Job"]


class Job:
    """One request."""

    __slots__ = ("arguments", "body", "client", "identity", "is_answered", "kind", "number", "repeated", "request",
                 "session", "verb")  # fmt: skip

    def __init__(self, identity: bytes, client: str, session: Session, request: Request) -> None:
        self.identity = identity  # of the connection that its answer goes to
        self.client = client
        self.session = session
        self.request = request
        self.number = request.number
        self.verb = request.verb
        self.repeated = request.repeated
        self.arguments: tuple[Any, ...] = ()
        self.is_answered = False
        self.kind = ""  # the name of an error
        self.body: Any = None  # the result, or the text of the error

    def answer(self, body: Any, kind: str = "") -> None:
        """Set the answer."""
        self.is_answered, self.body, self.kind = True, body, kind
