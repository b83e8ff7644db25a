"""A real RabbitMQ for the tests: on free ports, its data in a temporary folder, run by an unprivileged user."""

from __future__ import annotations

import asyncio
import base64
import http.client
import json
import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

from pamqp import commands

from celeriac.brokers.amqp import AmqpBroker
from celeriac.brokers.amqp.topology import AmqpTopology
from celeriac.brokers.amqp.transport import AmqpTransport, post
from celeriac.brokers.queue_server.envelope import Envelope
from celeriac.brokers.queue_server.journal import CHANNEL as JOURNAL
from celeriac.brokers.queue_server.lease import QueueServerLease
from celeriac.brokers.queue_server.sender import DELAYS
from celeriac.brokers.queue_server.transport import Inspection
from celeriac.drivers.amqp.frames import Content, acknowledge
from celeriac.drivers.amqp.server import Server
from celeriac.model.clock import Clock
from celeriac.model.codec import PLAIN_CODEC
from celeriac.model.message import decode
from celeriac.ports.broker import Lease
from tests.certificates import Certificates
from tests.clock import FakeClock
from tests.patience import PATIENCE, wait_for
from tests.ports import free_port, free_ports
from tests.server_process import ServerProcess, missing
from tests.signalling import send

__all__ = [
    "STOMP",
    "FrailRabbit",
    "Place",
    "RabbitClock",
    "RabbitServer",
    "a_place",
    "die",
    "entries_of",
    "node_name",
    "running_frail_rabbit",
    "running_rabbit",
]  # fmt: skip

MISSING = "rabbitmq-server is not installed: apt-get install rabbitmq-server"
PROGRAM = "/usr/lib/rabbitmq/bin/rabbitmq-server"
USER = "rabbitmq"
STOMP = "stomp.listeners.tcp.1"


def node_name(port: int) -> str:
    """Return the name of a node, by its port."""
    return f"celeriac{port}@localhost"


