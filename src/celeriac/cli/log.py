"""Log handler of a worker: writes to stderr and never blocks.

A task can fill the pipe behind stderr, or its reader can stop reading. A supervisor that blocked on it would miss its
heartbeats and lose its lease. The handler therefore opens the pipe a second time, in non-blocking mode. The original
descriptor is shared with the children and stays blocking, so prints in tasks wait as usual.
"""

from __future__ import annotations

import logging
import os
import socket
import stat
import sys

__all__ = ["NonBlockingHandler", "stderr_handler"]


def stderr_handler() -> logging.Handler:
    """Return a non-blocking handler if stderr is a pipe, terminal or socket; otherwise a plain `StreamHandler`."""
    try:
        fd = sys.stderr.fileno()
        mode = os.fstat(fd).st_mode
        if stat.S_ISSOCK(mode):
            return NonBlockingHandler(socket.socket(fileno=os.dup(fd)))
        if stat.S_ISFIFO(mode) or os.isatty(fd):
            return NonBlockingHandler(os.open(f"/proc/self/fd/{fd}", os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY))
    except OSError:
        pass  # stderr is not a file, or this user may not open it
    return logging.StreamHandler()


class NonBlockingHandler(logging.Handler):
    """Writes lines to a pipe, terminal or socket; drops lines while it is full, and reports their number later."""

    def __init__(self, out: int | socket.socket) -> None:
        super().__init__()
        self._out = out
        self._rest = b""  # the unwritten part of a line
        self._dropped = 0

    def emit(self, record: logging.LogRecord) -> None:
        """Write a line, or drop it if there is no room."""
        try:
            line = self.format(record).encode(errors="backslashreplace") + b"\n"
        except Exception:  # noqa: BLE001 - the arguments do not match the message; the same as in every handler
            self.handleError(record)
            return
        if self._dropped:
            line = f"({self._dropped} log lines were dropped here: stderr was full)\n".encode() + line
        self._rest = self._write(self._rest)
        left = line if self._rest else self._write(line)
        if left is line:
            self._dropped += 1
        else:
            self._rest, self._dropped = left, 0

    def _write(self, data: bytes) -> bytes:
        """Write as much as there is room for; return the rest."""
        try:
            if isinstance(self._out, int):
                return data[os.write(self._out, data) :] if data else data
            return data[self._out.send(data, socket.MSG_DONTWAIT) :] if data else data
        except OSError:  # no room, or the reader has gone
            return data
