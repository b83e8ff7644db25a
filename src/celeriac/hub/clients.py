"""Who may come in, and who is there.

With CURVE, libzmq asks whether a key may come in (ZAP, RFC 27), by a request on a socket inside the process; the answer
gives the connection its key, and the name of its client. Whoever's key is taken away meanwhile, or replaced, is told at
once, if the hub holds a request of its, else at its next request, and no connection with that key is let in any more.
Without CURVE, everybody comes in, and has no name.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Final

import zmq
import zmq.utils.z85 as z85

from celeriac.drivers.zmq.verbs import Client as ClientInfo
from celeriac.hub.keys import ClientKeys

__all__ = ["ZAP", "Clients", "Peer"]

log = logging.getLogger("celeriac.hub")

ZAP: Final = "inproc://zeromq.zap.01"
KNOWN: Final = 20_000  # connections
NAMELESS: Final = "(anybody)"


class Peer:
    """A connection."""

    __slots__ = ("address", "is_shut_out", "key", "name", "requests", "seen_at", "since")

    def __init__(self, key: bytes, name: str, address: str, now: float) -> None:
        self.key = key
        self.name = name
        self.address = address
        self.since = self.seen_at = now
        self.requests = 0
        self.is_shut_out = False


class Clients:
    """The connections of all clients."""

    def __init__(self, keys: ClientKeys | None) -> None:
        self.keys = keys
        self.peers: dict[bytes, Peer] = {}  # by the identity that the ROUTER has given
        self.shut_out: list[bytes] = []  # connections whose requests are still to be refused
        self._refused: set[bytes] = set()

    def known(self, identity: bytes) -> Peer | None:
        """Return a connection that has said something before."""
        return self.peers.get(identity)

    def meet(self, identity: bytes, frame: zmq.Frame, now: float) -> Peer | None:
        """Return a new connection; None if it has chosen its identity itself, which could be another's."""
        if identity[:1] != b"\0":
            return None
        key, name = b"", NAMELESS
        if self.keys is not None:
            of, _, name = _property(frame, "User-Id").partition(" ")
            key = of.encode()
        if len(self.peers) >= KNOWN:
            del self.peers[next(iter(self.peers))]  # it is met again
        peer = self.peers[identity] = Peer(key, name, _property(frame, "Peer-Address"), now)
        peer.is_shut_out = self.keys is not None and self.keys.names.get(key) != name
        return peer

    def forget(self, identity: bytes) -> None:
        """Note that a connection is gone."""
        self.peers.pop(identity, None)

    def reread(self) -> None:
        """Look which keys there are."""
        if self.keys is None:
            return
        before = self.keys.names.items()
        if not self.keys.reread():
            return
        self._refused.clear()
        after = self.keys.names.items()
        for identity, peer in self.peers.items():
            peer.is_shut_out = (peer.key, peer.name) not in after
            if peer.is_shut_out:
                self.shut_out.append(identity)
        if gone := sorted(name for _, name in before - after):
            log.warning("These clients are shut out, or the keys that they had: %s", ", ".join(gone))
        if new := sorted(name for _, name in after - before):
            log.info("These clients are let in: %s", ", ".join(new))

    def answer(self, parts: Sequence[bytes]) -> list[bytes]:
        """Return the answer to a request of ZAP."""
        version, number = (*parts, b"", b"")[:2]
        if self.keys is None or version != b"1.0" or len(parts) != 7 or parts[5] != b"CURVE":
            return [b"1.0", number, b"400", b"CURVE is needed", b"", b""]
        self.reread()
        key = z85.encode(parts[6])
        name = self.keys.names.get(key)
        if name is None:
            if key not in self._refused:
                self._refused.add(key)
                log.warning("A client at %s was not let in: its key %s is not known", parts[3].decode(errors="replace"),
                            key.decode())  # fmt: skip
            return [b"1.0", number, b"400", b"the key is not known", b"", b""]
        return [b"1.0", number, b"200", b"", key + b" " + name.encode(), b""]

    def infos(self, sessions: dict[str, int], leases: dict[str, int]) -> list[ClientInfo]:
        """Return those that are there, by their names and addresses."""
        found: dict[tuple[str, str], list[Peer]] = {}
        for peer in self.peers.values():
            found.setdefault((peer.name, peer.address), []).append(peer)
        return [
            ClientInfo(name=name, address=address, since=min(peer.since for peer in peers),
                       seen_at=max(peer.seen_at for peer in peers), sessions=sessions.get(name, 0),
                       requests=sum(peer.requests for peer in peers), workers=leases.get(name, 0))
            for (name, address), peers in sorted(found.items())
        ]  # fmt: skip


def _property(frame: zmq.Frame, name: str) -> str:
    """Return what libzmq knows of the connection of a frame; "" for what it does not, as of one that broke at once."""
    try:
        return str(frame.get(name))
    except (zmq.ZMQError, UnicodeDecodeError):
        return ""
