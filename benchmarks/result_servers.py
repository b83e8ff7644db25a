"""Servers that keep results, for one benchmark: on free ports, with their data in a temporary folder.

`running` passes the URL of each to the measuring processes in an environment variable. If started as root, a server
runs as the user that its Debian package creates. All have their defaults for durability: PostgreSQL and MariaDB sync
each commit to the disk, MongoDB's double its journal; Memcached keeps nothing.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.environments import FOLDER
from benchmarks.peers.base import STORE_VARIABLE
from benchmarks.server import answer
from benchmarks.stage import BenchmarkError, Stage
from tests.ports import free_port

__all__ = ["STORES", "Store", "running"]

SECANTUS = str(FOLDER / "mongodb" / "bin" / "secantusd-py")  # made by `make servers`, and run as a process of its own
START_SECONDS = 30.0
GRACE_SECONDS = 5.0  # for a server to end


@dataclass(frozen=True)
class Store:
    """A server: how it is installed, prepared and started, and the URL of its result backend."""

    title: str
    program: str
    package: str  # what to install if it is missing
    user: str  # that it runs as, if started as root; empty: as root
    prepare: Callable[[Path], Sequence[str]]  # a command that makes its data; empty: none
    start: Callable[[Path, int], Sequence[str]]
    url: Callable[[int], str]
    ready: Callable[[Path, int], Sequence[str]] = lambda folder, port: ()  # a command that succeeds once it answers


def _postgresql(name: str) -> str:
    """Return the path of a program of PostgreSQL; Debian keeps them out of the PATH."""
    versions = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda folder: int(folder.parent.name))
    return str(versions[-1] / name) if versions else name


STORES = {
    "postgresql": Store(
        "PostgreSQL", _postgresql("postgres"), "postgresql", "postgres",
        lambda folder: (_postgresql("initdb"), "-D", f"{folder}/data", "-U", "celeriac", "-A", "trust", "-E", "UTF8",
                        "--locale=C.UTF-8"),
        lambda folder, port: (_postgresql("postgres"), "-D", f"{folder}/data", "-p", str(port), "-c",
                              "listen_addresses=127.0.0.1", "-c", f"unix_socket_directories={folder}"),
        lambda port: f"db+postgresql://celeriac@127.0.0.1:{port}/postgres",
        lambda folder, port: (_postgresql("pg_isready"), "-q", "-h", "127.0.0.1", "-p", str(port)),
    ),
    "mariadb": Store(
        "MariaDB", "mariadbd", "mariadb-server", "mysql",
        lambda folder: ("mariadb-install-db", "--no-defaults", f"--datadir={folder}/data", "--skip-test-db",
                        "--auth-root-authentication-method=normal"),
        lambda folder, port: ("mariadbd", "--no-defaults", f"--datadir={folder}/data", f"--port={port}",
                              "--bind-address=127.0.0.1", f"--socket={folder}/socket", f"--pid-file={folder}/pid",
                              "--skip-name-resolve", "--skip-log-bin", "--character-set-server=utf8mb4"),
        lambda port: f"db+mysql://root@127.0.0.1:{port}/celeriac",
        lambda folder, port: ("mariadb", "--no-defaults", "--protocol=tcp", "-h127.0.0.1", f"-P{port}", "-uroot", "-e",
                              "CREATE DATABASE IF NOT EXISTS celeriac"),
    ),
    "memcached": Store(
        "Memcached", "memcached", "memcached", "memcache",
        lambda folder: (),
        lambda folder, port: ("memcached", "-l", "127.0.0.1", "-p", str(port), "-U", "0", "-m", "1024"),
        lambda port: f"memcached://127.0.0.1:{port}",
    ),
    "mongodb": Store(
        "MongoDB (SecantusDB)", SECANTUS, "it with `make servers`", "",
        lambda folder: (),
        lambda folder, port: (SECANTUS, "--host", "127.0.0.1", "--port", str(port), "--storage-path", f"{folder}/data",
                              "--cache-size", "128M"),
        lambda port: f"mongodb://127.0.0.1:{port}/celeriac?directConnection=true",
    ),
}  # fmt: skip


@contextmanager
def running(stage: Stage, name: str) -> Iterator[str]:
    """Run a store within a `with` block, for all of the stage's measurements; yield its URL."""
    store = STORES[name]
    if shutil.which(store.program) is None:
        raise BenchmarkError(f"{store.title} is not installed ({store.program}): install {store.package}")
    with stage.scratch() as folder:
        if os.geteuid() == 0 and store.user:
            folder.chmod(0o755)
            shutil.chown(folder, store.user)
        port = free_port()
        if command := store.prepare(folder):
            done = _start(store, folder, command)
            if done.wait():
                raise BenchmarkError(f"{store.title} could not be prepared:\n{(folder / 'log').read_text()[-2000:]}")
        process = _start(store, folder, store.start(folder, port))
        try:
            answer(process, lambda: _ask(store, folder, port), START_SECONDS, folder / "log")
            with stage.exporting({STORE_VARIABLE: store.url(port)}):
                yield store.url(port)
        finally:
            process.kill()
            process.wait(GRACE_SECONDS)


def _start(store: Store, folder: Path, command: Sequence[str]) -> subprocess.Popen[bytes]:
    user = store.user if os.geteuid() == 0 and store.user else None
    environment = {"PATH": os.environ["PATH"], "HOME": str(folder), "LANG": "C.UTF-8"}
    with (folder / "log").open("ab") as log:
        return subprocess.Popen(command, cwd=folder, env=environment, user=user, extra_groups=[] if user else None,
                                stdin=subprocess.DEVNULL, stdout=log, stderr=log)  # fmt: skip


def _ask(store: Store, folder: Path, port: int) -> None:
    """Raise `OSError` unless the server answers."""
    socket.create_connection(("127.0.0.1", port), 1.0).close()
    if (command := store.ready(folder, port)) and subprocess.run(command, capture_output=True, check=False).returncode:
        raise ConnectionError(f"{store.title} does not answer yet")
