"""Sockets of clients: a DEALER, and the monitor that tells of its connections. A context belongs to one process."""

from __future__ import annotations

import os
import struct
from enum import Enum
from typing import Any, Final

import zmq

from celeriac.drivers.zmq.address import Address
from celeriac.drivers.zmq.frames import LARGEST_FRAME
from celeriac.errors import ImproperlyConfigured

__all__ = ["Happening", "Line", "context"]

RECONNECT_MS: Final = (50, 1000)  # the first and the longest pause before it connects again
HEARTBEAT_MS: Final = (3000, 5000)  # how often it pings, and after how long a silent connection is given up
SILENT_MS: Final = 8000  # after this the hub gives it up, which does not ping by itself: idle workers would cost more
HANDSHAKE_MS: Final = 5000
HEARD: Final = (
    zmq.EVENT_HANDSHAKE_SUCCEEDED | zmq.EVENT_DISCONNECTED | zmq.EVENT_HANDSHAKE_FAILED_AUTH
)  # of the monitor's events

_contexts: dict[int, zmq.Context[Any]] = {}
"""By process. That of a parent is kept in a fork's child, which must neither use nor close it."""


def context() -> zmq.Context[Any]:
    """Return this process's context."""
    pid = os.getpid()
    if pid not in _contexts:
        _contexts[pid] = zmq.Context()
    return _contexts[pid]


class Happening(Enum):
    """What happens to a connection."""

    OPENED = "opened"
    LOST = "lost"
    REFUSED = "refused"  # the hub does not know the key


EVENTS: Final = {
    int(zmq.EVENT_HANDSHAKE_SUCCEEDED): Happening.OPENED,
    int(zmq.EVENT_DISCONNECTED): Happening.LOST,
    int(zmq.EVENT_HANDSHAKE_FAILED_AUTH): Happening.REFUSED,
}


class Line:
    """A DEALER that connects to a hub, again and again, and its monitor. Used by one thread at a time."""

    def __init__(self, address: Address) -> None:
        self._pid = os.getpid()
        self.connections = 0
        self.is_open = False
        socket = self.socket = context().socket(zmq.DEALER)
        try:
            for option, value in (
                (zmq.LINGER, 0), (zmq.IMMEDIATE, 1),  # nothing is queued for a hub that is away: see `Conversation`
                (zmq.RECONNECT_IVL, RECONNECT_MS[0]), (zmq.RECONNECT_IVL_MAX, RECONNECT_MS[1]),
                (zmq.HEARTBEAT_IVL, HEARTBEAT_MS[0]), (zmq.HEARTBEAT_TIMEOUT, HEARTBEAT_MS[1]),
                (zmq.HEARTBEAT_TTL, SILENT_MS),
                (zmq.HANDSHAKE_IVL, HANDSHAKE_MS), (zmq.IPV6, 1), (zmq.MAXMSGSIZE, LARGEST_FRAME),
            ):  # fmt: skip
                socket.setsockopt(option, value)
            if address.server_key:
                socket.setsockopt(zmq.CURVE_PUBLICKEY, address.public_key)
                socket.setsockopt(zmq.CURVE_SECRETKEY, address.secret_key)
                socket.setsockopt(zmq.CURVE_SERVERKEY, address.server_key)
        except BaseException:
            socket.close(0)
            raise
        self.monitor = socket.get_monitor_socket(HEARD)
        self.monitor.setsockopt(zmq.LINGER, 0)
        try:
            socket.connect(address.endpoint)
        except zmq.ZMQError as error:
            self.close()
            raise ImproperlyConfigured(f"{address} is no address of a hub: {error}. Write zmq://host:5557 or "
                                       "zmq+ipc:///path/to/socket.") from error  # fmt: skip

    def happenings(self) -> list[Happening]:
        """Return what has happened since the last call."""
        found: list[Happening] = []
        while True:
            try:
                parts = self.monitor.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return found
            happening = EVENTS.get(struct.unpack_from("=H", parts[0])[0])
            if happening is Happening.OPENED:
                self.connections += 1
            if happening is not None:
                self.is_open = happening is Happening.OPENED
                found.append(happening)

    def send(self, frame: bytes) -> bool:
        """Send a frame; return False if there is no connection, or too much is under way."""
        try:
            self.socket.send(frame, zmq.NOBLOCK)
        except zmq.Again:
            return False
        return True

    def wait(self, milliseconds: int) -> None:
        """Block until something happens to the connection, or for so long."""
        self.monitor.poll(milliseconds)

    def close(self) -> None:
        """Close the socket, unless it is a parent's. What was not sent is dropped."""
        if os.getpid() == self._pid and not self.socket.closed:
            self.socket.disable_monitor()
            self.monitor.close(0)
            self.socket.close(0)

    def __del__(self) -> None:
        if hasattr(self, "monitor"):
            self.close()
