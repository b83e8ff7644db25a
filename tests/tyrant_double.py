"""A double of Tokyo Tyrant, which no distribution has any more: its binary protocol and Memcached's, on one port.

Written from the protocols' description, for what the backends use. It keeps values in a dict, forever, and ignores
expiry times, as the real server does. It runs as a process of its own: `python tests/tyrant_double.py PORT`. With
`read-only` as a second argument it refuses to write, as a replica does.
"""

from __future__ import annotations

import socketserver
import struct
import sys
import threading
from contextlib import suppress
from typing import Any

__all__ = ["main"]


class Handler(socketserver.StreamRequestHandler):
    """One connection. A request that is not understood ends it without a reply."""

    server: Server

    def handle(self) -> None:
        with suppress(ConnectionError, struct.error):
            while first := self.rfile.peek(1)[:1]:  # type: ignore[attr-defined]
                reply = self.binary() if first == b"\xc8" else self.memcached()
                if reply is None:
                    return
                self.wfile.write(reply)

    def numbers(self, count: int) -> tuple[int, ...]:
        return struct.unpack(f">{count}I", self.rfile.read(4 * count))

    def binary(self) -> bytes | None:
        data, code = self.server.data, self.rfile.read(2)[1]
        if code in (0x10, 0x11):
            key_size, value_size = self.numbers(2)
            if value_size > 32 * 1024 * 1024:
                return None
            key, value = self.rfile.read(key_size), self.rfile.read(value_size)
            return b"\0" if self.server.put(key, value, new=code == 0x11) else b"\1"
        if code == 0x20:
            return b"\0" if self.server.out(self.rfile.read(*self.numbers(1))) else b"\1"
        if code == 0x30:
            value = data.get(self.rfile.read(*self.numbers(1)))  # type: ignore[assignment]
            return b"\1" if value is None else b"\0" + struct.pack(">I", len(value)) + value
        if code == 0x31:
            keys = [self.rfile.read(*self.numbers(1)) for _ in range(*self.numbers(1))]
            found = [(key, data[key]) for key in keys if key in data]
            parts = [struct.pack(">II", len(key), len(value)) + key + value for key, value in found]
            return b"\0" + struct.pack(">I", len(found)) + b"".join(parts)
        if code == 0x58:
            size, most = self.numbers(2)
            prefix = self.rfile.read(size)
            with self.server.lock:
                keys = [key for key in data if key.startswith(prefix)][:most]
            return b"\0" + struct.pack(">I", len(keys)) + b"".join(struct.pack(">I", len(key)) + key for key in keys)
        return None

    def memcached(self) -> bytes | None:
        words = self.rfile.readline().split()
        match words:
            case [b"set" | b"add" as verb, key, _, _, size, *_]:
                value = self.rfile.read(int(size))
                if self.rfile.read(2) != b"\r\n":
                    return None
                if self.server.read_only:
                    return b"CLIENT_ERROR forbidden\r\n"
                return b"STORED\r\n" if self.server.put(key, value, new=verb == b"add") else b"NOT_STORED\r\n"
            case [b"get" | b"gets", *keys]:
                found = [(key, self.server.data[key]) for key in keys if key in self.server.data]
                return b"".join(b"VALUE %b 0 %d\r\n%b\r\n" % (key, len(one), one) for key, one in found) + b"END\r\n"
            case [b"delete", key, *_]:
                return b"DELETED\r\n" if self.server.out(key) else b"NOT_FOUND\r\n"
            case [b"version"]:
                return b"VERSION 1.1.41\r\n"
        return None


class Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True

    def __init__(self, port: int, read_only: bool = False) -> None:
        super().__init__(("127.0.0.1", port), Handler)
        self.data: dict[bytes, bytes] = {}
        self.lock = threading.Lock()
        self.read_only = read_only

    def put(self, key: bytes, value: bytes, new: bool) -> bool:
        with self.lock:
            done = not self.read_only and not (new and key in self.data)
            if done:
                self.data[key] = value
            return done

    def out(self, key: bytes) -> bool:
        with self.lock:
            return not self.read_only and self.data.pop(key, None) is not None


def main(port: str, *options: Any) -> None:
    with Server(int(port), read_only="read-only" in options) as server:
        server.serve_forever()


if __name__ == "__main__":
    main(*sys.argv[1:])
