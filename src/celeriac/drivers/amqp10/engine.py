"""A connection by proton's engine, without I/O: bytes go in and out, links call back.

Sessions and links are in `links.py`.
"""

from __future__ import annotations

from typing import Any

import cproton as pn
from proton import Data, ProtonException, symbol

from celeriac.drivers.amqp10.error_translation import Closed
from celeriac.drivers.amqp10.flows import Frames
from celeriac.drivers.amqp10.links import Link, Session, refusal_of
from celeriac.drivers.server_errors import ConnectionLost

__all__ = ["Engine"]

LARGEST_FRAME = 131072


class Engine:
    """The protocol of one connection."""

    def __init__(self, container: str, hostname: str, mechanism: str, username: str, password: str,
                 idle: float) -> None:  # fmt: skip
        """`idle`: seconds without a sign of life, after which the connection is lost."""
        self.opened = False
        self.lost: Exception | None = None
        self._connection, self._transport = pn.pn_connection(), pn.pn_transport()
        self._collector = pn.pn_collector()
        self._frames = Frames(LARGEST_FRAME)
        self.available: int | None = None  # told by the flow that is handled
        self._sessions: dict[Any, Session] = {}
        self.links: dict[Any, Link] = {}
        pn.pn_connection_collect(self._connection, self._collector)
        pn.pn_connection_set_container(self._connection, container)
        if hostname:
            pn.pn_connection_set_hostname(self._connection, hostname)
        Data(pn.pn_connection_properties(self._connection)).put_object({symbol("product"): "celeriac"})
        pn.pn_transport_set_max_frame(self._transport, LARGEST_FRAME)
        pn.pn_transport_set_idle_timeout(self._transport, int(idle * 1000))
        sasl = pn.pn_sasl(self._transport)
        pn.pn_sasl_allowed_mechs(sasl, mechanism)
        pn.pn_sasl_set_allow_insecure_mechs(sasl, True)
        if username:
            pn.pn_connection_set_user(self._connection, username)
            pn.pn_connection_set_password(self._connection, password)
        pn.pn_transport_bind(self._transport, self._connection)
        pn.pn_connection_open(self._connection)

    def __del__(self) -> None:
        if hasattr(self, "_collector"):
            pn.pn_transport_unbind(self._transport)
            pn.pn_connection_collect(self._connection, pn.ffi.NULL)
            pn.pn_collector_free(self._collector)
            pn.pn_connection_release(self._connection)
            pn.pn_decref(self._connection)  # ours: without this, it keeps all deliveries that were ever made
            pn.pn_decref(self._transport)

    # --- Bytes ----------------------------------------------------------------------------------------

    def receive(self, data: bytes) -> None:
        """Take bytes of the server; empty: it has closed the connection. Calls back whomever they concern."""
        if not data:
            pn.pn_transport_close_tail(self._transport)
            self._dispatch()
            self._lose(ConnectionLost("the server closed the connection"))
        for part, available in self._frames.split(data):
            self.available = available
            while part and self.lost is None:
                taken = pn.pn_transport_push(self._transport, part)
                self._dispatch()
                if taken <= 0:
                    self._lose(ConnectionLost("the server sent what is no AMQP 1.0"))
                part = part[taken:]

    def output(self) -> bytes:
        """Return the bytes to be sent."""
        parts: list[bytes] = []
        while (size := pn.pn_transport_pending(self._transport)) > 0:
            parts.append(pn.pn_transport_peek(self._transport, size)[1])
            pn.pn_transport_pop(self._transport, len(parts[-1]))
        self._dispatch()
        return b"".join(parts)

    def tick(self, now: float) -> float:
        """Note the time (monotonic, seconds); return when to do so again: 0 for never."""
        following: int = pn.pn_transport_tick(self._transport, int(now * 1000))
        self._dispatch()
        return following / 1000

    # --- What the server has said ---------------------------------------------------------------------

    @property
    def properties(self) -> dict[str, Any]:
        """The server's properties."""
        found: Any = _object(pn.pn_connection_remote_properties(self._connection))
        return {str(key): value for key, value in found.items()} if isinstance(found, dict) else {}

    @property
    def capabilities(self) -> frozenset[str]:
        """The extensions that the server offers."""
        found: Any = _object(pn.pn_connection_remote_offered_capabilities(self._connection))
        return frozenset([str(found)] if isinstance(found, str) else map(str, getattr(found, "elements", ())))

    def _dispatch(self) -> None:
        collector, links = self._collector, self.links
        while event := pn.pn_collector_peek(collector):
            kind = pn.pn_event_type(event)
            if kind == pn.PN_DELIVERY:
                delivery = pn.pn_event_delivery(event)
                link = links.get(pn.pn_delivery_link(delivery))
                if link is not None:
                    link.delivery(delivery)
            elif kind in (pn.PN_LINK_REMOTE_OPEN, pn.PN_LINK_REMOTE_CLOSE, pn.PN_LINK_REMOTE_DETACH, pn.PN_LINK_FLOW):
                link = links.get(pn.pn_event_link(event))
                if link is not None:
                    link.event(kind)
            elif kind == pn.PN_SESSION_REMOTE_CLOSE:
                session = self._sessions.get(pn.pn_event_session(event))
                if session is not None:
                    session.ended(refusal_of(pn.pn_session_remote_condition(session.impl)))
            elif kind == pn.PN_CONNECTION_REMOTE_OPEN:
                self.opened = True
            elif kind == pn.PN_CONNECTION_REMOTE_CLOSE:
                why = refusal_of(pn.pn_connection_remote_condition(self._connection))
                self._lose(Closed(why.condition, why.text) if why is not None else
                          ConnectionLost("the server closed the connection"))  # fmt: skip
            elif kind == pn.PN_TRANSPORT_ERROR:
                self._lose(refusal_of(pn.pn_transport_condition(self._transport)) or ConnectionLost())
            pn.pn_collector_pop(collector)

    def _lose(self, error: Exception) -> None:
        """Note why the connection has ended; whoever has made the engine calls `end`."""
        self.lost = self.lost or error

    def end(self, error: Exception) -> None:
        """End all links."""
        self._lose(error)
        for session in list(self._sessions.values()):
            session.ended(error)

    # --- What this side does --------------------------------------------------------------------------

    def session(self) -> Session:
        """Begin a session."""
        impl = pn.pn_session(self._connection)
        pn.pn_session_open(impl)
        session = self._sessions[impl] = Session(self, impl)
        return session

    def forget(self, session: Session) -> bool:
        """Forget a session that has ended; False if it was forgotten before."""
        for link in session.links:
            self.links.pop(link.impl, None)
        return self._sessions.pop(session.impl, None) is not None

    def close(self) -> None:
        """End the connection as the protocol demands."""
        pn.pn_connection_close(self._connection)


def _object(data: Any) -> object:
    """Return a value; None for one that proton cannot make an object of."""
    found = Data(data)
    found.rewind()
    try:
        return found.get_object() if found.next() is not None else None
    except (ProtonException, ValueError, TypeError, KeyError, RecursionError):
        return None
