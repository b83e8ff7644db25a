"""`celeriac backend`: what an administrator does for a result backend."""

from __future__ import annotations

import os

import click

from celeriac.app.connections import open_backend
from celeriac.cli.output import echo
from celeriac.cli.session import Session, with_session
from celeriac.config.settings import Settings
from celeriac.model.clock import Clock
from celeriac.model.masks import masked
from celeriac.ports.backend import Backend
from celeriac.ports.schema import SchemaOwner

__all__ = ["command"]


@click.group("backend")
def command() -> None:
    """Prepare the result backend.

    \b
    Examples:
      celeriac -A shop backend schema
      celeriac backend schema db+postgresql://host/database

    \b
    Exit codes:
      0  success
      1  failure; the reason is on stderr
      2  the command line or the app is invalid
    """


@command.command("schema")
@click.argument("url", required=False)
@with_session
def schema(session: Session, *, url: str | None) -> None:
    """Print the SQL statements that make the tables of a result backend.

    Celeriac makes them itself on first use. Have an administrator carry out what this prints if the user of the
    workers may not create tables. URL is the app's `result_backend` unless it is given; nothing connects to it. The
    settings `sql_schema` and `sql_table_prefix` count, from the app or else from the environment.

    \b
    Examples:
      celeriac -A shop backend schema
      celeriac backend schema db+postgresql://host/database | psql database
    """
    backend = session.app.backend if url is None else _opened(session, url)
    if not isinstance(backend, SchemaOwner):
        shown = masked(url if url is not None else session.app.backend_url)
        raise click.ClickException(f"The result backend {shown} has no tables of its own to make. "
                                   "Those of db+…:// URLs have.")  # fmt: skip
    echo(backend.schema())


def _opened(session: Session, url: str) -> Backend:
    settings = session.app.conf if session.spec else Settings(environ=os.environ)
    return open_backend(url, "", settings, Clock())
