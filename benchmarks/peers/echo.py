"""The child of the bare round trips: it returns whatever it receives."""

from __future__ import annotations

import os
import socket

__all__ = ["MOST", "echoing_child"]

MOST = 4096  # bytes: the largest call


def echoing_child() -> socket.socket:
    """Fork the child; return the supervisor's end of their connection."""
    ours, childs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    if os.fork() == 0:
        ours.close()
        while call := childs.recv(MOST):
            childs.send(call)
        os._exit(0)
    childs.close()
    return ours
