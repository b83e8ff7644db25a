"""A server that speaks MongoDB's protocol, for the tests: started on a free port, with its data in a temporary folder.

It is SecantusDB, a process of its own in an environment of its own (`make servers`); Debian has no MongoDB. Tests that
leave the server running use a real one where `CELERIAC_TEST_MONGODB_URL` names it.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pymongo import MongoClient
from pymongo.errors import PyMongoError

from tests.patience import PATIENCE
from tests.ports import free_port
from tests.server_process import ServerProcess, missing

__all__ = ["LEFT", "MongoServer", "database_on", "running_mongodb"]

MISSING = "no server for MongoDB: run `make servers`, or name one by CELERIAC_TEST_MONGODB_URL"
PROGRAM = Path(__file__).resolve().parent.parent / ".venv" / "peers" / "mongodb" / "bin" / "secantusd-py"
DIRECT = "directConnection=true"

LEFT = "ignore:Exception ignored in. <socket:pytest.PytestUnraisableExceptionWarning"
"""PyMongo leaves the socket of an attempt to connect to the garbage collector, if the loop ends meanwhile.

Tests ignore the warning, and use the fixture `collected`, so that it does not come in another test.
"""


class MongoServer(ServerProcess):
    """A server that can be killed, frozen and started again. With `given`, one that others run."""

    def __init__(self, folder: Path, *arguments: str, given: str = "") -> None:
        self.given = given
        self.folder = folder
        self.arguments = list(arguments)
        if given:
            return
        program = shutil.which("secantusd-py") or (str(PROGRAM) if PROGRAM.exists() else None)
        if program is None:
            missing(MISSING)
        self.program = program
        self.port = free_port()
        self.start()

    def url(self, database: str = "tests", user: str = "", options: str = DIRECT) -> str:
        if self.given:
            base, _, query = self.given.partition("?")
            base = "/".join(base.split("/")[:3])
            return f"{base}/{database}{'?' if query else ''}{query}"
        return f"mongodb://{user}{'@' if user else ''}127.0.0.1:{self.port}/{database}?{options}"

    def start(self) -> None:
        command = [self.program, "--host", "127.0.0.1", "--port", str(self.port), "--cache-size", "128M",
                   "--storage-path", str(self.folder / "data"), *self.arguments]  # fmt: skip
        with (self.folder / "mongodb.log").open("ab") as log:
            self.process = subprocess.Popen(command, cwd=self.folder, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        deadline = time.monotonic() + PATIENCE
        with self.client() as client:
            while True:
                try:
                    client.admin.command("hello")
                    return
                except PyMongoError:
                    assert self.process.poll() is None, (self.folder / "mongodb.log").read_text()
                    assert time.monotonic() < deadline, "the server did not start"

    def client(self) -> MongoClient[dict[str, Any]]:
        return MongoClient(self.url(), serverSelectionTimeoutMS=1000, heartbeatFrequencyMS=500)


@contextmanager
def running_mongodb(folder: Path, *arguments: str, own: bool = True) -> Iterator[MongoServer]:
    """Run a server for as long as a block lasts. Unless it has to be `own`, it may be a real one that others run."""
    server = MongoServer(folder, *arguments, given="" if own else os.environ.get("CELERIAC_TEST_MONGODB_URL", ""))
    try:
        yield server
    finally:
        server.end()


@contextmanager
def database_on(server: MongoServer) -> Iterator[str]:
    """Give the URL of an empty database, and drop it."""
    name = f"t{uuid.uuid4().hex[:12]}"
    try:
        yield server.url(name)
    finally:
        with server.client() as client:
            client.drop_database(name)
