"""A proxy to a broker that lies: what the server says to clients is changed, and nothing else.

A `Liar` knows the protocol: from what the server has sent, and what the client has asked,
it makes what is sent instead.
"""

from __future__ import annotations

import re
import socket
import threading
from collections.abc import Sequence
from random import Random
from typing import Protocol

from tests.fuzz.mutations import Mutator
from tests.proxies import Listening

__all__ = ["Liar", "LyingProxy", "StompLiar"]


class Liar(Protocol):
    """What lies in one protocol."""

    def heard(self, data: bytes) -> None:
        """Take note of what a client has sent."""

    def lie(self, said: bytes) -> bytes:
        """Return what is sent in place of what the server has said."""


class LyingProxy(Listening):
    """Passes all on, until it is told to lie; what it lies on is cut off, as a rule."""

    def __init__(self, port: int, liar: Liar, random: Random) -> None:
        self._to = port
        self._liar = liar
        self._random = random
        self._lies = 0  # that are left to tell
        self._after = 0  # what the server says before that, and is passed on
        self._lock = threading.Lock()
        self._open: set[socket.socket] = set()  # connections of clients
        self.told = 0
        super().__init__()

    def tell(self, lies: int, after: int = 0) -> None:
        """Lie so many times from now on, in place of what the server says next; pass on some of it before."""
        with self._lock:
            self._lies, self._after = lies, after

    def be_honest(self) -> None:
        """Lie no more, and end the connections that were lied on."""
        self.tell(0)
        self.cut()

    def cut(self) -> None:
        """End all connections that are open."""
        with self._lock:
            found = list(self._open)
        _end(*found)

    def interrupt(self) -> None:
        """Lie on all connections that are open, although the server has said nothing."""
        with self._lock:
            found = list(self._open)
        for one in found:
            self._lie(one, b"")

    def take(self, one: socket.socket) -> None:
        theirs = socket.create_connection(("127.0.0.1", self._to))
        with self._lock:
            self._open.add(one)
        threading.Thread(target=self._up, args=(one, theirs), daemon=True).start()
        threading.Thread(target=self._down, args=(theirs, one), daemon=True).start()

    def _up(self, one: socket.socket, theirs: socket.socket) -> None:
        try:
            while data := one.recv(65536):
                self._liar.heard(data)
                theirs.sendall(data)
        except OSError:
            pass
        finally:
            _end(one, theirs)

    def _down(self, theirs: socket.socket, one: socket.socket) -> None:
        try:
            while data := theirs.recv(65536):
                with self._lock:
                    is_lie, self._after = self._lies > 0 and not self._after, max(0, self._after - 1)
                    self._lies -= is_lie
                if is_lie:
                    self._lie(one, data)
                else:
                    one.sendall(data)
        except OSError:
            pass
        finally:
            with self._lock:
                self._open.discard(one)
            _end(one, theirs)
            one.close()
            theirs.close()

    def _lie(self, one: socket.socket, said: bytes) -> None:
        with self._lock:
            data = self._liar.lie(said)
            is_last = self._random.random() < 0.9
            self.told += 1
        try:
            one.sendall(data)
            if is_last:
                one.shutdown(socket.SHUT_WR)
        except OSError:
            pass

    def close(self) -> None:
        super().close()
        self.cut()


def _end(*sockets: socket.socket) -> None:
    for one in sockets:
        try:
            one.shutdown(socket.SHUT_RDWR)
        except OSError:
            continue


# --- STOMP --------------------------------------------------------------------------------------------


HEARTBEATS = (b"0,0", b"-1,5", b"1,1", b"9" * 5_000 + b",0", b"0," + b"9" * 400, b"\xd9\xa3,1", b"", b",",
              b"1,2,3,4", b"nan,inf")
