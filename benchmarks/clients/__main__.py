"""`python -m benchmarks.clients [amqp] [redis]`: compare client libraries; print a Markdown table for each server.

Each round measures every client once, so that a slow minute affects all of them. Every measurement has a fresh process
and an empty server. The table shows the best rate of the rounds, and in brackets the client's CPU time per message or
call in that round.
"""

from __future__ import annotations

import argparse
import json
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from operator import itemgetter
from pathlib import Path
from time import monotonic
from typing import Any

from pamqp import commands

from benchmarks import machine, rabbitmq_server, redis_server
from benchmarks.clients.base import BODY, QUEUE, URL_VARIABLE
from benchmarks.clients.catalogue import CONSUME, SERVERS
from benchmarks.environments import REQUIREMENTS, interpreter
from benchmarks.figures import number
from benchmarks.peers.base import RABBITMQ_VARIABLE, REDIS_VARIABLE
from benchmarks.redis_line import info
from benchmarks.stage import BenchmarkError, Stage, environment
from celeriac.drivers.amqp.address import Address
from celeriac.drivers.amqp.blocking import Connection
from celeriac.drivers.amqp.frames import Publication, properties

__all__ = ["main"]

ROOT = Path(__file__).resolve().parent.parent.parent
TIMEOUT_SECONDS = 300.0
SETUP_SECONDS = 60.0

Told = dict[str, Any]


def main(arguments: list[str] | None = None) -> int:
    """Measure, and print the tables."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.clients", description="Compare client libraries.")
    parser.add_argument("servers", metavar="SERVER", nargs="*", help=f"of {', '.join(SERVERS)} [default: all]")
    parser.add_argument("--count", type=int, default=50_000, help="messages or calls at most [default: 50000]")
    parser.add_argument("--seconds", type=float, default=2.0, help="stop publishing or calling then [default: 2]")
    parser.add_argument("--rounds", type=int, default=3, help="[default: 3]")
    parser.add_argument("--folder", metavar="DIR", help="keep the server's data there [default: the temporary folder]")
    parser.add_argument("--clients", metavar="A,B", default="", help="only these; files of benchmarks/clients/")
    options = parser.parse_args(arguments)
    chosen = [name for name in options.clients.split(",") if name]
    known = [client for server in SERVERS.values() for client in server.clients]
    if unknown := [name for name in chosen if name not in known]:
        parser.error(f"unknown client {unknown[0]!r}: choose from {', '.join(known)}")
    if unknown := [name for name in options.servers if name not in SERVERS]:
        parser.error(f"unknown server {unknown[0]!r}: choose from {', '.join(SERVERS)}")
    if min(options.count, options.seconds, options.rounds) <= 0:
        parser.error("--count, --seconds and --rounds must be greater than 0")
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))  # so that the server is ended, too
    facts = machine.facts(options.folder)
    print("; ".join(f"{name} {value}" for name, value in facts.items() if name != "executable"))
    if facts["load"] > machine.BUSY:
        print(f"This machine is busy (load {facts['load']}): do not publish these figures.")
    stage = Stage(folder=options.folder)
    for name in options.servers or SERVERS:
        if chosen and not set(chosen).intersection(SERVERS[name].clients):
            continue
        try:
            _compare(stage, name, chosen or known, options.count, options.seconds, options.rounds)
        except (BenchmarkError, subprocess.TimeoutExpired) as error:
            print(f"{name} could not be measured: {error}", file=sys.stderr)
            return 1
    return 0


def _compare(stage: Stage, name: str, chosen: Sequence[str], count: int, seconds: float, rounds: int) -> None:
    server = SERVERS[name]
    found: dict[str, Told] = {}
    best: dict[tuple[str, str], Told] = {}
    with _running(stage, name) as version:
        for client in (client for client in server.clients if client in chosen):
            facts = _ask(stage, client, "facts", 0, 0)
            if "missing" in facts:
                how = "python -m benchmarks.environments" if client in REQUIREMENTS else "pip install 'celeriac[bench]'"
                print(f"Left out: {client}, because {facts['missing']} is not installed ({how}).")
            else:
                found[client] = facts
        for turn in range(1, rounds + 1):
            for client, facts in found.items():
                for measure in facts["measures"]:
                    print(f"round {turn} of {rounds}: {client} {measure}", file=sys.stderr)
                    told = _ask(stage, client, measure, count, seconds)
                    best[client, measure] = max(told, best.get((client, measure), told), key=itemgetter("rate"))
    print(f"\n{version}. {server.note} Per second, best of {rounds}; in brackets the client's CPU time of each.\n")
    _print_row("client", *server.measures.values())
    _print_row("---", *["---:"] * len(server.measures))
    for client, facts in found.items():
        _print_row(facts["title"], *(_cell(best.get((client, measure))) for measure in server.measures))
    versions = {package: version for facts in found.values() for package, version in facts["versions"].items()}
    print(f"\n{', '.join(f'{package} {version}' for package, version in versions.items())}")


@contextmanager
def _running(stage: Stage, name: str) -> Iterator[str]:
    """Run the server; yield what it is."""
    if name == "amqp":
        with rabbitmq_server.running(stage) as node:
            yield f"RabbitMQ {node.version}, one node"
    else:
        with redis_server.running(stage) as line:
            version = info(line, "server")["redis_version"]
            yield f"Redis {version}, without persistence"


def _ask(stage: Stage, client: str, measure: str, count: int, seconds: float) -> Told:
    """Run one measuring process on an empty server; return what it prints."""
    with stage.scratch() as folder:  # empties the server
        url = stage.variables.get(RABBITMQ_VARIABLE) or stage.variables[REDIS_VARIABLE]
        if RABBITMQ_VARIABLE in stage.variables and measure != "facts":
            _prepare(url, count if measure == CONSUME else 0)
        done = subprocess.run(
            [interpreter(client), "-m", "benchmarks.clients.measure", client, measure, str(count), str(seconds)],
            cwd=ROOT, env={**environment(folder), URL_VARIABLE: url, "PYTHONWARNINGS": "ignore"}, text=True,
            stdin=subprocess.DEVNULL, capture_output=True, timeout=TIMEOUT_SECONDS, check=False,
        )  # fmt: skip
    if done.returncode:
        raise BenchmarkError(f"{client} {measure} has failed:\n{done.stderr[-2000:]}")
    told: Told = json.loads(done.stdout.splitlines()[-1])
    return told


def _prepare(url: str, count: int) -> None:
    """Declare the queue, and put so many messages into it."""
    connection = Connection(Address.of(url), SETUP_SECONDS)
    try:
        connection.call(commands.Queue.Declare(queue=QUEUE, durable=True), monotonic() + SETUP_SECONDS)
        connection.publish([Publication("", QUEUE, properties(), BODY)] * count, SETUP_SECONDS)
    finally:
        connection.close()


def _cell(told: Told | None) -> str:
    return "" if told is None else f"{number(told['rate'])} ({told['cpu_us']:.0f} µs)"


def _print_row(*cells: str) -> None:
    print(f"| {' | '.join(cells)} |")


if __name__ == "__main__":
    sys.exit(main())
