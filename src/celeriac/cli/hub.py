"""`celeriac hub`: serves a file to other machines, makes keys for its clients, and lists them."""

from __future__ import annotations

import importlib
import logging
import re
import signal
from pathlib import Path
from typing import Any, Final

import click

from celeriac import __version__
from celeriac.cli.banner import show_banner
from celeriac.cli.documents import as_json, emit
from celeriac.cli.log import LogFormatter, stderr_handler
from celeriac.cli.options import log_options_with
from celeriac.cli.output import echo
from celeriac.cli.session import Session, with_session
from celeriac.cli.tables import show, when
from celeriac.config.definitions import JSON, LOG_FORMAT
from celeriac.errors import ImproperlyConfigured
from celeriac.logs import JSONFormatter

__all__ = ["command"]

BIND: Final = "tcp://127.0.0.1:5557"
DATA: Final = "celeriac.db"
FOLDER: Final = "hub-keys"
ENDPOINT: Final = re.compile(r"tcp://[^/]+:(\d{1,9}|\*)|ipc://[^*@].*", re.ASCII)
STOP_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)


class _Mode(click.ParamType):  # type: ignore[type-arg]  # not subscriptable in older versions of click
    """The permissions of a file, in octal digits."""

    name = "mode"

    def convert(self, value: Any, param: click.Parameter | None, context: click.Context | None) -> int:
        if isinstance(value, int):
            return value
        if not re.fullmatch("[0-7]{3}", value):
            self.fail(f"{value!r} is no mode: it has three digits from 0 to 7, as 660 has", param, context)
        return int(value, 8)


def _hub(module: str) -> Any:
    """Import a module of `celeriac.hub`. Raises `ImproperlyConfigured` without the extra that it needs."""
    try:
        return importlib.import_module(f"celeriac.hub.{module}")
    except ModuleNotFoundError as error:
        raise ImproperlyConfigured(f"celeriac hub needs a package that is not installed ({error.name}): "
                                   "pip install 'celeriac[zmq]'.") from error  # fmt: skip


@click.group("hub", invoke_without_command=True)
@click.option("--bind", "binds", metavar="ENDPOINT", multiple=True, default=(BIND,), show_default=True,
              help="Listen here: tcp://ADDRESS:PORT, tcp://*:PORT or ipc:///PATH; can be repeated.")  # fmt: skip
@click.option("--data", metavar="FILE", type=click.Path(dir_okay=False), default=DATA, show_default=True,
              help="Keep everything in this file. An embedded broker's file can be served.")  # fmt: skip
@click.option("--keys", "folder", metavar="FOLDER", type=click.Path(file_okay=False, path_type=Path),
              help=f"Let in only clients whose keys are there.  [default: {FOLDER}, if there is one]")  # fmt: skip
@click.option("--insecure", is_flag=True,
              help="Let in everybody, and encrypt nothing, on an address that other machines reach.")  # fmt: skip
@click.option("--socket-mode", metavar="MODE", type=_Mode(), default="600", show_default=True,
              help="Who may use the socket of ipc:///PATH, as for chmod: 660, also its group; 666, all.")  # fmt: skip
@click.option("--synchronous", type=click.Choice(["normal", "full"]), default="normal", show_default=True,
              help="What a commit survives: killed processes, or also a power cut.")  # fmt: skip
@log_options_with("info", "text")
@click.pass_context
def command(context: click.Context, *, binds: tuple[str, ...], data: str, folder: Path | None, insecure: bool,
            socket_mode: int, synchronous: str, loglevel: str | None, log_format: str | None) -> None:  # fmt: skip
    """Serve a file to workers and callers on other machines, until it is stopped.

    They need `broker_url` alone: zmq://HOST:5557 and, with keys, what `celeriac hub keys NAME` prints.

    \b
    Examples:
      celeriac hub keys
      celeriac hub keys web
      celeriac hub --bind tcp://0.0.0.0:5557 --data /var/lib/celeriac/celeriac.db
      celeriac hub --bind ipc:///run/celeriac/hub.sock --socket-mode 660

    \b
    Exit codes:
      0  the hub was stopped
      1  the hub could not start, or had to end
      2  the command line is invalid
    """
    if context.invoked_subcommand is not None:
        return
    if folder is None and Path(FOLDER).is_dir() and not insecure:
        folder = Path(FOLDER)
    binds = tuple(bind.replace("zmq+ipc://", "ipc://").replace("zmq://", "tcp://") for bind in binds)
    _check(binds, folder, insecure)
    formatter = _log(loglevel, log_format)
    if folder is None and insecure:
        logging.getLogger("celeriac.hub").warning(
            "Everybody who reaches %s can read and send all tasks, and nothing is encrypted (--insecure).",
            ", ".join(binds))  # fmt: skip
    hub = _hub("serve").Hub(list(binds), data, folder, synchronous=synchronous, socket_mode=socket_mode)
    endpoints = hub.open()
    for number in STOP_SIGNALS:
        if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:  # as under `nohup`
            signal.signal(number, lambda number, frame: hub.stop())
    facts = {"data": str(Path(data).resolve()), "listens": ", ".join(endpoints), "clients": _clients(folder)}
    show_banner(f"celeriac {__version__}: the hub is ready. Ctrl-C stops it.", facts, formatter, "celeriac.hub")
    try:
        hub.run()
    finally:
        hub.close()


