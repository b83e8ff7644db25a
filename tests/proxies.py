"""Servers of the tests' own, in threads: one that takes connections, and proxies that swallow data or cut them off."""

from __future__ import annotations

import socket
import threading
from contextlib import suppress

__all__ = ["Cutting", "Listening", "Proxy"]


class Listening:
    """A server of the test's own: calls `take` with each connection, in a thread."""

    def __init__(self) -> None:
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port = self._server.getsockname()[1]
        threading.Thread(target=self._run, daemon=True).start()

    def take(self, one: socket.socket) -> None:
        raise NotImplementedError

    def close(self) -> None:
        self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()

    def _run(self) -> None:
        while True:
            try:
                one, _ = self._server.accept()
            except OSError:
                return
            self.take(one)


class Proxy(Listening):
    """A proxy to a server. It can swallow what open connections send, while new ones work."""

    def __init__(self, port: int) -> None:
        self._to = port
        self._era = 0
        super().__init__()

    def swallow(self) -> None:
        """Let nothing pass on the connections that are open now."""
        self._era += 1

    def take(self, one: socket.socket) -> None:
        theirs = socket.create_connection(("127.0.0.1", self._to))
        for source, sink in ((one, theirs), (theirs, one)):
            threading.Thread(target=self._pump, args=(source, sink, self._era), daemon=True).start()

    def _pump(self, source: socket.socket, sink: socket.socket, era: int) -> None:
        try:
            while (data := source.recv(65536)) and self.passes(data):
                if era == self._era:
                    sink.sendall(data)
        except OSError:
            pass
        finally:
            for end in (source, sink):
                with suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)
            sink.close()

    def passes(self, data: bytes) -> bool:
        """Say whether a connection stands after these bytes."""
        return True


class Cutting(Proxy):
    """A proxy that cuts the first connections on which certain bytes come, so many of them."""

    def __init__(self, port: int, words: bytes, times: int) -> None:
        self.left = times
        self._words = words
        super().__init__(port)

    def passes(self, data: bytes) -> bool:
        if self.left <= 0 or self._words not in data:
            return True
        self.left -= 1
        return False
