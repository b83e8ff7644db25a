"""Limits how long a driver waits for its server, so that no call hangs on one that is frozen.

Called by `database.py` for each engine. What the URL itself says (`?connect_timeout=3`) is left alone. Drivers that are
not listed here wait as long as they do by default.
"""

from __future__ import annotations

import math
import time
from collections.abc import Generator
from typing import Any

from sqlalchemy import Engine, event

from celeriac.drivers.sql.address import Address

__all__ = ["arguments", "limit_statements"]

NAME = "celeriac"  # as the server's administrator sees its clients


def arguments(address: Address, timeout: float) -> dict[str, Any]:
    """Return what is passed to the driver's `connect`, for a time-out in seconds."""
    whole = max(2, math.ceil(timeout))  # libpq and psycopg take no other, and no less
    known: dict[str, dict[str, Any]] = {
        "psycopg": {"connect_timeout": whole, "application_name": NAME, "prepare_threshold": None},
        "psycopg2": {"connect_timeout": whole, "application_name": NAME},
        "pymysql": {"connect_timeout": timeout, "read_timeout": timeout, "write_timeout": timeout,
                    "program_name": NAME},
        "mysqldb": {"connect_timeout": whole, "read_timeout": whole, "write_timeout": whole},
        "oracledb": {"tcp_connect_timeout": timeout},
        "pysqlite": {"timeout": timeout},
    }  # fmt: skip
    found = known.get(address.dialect.driver, {})
    return {name: value for name, value in found.items() if name not in address.parameters}


def limit_statements(engine: Engine, timeout: float) -> None:
    """Limit the statements on new connections of an engine, where `arguments` cannot."""
    if engine.dialect.driver == "psycopg":
        limited = _limited(engine.dialect.loaded_dbapi, timeout)
        event.listen(engine, "do_connect", lambda _dialect, _record, args, named: limited.connect(*args, **named))
    elif engine.dialect.driver == "oracledb":
        event.listen(engine, "connect", lambda connection, _record: _limit_calls(connection, timeout))


def _limit_calls(connection: Any, timeout: float) -> None:
    connection.call_timeout = math.ceil(timeout * 1000)


def _limited(psycopg: Any, timeout: float) -> Any:
    """Return psycopg's class of connections with a limit: a connection that waits for longer is closed.

    libpq has none. Its `tcp_user_timeout` does not notice a frozen process, whose kernel acknowledges what is sent.
    """

    def wait(self: Any, steps: Any, *args: Any, **named: Any) -> Any:
        try:
            return psycopg.Connection.wait(self, _until(time.monotonic() + timeout, steps), *args, **named)
        except TimeoutError as error:
            self.close()
            raise psycopg.OperationalError(f"it did not answer within {timeout:g} s") from error

    return type("LimitedConnection", (psycopg.Connection,), {"wait": wait})


def _until(deadline: float, steps: Generator[Any, Any, Any]) -> Generator[Any, Any, Any]:
    """Go through the steps of a request, which psycopg takes up again ten times a second. Raises `TimeoutError`."""
    try:
        wanted = next(steps)
        while True:
            ready = yield wanted
            if not ready and time.monotonic() > deadline:
                steps.close()
                raise TimeoutError
            wanted = steps.send(ready)
    except StopIteration as end:
        return end.value