def _check(binds: tuple[str, ...], folder: Path | None, insecure: bool) -> None:
    is_local = _hub("binding").is_local
    for bind in binds:
        if not ENDPOINT.fullmatch(bind):
            raise click.BadParameter(f"{bind!r} is neither tcp://ADDRESS:PORT nor ipc:///PATH", param_hint="--bind")
        port = bind.rpartition(":")[2]
        if port.isdecimal() and int(port) > 65535:
            raise click.BadParameter(f"there is no port {port}", param_hint="--bind")
        if folder is None and not insecure and not is_local(bind):
            raise ImproperlyConfigured(
                f"{bind} can be reached by other machines, and anybody there could send tasks. Make keys (`celeriac "
                "hub keys`, and `celeriac hub keys NAME` for each client), or say --insecure."
            )


def _log(level: str | None, log_format: str | None) -> logging.Formatter:
    formatter = JSONFormatter("hub", "") if log_format == JSON else LogFormatter(LOG_FORMAT)
    handler = stderr_handler()
    handler.setFormatter(formatter)
    logging.root.addHandler(handler)
    logging.getLogger("celeriac").setLevel((level or "info").upper())
    return formatter


def _clients(folder: Path | None) -> str:
    if folder is None:
        return "anybody who reaches it"
    keys = _hub("keys")
    names = sorted(keys.ClientKeys(folder).names.values())
    public = _hub("keys").hub_keys(folder)[0]
    return f"{', '.join(names) or 'none yet (celeriac hub keys NAME)'}; server_key={keys.hex_of(public)}"


# --- Keys ---------------------------------------------------------------------------------------------


@command.command("keys")
@click.argument("name", required=False)
@click.option("--folder", metavar="FOLDER", type=click.Path(file_okay=False, path_type=Path), default=FOLDER,
              show_default=True, help="Keep them here.")  # fmt: skip
def keys(*, name: str | None, folder: Path) -> None:
    """Make the hub's keys, and those of a client NAME; print what the client's `broker_url` needs.

    A client is let in while its file is in the folder `clients`: delete the file, and the client is shut out within a
    second, while the hub runs.

    \b
    Examples:
      celeriac hub keys
      celeriac hub keys web
      celeriac hub keys worker-3 --folder /etc/celeriac/hub-keys
    """
    made = _hub("keys")
    public = made.hex_of(made.make_hub(folder))
    if name is None:
        echo(f"The hub's keys are in {folder}. Its public key, for clients:\n  server_key={public}")
        return
    path = made.make_client(folder, name)
    echo(f"Move {path} to the client: only it needs this file. There, set\n"
         f"  broker_url = zmq://HOST:5557?server_key={public}&key_file={path.name}")  # fmt: skip


# --- Clients ------------------------------------------------------------------------------------------


@command.command("clients")
@as_json
@with_session
def clients(session: Session, *, as_json: bool) -> None:
    """List the clients of the hub that the app's `broker_url` names.

    \b
    Examples:
      celeriac -A shop hub clients
      celeriac -A shop hub clients --json
    """
    broker: Any = session.app.broker
    if not hasattr(broker, "clients"):
        raise ImproperlyConfigured(f"{broker!r} is no hub: set `broker_url` to zmq://HOST:5557.")
    found = session.run(broker.clients())
    if as_json:
        emit(found)
        return
    rows = [(one.name, one.address, when(one.since), when(one.seen_at), one.requests, one.workers) for one in found]
    show(("client", "address", "since", "seen", "requests", "workers"), rows, numbers=("requests", "workers"))
