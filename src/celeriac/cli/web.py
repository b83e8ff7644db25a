"""`celeriac web`: serves the dashboard and the HTTP API, and keeps their tokens."""

from __future__ import annotations

import importlib
import re
import sys
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import click

from celeriac import __version__
from celeriac.cli.audit import audited
from celeriac.cli.documents import as_json, emit
from celeriac.cli.log import set_up_logging
from celeriac.cli.numbers import WholeNumber
from celeriac.cli.options import log_options
from celeriac.cli.output import echo
from celeriac.cli.session import Session, with_session
from celeriac.cli.tables import show
from celeriac.errors import ImproperlyConfigured

__all__ = ["command"]

UNITS: Final = {"h": "hours", "d": "days", "w": "weeks"}
LONGEST: Final = 36_500  # days
NOBODY: Final = ("No token is left, so that nobody is served: add one. To serve this machine without tokens, delete {} "
                 "and start `celeriac web` again.")  # fmt: skip


def _web(module: str, package: str = "celeriac.web") -> Any:
    """Import a module of `celeriac.web`. Raises `ImproperlyConfigured` without the extra that it needs."""
    try:
        return importlib.import_module(f"{package}.{module}")
    except ModuleNotFoundError as error:
        raise ImproperlyConfigured(f"celeriac web needs a package that is not installed ({error.name}): "
                                   "pip install 'celeriac[web]'.") from error  # fmt: skip


@click.group("web", invoke_without_command=True)
@click.option("--host", metavar="HOST", help="Listen on this address.  [default: web_host, 127.0.0.1]")
@click.option("--port", metavar="PORT", type=WholeNumber(0, 65535),
              help="Listen on this port; 0: any.  [default: web_port, 8000]")  # fmt: skip
@click.option("--allow-host", "hosts", metavar="NAME", multiple=True,
              help="Accept requests for this host; can be repeated.  [default: web_allowed_hosts]")  # fmt: skip
@click.option("--open", "opens", is_flag=True,
              help="Print a link that signs in once, without a token; in a terminal, open it.")  # fmt: skip
@log_options
@with_session
def command(session: Session, *, host: str | None, port: int | None, hosts: tuple[str, ...], opens: bool,
            loglevel: str | None, log_format: str | None) -> None:  # fmt: skip
    """Serve the dashboard and the HTTP API until it is stopped.

    Without a token only this machine is served. The API is described by /api/v1/openapi.json.

    \b
    Examples:
      celeriac -A shop web
      celeriac -A shop web --open
      celeriac -A shop web token add ci --scope tasks:send --expires 90d
      celeriac -A shop web --host 0.0.0.0 --port 8000

    \b
    Exit codes:
      0  the server was stopped
      1  the server could not start
      2  the command line or the app is invalid
    """
    if click.get_current_context().invoked_subcommand is not None:
        return
    app = session.app
    serving, dashboard = _web("serving"), _web("application", "celeriac.dashboard").dashboard
    if app.broker_url.startswith("memory:"):
        raise ImproperlyConfigured("memory:// lives in one process, and no worker runs in this one. Set another "
                                   "broker: CELERIAC_BROKER_URL=sqlite:///celeriac.db.")  # fmt: skip
    if hosts:
        app.conf.web_allowed_hosts = [*app.conf.web_allowed_hosts, *hosts]
    set_up_logging(app, f"{app.main or 'celeriac'} web", loglevel, log_format)

    site = dashboard(app)

    def ready(address: str) -> None:
        link = site.link(address) if opens else None
        echo(f"celeriac {__version__}: the dashboard and the HTTP API are running on {address}\n"
             f"  app        {app.main}, {len(app.tasks)} {'task' if len(app.tasks) == 1 else 'tasks'}\n"
             + (f"  sign in    {link}\n" if link else "") + "  Ctrl-C stops it.", err=True)  # fmt: skip
        if link and sys.stderr.isatty():
            click.launch(link)

    serving.serve(site, host or app.conf.web_host, app.conf.web_port if port is None else port, ready)
    app.close()


