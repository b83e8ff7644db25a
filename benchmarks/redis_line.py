"""A minimal Redis client, for starting the server and for polling a worker's progress."""

from __future__ import annotations

import socket
from typing import Any

import hiredis

__all__ = ["Line", "info"]


class Line:
    """A blocking connection."""

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), 30.0)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._reader = hiredis.Reader()

    def ask(self, *command: Any) -> Any:
        """Return the reply to a command."""
        return self.ask_all(command)[0]

    def ask_all(self, *commands: tuple[Any, ...]) -> list[Any]:
        """Return the replies to commands that are sent together."""
        self._socket.sendall(b"".join(map(hiredis.pack_command, commands)))
        replies: list[Any] = []
        while len(replies) < len(commands):
            reply = self._reader.gets()
            if reply is not False:
                replies.append(reply)
                continue
            data = self._socket.recv(65536)
            if not data:
                raise ConnectionResetError("Redis closed the connection")
            self._reader.feed(data)
        for reply in replies:
            if isinstance(reply, hiredis.ReplyError):
                raise reply
        return replies

    def close(self) -> None:
        """Close the connection."""
        self._socket.close()


def info(line: Line, section: str) -> dict[str, str]:
    """Return a section of INFO."""
    lines = line.ask("INFO", section).decode().splitlines()
    return dict(entry.split(":", 1) for entry in lines if ":" in entry)