VERSIONS = (b"1.2", b"1.1", b"", b"9" * 5_000, b"1.2\\n")
PRODUCTS = (b"ActiveMQ/5", b"RabbitMQ/3", b"ActiveMQ", b"", b"x" * 5_000, b"\\c\\x\\")
LENGTHS = (b"0", b"1", b"-1", b"x", b"99999", b"9" * 30, b"9" * 5_000, b"\xd9\xa3", b"\xc2\xb2", b" 5", b"5 ", b"",
           b"1e3", b"0x5")
VALUES = (b"", b"a", b"\\c", b"\\q", b"\\", b"\0", b"true", b"end", b"x" * 5_000, b"\xc3\xa9", b"\xff", b"a:b:c",
          b"\x1b[2J")
NAMES = (b"subscription", b"message-id", b"ack", b"destination", b"redelivered", b"browser", b"receipt-id", b"message",
         b"content-type", b"heart-beat", b"", b"x" * 300, b"worker", b"priority", b"expires")  # fmt: skip
WHOLE: Sequence[bytes] = (
    b"", b"\0", b"\n" * 50, b"\r\n\r\n", b"\0" * 50, b"x" * 70_000, b"MESSAGE\n\n", b"MESSAGE", b"\n\n\0",
    b"A\n\n\0" * 500,
    b"HTTP/1.1 400 Bad Request\r\nContent-Length: 5\r\n\r\nhello", b"\xff\xfe\n\n\0",
    b"MESSAGE\n" + b"a:b\n" * 20_000 + b"\n\0",
    b"MESSAGE\n\n" + b"x" * 300_000, b"ERROR\n\n\0", b"ERROR\nmessage:\\n\\c\x1b[2J\n\n\xff\xfe\0",
)  # fmt: skip
ASKED = re.compile(rb"\n(id|receipt):([^\n\0]{1,40})\n")


class StompLiar:
    """Lies in STOMP."""

    def __init__(self, seed: int) -> None:
        self._random = Random(seed)
        self._mutator = Mutator(seed)
        self._ids: list[bytes] = [b"s1"]
        self._receipts: list[bytes] = [b"1"]

    def heard(self, data: bytes) -> None:
        for kind, value in ASKED.findall(data):
            found = self._ids if kind == b"id" else self._receipts
            found.append(value)
            del found[:-20]

    def lie(self, said: bytes) -> bytes:
        choose = self._random.choice
        kind = self._random.randrange(6)
        if kind == 0 and said:
            return self._mutator.mutated(said)
        if kind == 1:
            return choose(WHOLE)
        if kind == 2:
            return b"CONNECTED\nversion:%b\nserver:%b\nheart-beat:%b\n\n\0" % (
                choose(VERSIONS), choose(PRODUCTS), choose(HEARTBEATS))  # fmt: skip
        parts = [self._frame() for _ in range(self._random.randint(1, 3))]
        made = b"".join(parts) if kind == 3 else said + b"".join(parts)
        return self._mutator.mutated(made) if self._random.random() < 0.2 else made

    def _frame(self) -> bytes:
        choose = self._random.choice
        command = choose((b"MESSAGE", b"MESSAGE", b"MESSAGE", b"RECEIPT", b"ERROR", b"CONNECTED", b"SEND", b"",
                         b"message"))
        items = [(b"subscription", choose(self._ids)), (b"receipt-id", choose(self._receipts)), (b"ack", b"1"),
                 (b"message-id", b"1")]  # fmt: skip
        items = [item for item in items if self._random.random() < 0.9]
        items += [(choose(NAMES), choose(VALUES)) for _ in range(self._random.randrange(3))]
        if self._random.random() < 0.2:
            items.append((b"browser", b"end"))
        body = choose((b"", b"x", b"\0\x85", b"\xff" * 20, b"{" * 500, b"a\0b"))
        if self._random.random() < 0.4:
            items.append((b"content-length", choose(LENGTHS)))
        elif self._random.random() < 0.7:
            items.append((b"content-length", b"%d" % len(body)))
        return command + b"\n" + b"".join([b"%b:%b\n" % item for item in items]) + b"\n" + body + b"\0"
