"""Where a worker's log goes: to stderr, and never waiting for whoever reads it.

A task can fill the pipe that the worker's output goes to, and its reader can stop reading. A supervisor that waited
then would lose its lease. The pipe is opened once more, for a way of writing that does not wait: the other one is
shared with the children, and prints in tasks wait as they always do.
"""

from __future__ import annotations

import logging
import os
import socket
import stat
import sys

__all__ = ["UnwaitingHandler", "stderr_handler"]


def stderr_handler() -> logging.Handler:
    """Return a handler that writes to stderr without waiting; an ordinary one where that cannot be, or need not."""
    try:
        fd = sys.stderr.fileno()
        mode = os.fstat(fd).st_mode
        if stat.S_ISSOCK(mode):
            return UnwaitingHandler(socket.socket(fileno=os.dup(fd)))
        if stat.S_ISFIFO(mode) or os.isatty(fd):
            return UnwaitingHandler(os.open(f"/proc/self/fd/{fd}", os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY))
    except OSError:
        pass  # stderr is no file, or not ours to open
    return logging.StreamHandler()


class UnwaitingHandler(logging.Handler):
    """Writes lines to a pipe, terminal or socket; drops those for which there is no room, and says later how many."""

    def __init__(self, out: int | socket.socket) -> None:
        super().__init__()
        self._out = out
        self._rest = b""  # of a line that was written in part
        self._dropped = 0

    def emit(self, record: logging.LogRecord) -> None:
        """Write a line, or drop it."""
        try:
            line = self.format(record).encode(errors="backslashreplace") + b"\n"
        except Exception:  # noqa: BLE001 - a message that does not fit its arguments: as every handler does
            self.handleError(record)
            return
        if self._dropped:
            line = f"({self._dropped} lines of the log were dropped here: nobody read them)\n".encode() + line
        self._rest = self._write(self._rest)
        left = line if self._rest else self._write(line)
        if left is line:
            self._dropped += 1
        else:
            self._rest, self._dropped = left, 0

    def _write(self, data: bytes) -> bytes:
        """Write what there is room for; return the rest."""
        try:
            if isinstance(self._out, int):
                return data[os.write(self._out, data) :] if data else data
            return data[self._out.send(data, socket.MSG_DONTWAIT) :] if data else data
        except OSError:  # no room, or nobody there to read
            return data