class RabbitServer(ServerProcess):
    """`rabbitmq-server`, that can be stopped, killed, frozen and started again, with a new vhost for each test.

    `ports`: for AMQP, for HTTP, for other nodes, of epmd. A node of a cluster has a secret in common with the others,
    and their epmd; it is started by them (`tests/rabbitmq_cluster.py`).
    """

    def __init__(self, folder: Path, ports: Sequence[int] = (), cookie: str = "", **settings: str) -> None:
        if not os.path.exists(PROGRAM):
            missing(MISSING)
        self.folder = folder
        self.port, self.http, self.dist, self.epmd = ports or free_ports(4)
        self.name = node_name(self.port)
        self._epmd: subprocess.Popen[bytes] | None = None
        self._vhosts = count(1)
        self._account: dict[str, Any] = {"user": USER, "group": USER, "extra_groups": []} if os.geteuid() == 0 else {}
        settings = {
            "listeners.tcp.1": f"127.0.0.1:{self.port}", "management.tcp.ip": "127.0.0.1",
            "management.tcp.port": str(self.http), "log.console": "false", "disk_free_limit.absolute": "50MB",
            "vm_memory_high_watermark.absolute": "1GB", **settings,
        }  # fmt: skip
        (folder / "rabbitmq.conf").write_text("".join(f"{key} = {value}\n" for key, value in settings.items()))
        plugins = ["rabbitmq_management", "rabbitmq_amqp1_0"]
        if STOMP in settings:
            plugins.append("rabbitmq_stomp")
            self.stomp = settings[STOMP]
        (folder / "plugins").write_text(f"[{','.join(plugins)}].")
        own = {"channel_tick_interval": 500}  # looks for time-outs
        ticks = ""
        if cookie:  # as docs/brokers.md advises for clusters; faster, lest tests wait
            own["dead_letter_worker_publisher_confirm_timeout"] = 3000
            ticks = ", {kernel, [{net_ticktime, 8}]}"
        pairs = ", ".join(f"{{{key}, {value}}}" for key, value in own.items())
        (folder / "advanced.config").write_text(f"[{{rabbit, [{pairs}]}}{ticks}].")
        self._environment = {
            "HOME": str(folder), "PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8",
            "RABBITMQ_NODENAME": self.name, "RABBITMQ_CONF_ENV_FILE": "/dev/null",
            "RABBITMQ_CONFIG_FILE": str(folder / "rabbitmq.conf"), "RABBITMQ_LOG_BASE": str(folder / "log"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(folder / "plugins"), "RABBITMQ_MNESIA_BASE": str(folder / "mnesia"),
            "RABBITMQ_ADVANCED_CONFIG_FILE": str(folder / "advanced.config"),
            "RABBITMQ_PID_FILE": str(folder / "pid"), "RABBITMQ_DIST_PORT": str(self.dist),
            "ERL_EPMD_PORT": str(self.epmd), "ERL_EPMD_ADDRESS": "127.0.0.1",
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "-kernel inet_dist_use_interface {127,0,0,1}",
        }  # fmt: skip
        if cookie:
            (folder / ".erlang.cookie").write_text(cookie)
            (folder / ".erlang.cookie").chmod(0o400)
        if self._account:
            for path in (folder, *folder.iterdir()):
                shutil.chown(path, USER, USER)
        if not cookie:
            self.start_epmd()
            try:
                self.start()
            except BaseException:
                self.end()
                raise

    def start_epmd(self) -> None:
        """Start the name server of Erlang's nodes."""
        self._epmd = self._run("epmd", "-address", "127.0.0.1", "-port", str(self.epmd))

    def _run(self, *command: str) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            command, cwd=self.folder, env=self._environment, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL, **self._account,
        )  # fmt: skip

    def start(self) -> None:
        """Start it, and wait until it takes connections."""
        self.launch()
        self.wait()

    def launch(self) -> None:
        """Start it."""
        (self.folder / "pid").unlink(missing_ok=True)
        self.process = self._run(PROGRAM)

    def wait(self) -> None:
        """Wait until it takes connections."""
        deadline = time.monotonic() + PATIENCE
        while True:
            with suppress(OSError, http.client.HTTPException):
                if self.ask("GET", "/api/health/checks/virtual-hosts") is not None:
                    with socket.create_connection(("127.0.0.1", self.port)):  # it listens last of all
                        return
            assert self.process is not None
            assert self.process.poll() is None, "rabbitmq-server has ended"
            assert time.monotonic() < deadline, "rabbitmq-server did not start"
            time.sleep(0.1)

    @property
    def pid(self) -> int:
        """The server's process; `process` is the shell script that waits for it."""
        return int((self.folder / "pid").read_text())

    def send(self, number: int) -> None:
        send(self.pid, number)

    def end(self) -> None:
        if self.process is not None and self.process.poll() is None and (self.folder / "pid").exists():
            self.kill()
        if self._epmd is not None:
            self._epmd.kill()
            self._epmd.wait()

    # --- The management API ---------------------------------------------------------------------------

    def ask(self, method: str, path: str, body: Any = None) -> Any:
        connection = http.client.HTTPConnection("127.0.0.1", self.http, timeout=PATIENCE)
        try:
            secret = base64.b64encode(b"guest:guest").decode()
            headers = {"Authorization": f"Basic {secret}", "Content-Type": "application/json"}
            connection.request(method, path, json.dumps(body or {}) if method != "GET" else None, headers)
            answer = connection.getresponse()
            data = answer.read()
            if answer.status >= 400:
                return None
            return json.loads(data) if data else {}
        finally:
            connection.close()

    def vhost(self) -> str:
        """Make a vhost; return its name."""
        name = f"test {next(self._vhosts)}"
        everything = dict.fromkeys(("configure", "write", "read"), ".*")
        for path, body in ((f"vhosts/{quote(name)}", None), (f"permissions/{quote(name)}/guest", everything)):
            # Nodes of a cluster may not agree in time.
            wait_for(lambda path=path, body=body: self.ask("PUT", f"/api/{path}", body) is not None, path)
        return name

    def drop(self, vhost: str) -> None:
        self.ask("DELETE", f"/api/vhosts/{quote(vhost)}")

    def cut_connections(self) -> None:
        """Close every connection that the server knows of; it learns of new ones within a second or so."""
        path = "/api/connections?columns=name"
        for connection in wait_for(lambda: self.ask("GET", path), "a connection that the server knows of"):
            self.ask("DELETE", f"/api/connections/{quote(connection['name'])}")

    def control(self, *command: str) -> None:
        """Run `rabbitmqctl`."""
        subprocess.run(["/usr/lib/rabbitmq/bin/rabbitmqctl", *command], cwd=self.folder, env=self._environment,
                       check=True, capture_output=True, timeout=PATIENCE, **self._account)  # fmt: skip

    def stomp_url(self, vhost: str, credentials: str = "guest:guest") -> str:
        """Return the URL of a vhost by STOMP, if the server was started with it."""
        return f"stomp://{credentials}@{self.stomp}/{quote(vhost, safe='')}"

    def url(self, vhost: str, credentials: str = "guest:guest") -> str:
        return f"amqp://{credentials}@127.0.0.1:{self.port}/{quote(vhost, safe='')}"


