"""A real PostgreSQL for the tests: on a free port, its cluster in a temporary folder."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg

from tests.patience import PATIENCE
from tests.sql_server import Ask, SQLServer

__all__ = ["PostgreSQLServer", "running_postgresql"]

PROGRAMS = "/usr/lib/postgresql"  # Debian's; not in PATH
SETTINGS = {
    "listen_addresses": "127.0.0.1", "fsync": "off", "full_page_writes": "off",
    "max_connections": "100", "autovacuum": "off",
}  # fmt: skip


class PostgreSQLServer(SQLServer):
    """`postgres`. The administrator needs no password."""

    user = "postgres"
    schema = "public"

    def __init__(self, folder: Path) -> None:
        found = sorted(Path(PROGRAMS).glob("*/bin/postgres"))
        program = str(found[-1]) if found else f"{PROGRAMS}/15/bin/postgres"
        super().__init__(folder, program, "postgresql is not installed: apt-get install postgresql")

    def prepare(self) -> None:
        initdb = str(Path(self.program).with_name("initdb"))
        self.run(initdb, "-D", str(self.folder / "data"), "-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale",
                 "C.UTF-8", "--no-sync")  # fmt: skip
        rules = self.folder / "data" / "pg_hba.conf"
        rules.write_text("host all postgres 127.0.0.1/32 trust\nhost all all 127.0.0.1/32 scram-sha-256\n")

    def command(self) -> list[str]:
        options = {**SETTINGS, "unix_socket_directories": str(self.folder)}
        given = [part for name, value in options.items() for part in ("-c", f"{name}={value}")]
        return [self.program, "-D", str(self.folder / "data"), "-p", str(self.port), *given]

    @contextmanager
    def administrator(self, database: str | None = None) -> Iterator[Ask]:
        with psycopg.connect(host="127.0.0.1", port=self.port, user="postgres", dbname=database or "postgres",
                             autocommit=True, connect_timeout=int(PATIENCE)) as connection:  # fmt: skip

            def ask(statement: str) -> list[tuple[Any, ...]]:
                cursor = connection.execute(statement)  # type: ignore[call-overload]
                return cursor.fetchall() if cursor.description is not None else []

            yield ask

    def url(self, database: str, user: str | None = None, password: str = "") -> str:
        credentials = f"{user or 'postgres'}{':' + password if password else ''}"
        return f"db+postgresql://{credentials}@127.0.0.1:{self.port}/{database}"


@contextmanager
def running_postgresql() -> Iterator[PostgreSQLServer]:
    """Run a server for as long as a block lasts."""
    with tempfile.TemporaryDirectory(prefix="pg", ignore_cleanup_errors=True) as folder:
        server = PostgreSQLServer(Path(folder))
        try:
            yield server
        finally:
            server.end()
