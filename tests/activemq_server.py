"""A real ActiveMQ for the tests: on free ports, its data in a temporary folder, run by an unprivileged user."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path
from typing import Any

from celeriac.brokers.queue_server.envelope import Envelope, Parcel
from celeriac.brokers.queue_server.lease import QueueServerLease
from celeriac.brokers.queue_server.topology import DEAD
from celeriac.brokers.queue_server.transport import Unsent
from celeriac.brokers.stomp import StompBroker
from celeriac.brokers.stomp.transport import StompTransport
from celeriac.drivers.stomp.server import Server
from celeriac.model.clock import Clock
from celeriac.model.message import new_id
from celeriac.ports.broker import Lease
from tests.amqp10_server import QUEUES
from tests.certificates import Certificates
from tests.clock import FakeClock
from tests.patience import FOR_EVER, PATIENCE
from tests.ports import free_ports
from tests.server_process import missing
from tests.signalling import send

__all__ = ["STOMP_VARIABLE", "ActiveMQServer", "StompClock", "die", "elsewhere", "running_activemq", "timed"]

HOME = Path("/usr/share/activemq")
MISSING = "activemq is not installed: apt-get install --no-install-recommends activemq default-jre-headless"
USER = "activemq"

STOMP_VARIABLE = "CELERIAC_TEST_STOMP_URL"

SPRING, ACTIVEMQ = "http://www.springframework.org/schema/beans", "http://activemq.apache.org/schema/core"
BEANS = f"""
<beans xmlns="{SPRING}" xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance"
  xsi:schemaLocation="{SPRING} {SPRING}/spring-beans-2.0.xsd {ACTIVEMQ} {ACTIVEMQ}/activemq-core.xsd">
{{brokers}}
</beans>
"""
SERVER = """
  <broker xmlns="http://activemq.apache.org/schema/core" brokerName="{name}" useJmx="false" {broker}
          dataDirectory="{folder}/{name}">
    <destinationPolicy><policyMap><policyEntries>
      <policyEntry queue=">" {policy}/>
    </policyEntries></policyMap></destinationPolicy>
    <persistenceAdapter>
      <kahaDB directory="{folder}/{name}/kahadb" journalMaxFileLength="{file}" checkpointInterval="500"
              cleanupInterval="500"/>
    </persistenceAdapter>
    {more}
    <transportConnectors>{connectors}</transportConnectors>
  </broker>
"""
LOG = """
log4j.rootLogger=INFO,F
log4j.appender.F=org.apache.log4j.FileAppender
log4j.appender.F.File={folder}/activemq.log
log4j.appender.F.layout=org.apache.log4j.PatternLayout
log4j.appender.F.layout.ConversionPattern=%d %p %c{{1}} %m%n
"""
BROKER = 'schedulerSupport="true"'
POLICY = 'prioritizedMessages="true" maxPageSize="100000" maxBrowsePageSize="100000"'
USERS = """<plugins><simpleAuthenticationPlugin><users>
  <authenticationUser username="me" password="se:cret" groups="all"/>
</users></simpleAuthenticationPlugin></plugins>"""
ROOM = '<systemUsage><systemUsage><storeUsage><storeUsage limit="4 mb"/></storeUsage></systemUsage></systemUsage>'
KEYS = """<sslContext>
  <sslContext keyStore="file:{folder}/keys.p12" keyStoreType="pkcs12" keyStorePassword="secret"/>