# --- Tokens -------------------------------------------------------------------------------------------


@command.group("token")
def token() -> None:
    """Make, list and remove tokens, which clients of the HTTP API send.

    \b
    Examples:
      celeriac -A shop web token add ci --scope 'tasks:send:mail.*' --scope results:read
      celeriac -A shop web token list
      celeriac -A shop web token remove ci
    """


def _expiry(context: click.Context, parameter: click.Parameter, value: str | None) -> datetime | None:
    if value is None:
        return None
    match = re.fullmatch(r"(\d{1,6})([hdw])", value)
    length = timedelta(**{UNITS[match[2]]: int(match[1])}) if match is not None else timedelta()
    if not timedelta() < length <= timedelta(days=LONGEST):
        raise click.BadParameter(f"must be a number of hours, days or weeks, such as 90d, not {value!r}")
    return (datetime.now(UTC) + length).replace(microsecond=0)


@token.command("add")
@click.argument("name")
@click.option("--scope", "scopes", metavar="SCOPE", multiple=True, required=True,
              help="What it allows: a scope, or viewer, operator or admin; can be repeated.")  # fmt: skip
@click.option("--expires", "expires_at", metavar="TIME", callback=_expiry,
              help="After this: 12h, 90d, 4w.  [default: never]")  # fmt: skip
@click.option("--print", "only_print", is_flag=True, help="Do not store it; also print the line for web_tokens.")
@as_json
@with_session
@audited
def add(session: Session, *, name: str, scopes: tuple[str, ...], expires_at: datetime | None, only_print: bool,
        as_json: bool) -> None:  # fmt: skip
    """Make a token named NAME, and print it. It is not shown again: only its hash is kept.

    \b
    Examples:
      celeriac -A shop web token add ci --scope tasks:send --expires 90d
      celeriac -A shop web token add ann --scope operator
      celeriac -A shop web token add mail --scope 'tasks:send:mail.*' --scope results:read
    """
    text, made = _web("tokens").new_token(name, scopes, expires_at)
    if not only_print:
        _file(session).add(made)
    if as_json:
        emit({"token": text, "line": str(made)})
        return
    echo(text)
    if only_print:
        echo(str(made))


@token.command("list")
@as_json
@with_session
def list_tokens(session: Session, *, as_json: bool) -> None:
    """List tokens, without the tokens themselves.

    \b
    Examples:
      celeriac -A shop web token list
    """
    file = _file(session)
    kept = file.read()
    fixed = _web("tokens").read_tokens(session.app.conf.web_tokens, "web_tokens")
    found = [(one, "web_tokens" if one.name in fixed else "file") for one in {**kept, **fixed}.values()]
    if as_json:
        emit([{"name": one.name, "scopes": one.scopes, "expires_at": one.expires_at and one.expires_at.isoformat(),
               "kept_in": where} for one, where in found])  # fmt: skip
        return
    show(["name", "scopes", "expires", "kept in"],
         [(one.name, " ".join(one.scopes), one.expires_at.isoformat() if one.expires_at else "never", where)
          for one, where in found],
         empty=NOBODY.format(file.path) if file.path.exists() else "There are no tokens: only this machine is served.")


@token.command("remove")
@click.argument("names", nargs=-1, required=True, metavar="NAME...")
@as_json
@with_session
@audited
def remove(session: Session, *, names: tuple[str, ...], as_json: bool) -> None:
    """Remove tokens. A running server refuses them from then on.

    \b
    Examples:
      celeriac -A shop web token remove ci
    """
    file = _file(session)
    unknown = [name for name in names if name not in file.read()]
    if unknown:
        raise click.ClickException(f"There is no token named {unknown[0]!r} in {file.path}. Nothing was removed.")
    for name in names:
        file.remove(name)
    if as_json:
        emit({"removed": names})
    else:
        echo(f"Removed {', '.join(names)}.")
        if not file.read() and not session.app.conf.web_tokens:
            echo(NOBODY.format(file.path))


def _file(session: Session) -> Any:
    return _web("application").token_file(session.app)

