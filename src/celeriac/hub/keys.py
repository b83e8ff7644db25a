"""The keys of a hub, in a folder: its own, and the public ones of the clients that it lets in.

    hub.key  hub.key_secret          the hub's own
    clients/NAME.key                 a client's; whoever's key is taken away is shut out, while the hub runs
    NAME.key_secret                  belongs to the client, and is of no use to the hub: move it there
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import zmq

from celeriac.drivers.zmq.address import hex_of, read_key_file, write_key_file
from celeriac.errors import ImproperlyConfigured

__all__ = ["HUB", "ClientKeys", "hex_of", "hub_keys", "make_client", "make_hub"]

log = logging.getLogger("celeriac.hub")

HUB: Final = "hub"
NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,63}")


def make_hub(folder: Path) -> bytes:
    """Make the keys of the hub, if there are none; return its public key. Raises `ImproperlyConfigured`."""
    secret = folder / f"{HUB}.key_secret"
    with _writing(folder):
        if not secret.exists():
            (folder / "clients").mkdir(parents=True, exist_ok=True)
            folder.chmod(0o700)
            public, private = zmq.curve_keypair()
            write_key_file(folder / f"{HUB}.key", "the hub", public)
            write_key_file(secret, "the hub", public, private)
    return hub_keys(folder)[0]


def make_client(folder: Path, name: str) -> Path:
    """Make the keys of a client, and let it in; return the file that it needs. Raises `ImproperlyConfigured`."""
    if not NAME.fullmatch(name) or name == HUB:
        raise ImproperlyConfigured(f"{name!r} cannot be the name of a client: letters, digits and . _ @ - may be in "
                                   "it, and `hub` is the hub itself.")  # fmt: skip
    path, known = folder / f"{name}.key_secret", folder / "clients" / f"{name}.key"
    with _writing(folder):
        for file in (known, path):
            if file.exists():
                raise ImproperlyConfigured(f"There are keys of {name} already: {file}. Delete it, and make others; the "
                                           f"client is let in while {known} is there.")  # fmt: skip
        public, private = zmq.curve_keypair()
        write_key_file(path, f"the client {name}", public, private)
        write_key_file(known, f"the client {name}", public)
    return path


@contextmanager
def _writing(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise ImproperlyConfigured(f"Keys cannot be written to {folder}: {error}.") from error


def hub_keys(folder: Path) -> tuple[bytes, bytes]:
    """Return the hub's public and secret key. Raises `ImproperlyConfigured`."""
    path = folder / f"{HUB}.key_secret"
    try:
        public, secret = read_key_file(path)
        mode = path.stat().st_mode
    except (OSError, ValueError) as error:
        raise ImproperlyConfigured(f"The keys of the hub cannot be read: {error}. Make them with `celeriac hub keys "
                                   f"--folder {folder}`.") from error  # fmt: skip
    if mode & 0o077:
        raise ImproperlyConfigured(f"Others may read {path}, the secret key of the hub: chmod 600 {path}")
    return public, secret


class ClientKeys:
    """The public keys of clients, read again when the folder changes."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder / "clients"
        self._state: tuple[tuple[str, int], ...] | None = None
        self.names: dict[bytes, str] = {}
        self.reread()

    def reread(self) -> bool:
        """Read the folder if it has changed; return whether it had."""
        try:
            state = tuple(sorted((path.name, path.stat().st_mtime_ns) for path in self._folder.glob("*.key")))
        except OSError as error:  # a file has just been taken away
            log.warning("%s cannot be read, and is read again: %s", self._folder, error)
            return False
        if state == self._state:
            return False
        names = {}
        for file, _ in state:
            try:
                names[read_key_file(self._folder / file)[0]] = file.removesuffix(".key")
            except (OSError, ValueError) as error:
                log.error("The key %s cannot be read, and its client is not let in: %s", self._folder / file, error)
        self._state, self.names = state, names
        return True
