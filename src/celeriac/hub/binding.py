"""Where a hub listens: TCP addresses, and socket files, which it takes over from nobody."""

from __future__ import annotations

import errno
import os
import socket
import stat
from typing import Any, Final

import zmq

from celeriac.errors import ImproperlyConfigured

__all__ = ["bind", "is_local"]

IPC: Final = "ipc://"
LONGEST_PATH: Final = 107  # bytes, of a socket's (`sun_path` of Linux)
REASONS: Final = {
    errno.EADDRINUSE: "another process listens there, perhaps another hub",
    errno.EACCES: "this user may not: ports below 1024 are for root, and a socket's folder has to be writable",
    errno.EADDRNOTAVAIL: "this machine has no such address; 0.0.0.0 stands for all that it has",
    errno.ENODEV: "this machine has no such address; 0.0.0.0 stands for all that it has",
    errno.EINVAL: "that is no address; write tcp://ADDRESS:PORT",
    errno.ENOENT: "there is no such folder",
}


def bind(router: zmq.Socket[Any], endpoint: str, mode: int) -> str:
    """Listen at an endpoint, a socket file with this mode; return it as it is. Raises `ImproperlyConfigured`."""
    path = endpoint.removeprefix(IPC) if endpoint.startswith(IPC) else ""
    try:
        if path:
            _check(path)
        router.setsockopt(zmq.IPV6, int("[" in endpoint))
        router.bind(endpoint)
        if path:
            os.chmod(path, mode)
    except (zmq.ZMQError, OSError) as error:
        reason = REASONS.get(error.errno or 0, error.strerror)
        raise ImproperlyConfigured(f"The hub cannot listen at {endpoint}: {reason}.") from error
    return router.get_string(zmq.LAST_ENDPOINT).rstrip("\0")


def _check(path: str) -> None:
    """Raise `OSError` if a socket's path cannot be used: libzmq removes whatever is there."""
    if len(os.fsencode(path)) > LONGEST_PATH:
        raise OSError(errno.ENAMETOOLONG, f"the path of a socket has at most {LONGEST_PATH} bytes")
    try:
        mode = os.lstat(path).st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise OSError(errno.EEXIST, "a file is there that is no socket")
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(path)
        except ConnectionRefusedError:  # a hub that was killed has left it
            return
    raise OSError(errno.EADDRINUSE, "")


def is_local(endpoint: str) -> bool:
    """Return whether only this machine can reach an endpoint."""
    scheme, _, rest = endpoint.partition("://")
    host = rest.rpartition(":")[0].strip("[]")
    return scheme == "ipc" or host in ("localhost", "::1") or host.startswith("127.")