@contextmanager
def running_rabbit(**settings: str) -> Iterator[RabbitServer]:
    """Run a server for as long as a block lasts; in a folder that another user may enter."""
    with tempfile.TemporaryDirectory(prefix="celeriac-rabbitmq-", ignore_cleanup_errors=True) as folder:
        os.chmod(folder, 0o755)
        server = RabbitServer(Path(folder), **settings)
        try:
            yield server
        finally:
            server.end()


class FrailRabbit(NamedTuple):
    """A server that tests may kill, freeze and set otherwise. It takes messages of at most 1 MB, and speaks TLS, too.

    By TLS it requires a client certificate; its own is for 127.0.0.1.
    """

    server: RabbitServer
    certificates: Certificates
    port: int  # for TLS


@contextmanager
def running_frail_rabbit() -> Iterator[FrailRabbit]:
    """Run such a server for as long as a block lasts."""
    with tempfile.TemporaryDirectory(prefix="celeriac-tls-") as folder:
        os.chmod(folder, 0o755)  # the server is another user
        certificates = Certificates(Path(folder) / "ours")
        certificate, key = certificates.sign("server", "IP:127.0.0.1")
        os.chmod(key, 0o644)
        port = free_port()
        settings = {
            "max_message_size": "1000000", "listeners.ssl.1": f"127.0.0.1:{port}",
            "ssl_options.cacertfile": str(certificates.authority), "ssl_options.certfile": str(certificate),
            "ssl_options.keyfile": str(key), "ssl_options.verify": "verify_peer",
            "ssl_options.fail_if_no_peer_cert": "true",
        }  # fmt: skip
        with running_rabbit(**settings) as server:
            yield FrailRabbit(server, certificates, port)


@dataclass
class Place:
    """A vhost of a server, and ways to it for one test."""

    rabbit: RabbitServer
    vhost: str
    servers: list[Server]

    @property
    def url(self) -> str:
        return self.rabbit.url(self.vhost)

    def server(self, url: str = "", **options: Any) -> Server:
        made = Server(url or self.url, **{"timeout": PATIENCE, **options})
        self.servers.append(made)
        return made

    def broker(self, url: str = "", **options: Any) -> AmqpBroker:
        return AmqpBroker(self.server(url, **options), Clock())


@contextmanager
def a_place(rabbit: RabbitServer) -> Iterator[Place]:
    """Make a vhost for as long as a block lasts."""
    made = Place(rabbit, rabbit.vhost(), [])
    try:
        yield made
    finally:
        for server in made.servers:
            server.close()
        rabbit.drop(made.vhost)


class RabbitClock(FakeClock):
    """Time that passes for what waits in the server's delays too."""

    def __init__(self, server: Server) -> None:
        super().__init__()
        self._server = server

    def advance(self, seconds: float) -> None:
        super().advance(seconds)
        if DELAYS not in self._server.declared:
            return
        topology = AmqpTopology.on(self._server)
        connection = self._server.connect_blocking(PATIENCE)
        deadline = time.monotonic() + PATIENCE
        for name in topology.delay_queues():
            while isinstance(got := connection.call(commands.Basic.Get(queue=name), deadline), Content):
                message = decode(got.body[1:])
                left = (message.due_at or 0.0) - self.now() - 1e-6
                line = topology.line_of(message)
                moved = post(Envelope(message, got.body[0], delay=left), topology, line, 0.0, PLAIN_CODEC)
                assert connection.publish([moved], PATIENCE) == []
                connection._write(acknowledge(1, got.tag, multiple=False))
        connection.close()


async def die(lease: Lease) -> None:
    """Let a worker die: its connection ends without a word, and the server notices."""
    assert isinstance(lease, QueueServerLease)
    assert isinstance(lease._transport, AmqpTransport)
    assert lease._lost is None, lease._lost
    server = lease._transport.server
    channel = await (await server.open(60.0, "test")).channel()
    roll = commands.Queue.Declare(queue=lease._transport.topology.presence, passive=True)
    before = (await channel.call(roll)).consumer_count
    lease.connection.abandon()
    while (await channel.call(roll)).consumer_count >= before:
        await asyncio.sleep(0.01)  # between two looks
    channel.connection.close()


async def entries_of(inspection: Inspection) -> list[bytes]:
    """Read the journal, and change nothing."""
    found: list[bytes] = []

    def keep(bodies: list[bytes]) -> list[bool]:
        found.extend(bodies)
        return [True] * len(bodies)

    await inspection.read_journal(JOURNAL, keep)
    return found
