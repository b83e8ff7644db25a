"""A real MariaDB for the tests: on a free port, its data in a temporary folder."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pymysql

from tests.patience import PATIENCE
from tests.sql_server import Ask, SQLServer

__all__ = ["MariaDBServer", "running_mariadb"]

PROGRAM = "/usr/sbin/mariadbd"
PACKET = 2_097_152  # bytes; the default is 16 MiB
WITHOUT_TLS: dict[str, Any] = {"ssl_disabled": True}
"""For it, PyMySQL would read all certificates of the machine at each connection: 25 ms of computing."""


class MariaDBServer(SQLServer):
    """`mariadbd`, with a small `max_allowed_packet`. The administrator needs no password."""

    user = "mysql"

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, PROGRAM, "mariadb-server is not installed: apt-get install mariadb-server")

    def prepare(self) -> None:
        user = ["--user=mysql"] if os.geteuid() == 0 else []
        self.run("/usr/bin/mariadb-install-db", "--no-defaults", *user, f"--datadir={self.folder / 'data'}",
                 "--auth-root-authentication-method=normal", "--skip-test-db")  # fmt: skip

    def command(self) -> list[str]:
        return [
            self.program, "--no-defaults", f"--datadir={self.folder / 'data'}", f"--port={self.port}",
            "--bind-address=127.0.0.1", f"--socket={self.folder / 's'}", f"--pid-file={self.folder / 'pid'}",
            "--skip-name-resolve", "--skip-log-bin", "--character-set-server=utf8mb4",
            "--innodb-flush-method=nosync", "--innodb-buffer-pool-size=32M", "--innodb-log-file-size=16M",
            "--open-files-limit=4096", f"--max-allowed-packet={PACKET}",
        ]  # fmt: skip

    @contextmanager
    def administrator(self, database: str | None = None) -> Iterator[Ask]:
        connection = pymysql.connect(host="127.0.0.1", port=self.port, user="root", database=database, autocommit=True,
                                     connect_timeout=PATIENCE, read_timeout=PATIENCE, **WITHOUT_TLS)  # fmt: skip
        with connection, connection.cursor() as cursor:

            def ask(statement: str) -> list[tuple[Any, ...]]:
                cursor.execute(statement)
                return list(cursor.fetchall())

            yield ask

    def emptied(self) -> str:
        return f"{super().emptied()}?{urlencode(WITHOUT_TLS)}"

    def url(self, database: str, user: str | None = None, password: str = "") -> str:
        credentials = f"{user or 'root'}{':' + password if password else ''}"
        return f"db+mariadb://{credentials}@127.0.0.1:{self.port}/{database}"


@contextmanager
def running_mariadb() -> Iterator[MariaDBServer]:
    """Run a server for as long as a block lasts."""
    with tempfile.TemporaryDirectory(prefix="my", ignore_cleanup_errors=True) as folder:
        server = MariaDBServer(Path(folder))
        try:
            yield server
        finally:
            server.end()