</sslContext>"""


class ActiveMQServer:
    """`activemq`, that can be killed, frozen and started again with its data.

    With `others`, the same process has more brokers: one that is `bare` (not set up for Celeriac, with a user, taking
    small frames), and one that is `tight` (with room for 4 MB); and the first one is reached over TLS, too.
    """

    def __init__(self, folder: Path, others: bool = False) -> None:
        if not (HOME / "bin/activemq.jar").exists() or shutil.which("java") is None:
            missing(MISSING)
        self.folder = folder
        self.port, self.bare_port, self.tight_port, self.tls_port = free_ports(4)
        self.process: subprocess.Popen[bytes] | None = None
        self._spaces = count(1)
        self._ports = [self.port, self.bare_port, self.tight_port, self.tls_port] if others else [self.port]
        brokers = [self._broker("test", self.port, BROKER, POLICY)]
        if others:
            self.certificates = Certificates(folder / "ca")
            self.certificates.keystore(*self.certificates.sign("server", "IP:127.0.0.1"), folder / "keys.p12")
            tls = f'<transportConnector name="tls" uri="stomp+ssl://127.0.0.1:{self.tls_port}"/>'
            brokers = [
                self._broker("test", self.port, BROKER, POLICY, more=KEYS.format(folder=folder), connectors=tls),
                self._broker("bare", self.bare_port, more=USERS, options="?wireFormat.maxFrameSize=100000"),
                self._broker("tight", self.tight_port, policy=POLICY, more=ROOM, file="512kb"),
            ]
        (folder / "activemq.xml").write_text(BEANS.format(brokers="".join(brokers)))
        (folder / "log4j.properties").write_text(LOG.format(folder=folder))
        self._account: dict[str, Any] = {}
        if os.geteuid() == 0:
            self._account = {"user": USER, "group": USER, "extra_groups": []}
            for path in (folder, *folder.iterdir()):
                shutil.chown(path, USER, USER)
        self.start()

    def _broker(self, name: str, port: int, broker: str = "", policy: str = "", more: str = "", options: str = "",
                connectors: str = "", file: str = "4mb") -> str:  # fmt: skip
        first = f'<transportConnector name="{name}-stomp" uri="stomp://127.0.0.1:{port}{options}"/>'
        return SERVER.format(name=name, broker=broker, policy=policy, more=more, file=file, folder=self.folder,
                             connectors=first + connectors)  # fmt: skip

    def start(self) -> None:
        """Start it, and wait until it takes connections."""
        folder = self.folder
        opens = [f"java.base/java.{name}=ALL-UNNAMED" for name in ("lang", "util", "net")]
        self.process = subprocess.Popen(
            ["java", "-Xms64M", "-Xmx256M", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", f"-Djava.io.tmpdir={folder}",
             *(part for one in opens for part in ("--add-opens", one)), f"-Dactivemq.classpath={folder}:",
             f"-Dactivemq.home={HOME}", f"-Dactivemq.base={folder}", f"-Dactivemq.conf={folder}",
             f"-Dactivemq.data={folder}/data", "-jar", str(HOME / "bin/activemq.jar"), "start",
             f"xbean:file:{folder}/activemq.xml"],
            cwd=folder, env={"HOME": str(folder), "PATH": "/usr/bin:/bin", "LANG": "C.UTF-8"}, **self._account,
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        deadline = time.monotonic() + FOR_EVER  # it computes for seconds
        while True:
            with suppress(OSError):
                for port in self._ports:
                    socket.create_connection(("127.0.0.1", port)).close()
                return
            assert self.process.poll() is None, (folder / "activemq.log").read_text()
            assert time.monotonic() < deadline, "activemq did not start"
            time.sleep(0.05)

    def send(self, number: int) -> None:
        assert self.process is not None
        send(self.process.pid, number)

    def kill(self, number: int = signal.SIGKILL) -> None:
        assert self.process is not None
        if number != signal.SIGKILL:
            self.send(signal.SIGCONT)
        self.send(number)
        self.process.wait(PATIENCE)
        self.process = None

    def end(self) -> None:
        if self.process is not None:
            self.kill()

    def url(self, space: str = "", credentials: str = "", port: int = 0, scheme: str = "stomp") -> str:
        """Return a URL under which names begin in their own way, so that nothing of other tests is there."""
        return f"{scheme}://{credentials}127.0.0.1:{port or self.port}/{space or f'test{next(self._spaces)}'}"


@contextmanager
def running_activemq(others: bool = False) -> Iterator[ActiveMQServer]:
    """Run a server for as long as a block lasts, in a folder that another user may enter."""
    with tempfile.TemporaryDirectory(prefix="celeriac-activemq-", ignore_cleanup_errors=True) as folder:
        os.chmod(folder, 0o755)
        server = ActiveMQServer(Path(folder), others)
        try:
            yield server
        finally:
            server.end()


class StompClock(FakeClock):
    """Time that passes for delayed messages too: it keeps them itself, since a server's scheduler goes by its own."""

    def __init__(self) -> None:
        super().__init__()
        self.kept: list[tuple[float, Envelope, StompBroker]] = []

    def advance(self, seconds: float) -> None:
        super().advance(seconds)
        due = [one for one in self.kept if one[0] <= self.now()]
        self.kept = [one for one in self.kept if one[0] > self.now()]
        for _, envelope, broker in sorted(due, key=lambda one: one[0]):
            broker.sender.publish([envelope._replace(delay=0.0)])


def timed(broker: StompBroker, clock: StompClock) -> StompBroker:
    """Return a broker whose delayed messages wait in a clock."""
    transport = broker.transport
    assert isinstance(transport, StompTransport)
    send_now = transport.publish

    def publish(envelopes: Sequence[Envelope], parcels: Sequence[Parcel], now: float,
                keep: Callable[[Unsent], None]) -> Any:  # fmt: skip
        later = {number for number, one in enumerate(envelopes) if one.seconds(now) > 0}
        clock.kept += [(now + envelopes[number].seconds(now), envelopes[number], broker) for number in sorted(later)]
        return send_now([one for number, one in enumerate(envelopes) if number not in later], parcels, now, keep)

    transport.publish = publish  # type: ignore[method-assign]
    return broker


def elsewhere() -> tuple[str, bool]:
    """Return the URL of the server that `CELERIAC_TEST_STOMP_URL` names, for one test, and whether it is an ActiveMQ.

    There, names begin in an own way each time. Elsewhere the queues of the tests are emptied.
    """
    url = os.environ[STOMP_VARIABLE]
    server = Server(url, timeout=PATIENCE)
    broker = StompBroker(server, Clock())
    broker.complete(broker.transport.learn())
    is_activemq = server.facts.dialect.product == "ActiveMQ"
    if is_activemq:
        url = f"{url.rstrip('/')}{'.' if server.address.vhost != '/' else '/'}{new_id()}"
    else:
        broker.complete(_empty(broker))
    server.close()
    return url, is_activemq


async def _empty(broker: StompBroker) -> None:
    names = [name for queue in QUEUES for name in (queue, f"{queue}/coroutine", f"{queue}{DEAD}")]
    async with broker.transport.inspecting() as inspection:
        await inspection.read_journal("journal", lambda bodies: [False] * len(bodies))
        for name in names:
            async with inspection.taking(name, 10_000) as taken:
                taken.acknowledge([one.tag for one in taken.messages])


async def die(lease: Lease) -> None:
    """Let a worker die: its connection ends without a word, and the server notices."""
    assert isinstance(lease, QueueServerLease)
    assert isinstance(lease._transport, StompTransport)
    assert lease._lost is None, lease._lost
    async with lease._transport.inspecting() as inspection:
        before = await inspection.workers()
        lease.connection.abandon()
        if not lease._transport.topology.dialect.browses:
            await asyncio.sleep(0.5)  # nothing tells
            return
        while await inspection.workers() >= before:
            await asyncio.sleep(0.01)  # between two looks
