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

import pytest

from celeriac.brokers.queue_server.envelope import Envelope, Parcel
from celeriac.brokers.queue_server.lease import QueueServerLease
from celeriac.brokers.queue_server.transport import Unsent
from celeriac.brokers.stomp import StompBroker
from celeriac.brokers.stomp.transport import StompTransport
from celeriac.ports.broker import Lease
from tests.clock import FakeClock
from tests.patience import PATIENCE
from tests.ports import free_port
from tests.signalling import send

__all__ = ["ActiveMQServer", "StompClock", "die", "running_activemq", "timed"]

HOME = Path("/usr/share/activemq")
MISSING = "activemq is not installed: apt-get install --no-install-recommends activemq default-jre-headless"
USER = "activemq"

SPRING, ACTIVEMQ = "http://www.springframework.org/schema/beans", "http://activemq.apache.org/schema/core"
CONFIGURATION = f"""
<beans xmlns="{SPRING}" xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance"
  xsi:schemaLocation="{SPRING} {SPRING}/spring-beans-2.0.xsd {ACTIVEMQ} {ACTIVEMQ}/activemq-core.xsd">
""" + """
  <broker xmlns="http://activemq.apache.org/schema/core" brokerName="test" useJmx="false" {broker}
          dataDirectory="{folder}/data">
    <destinationPolicy><policyMap><policyEntries>
      <policyEntry queue=">" {policy}/>
    </policyEntries></policyMap></destinationPolicy>
    <persistenceAdapter><kahaDB directory="{folder}/data/kahadb" journalMaxFileLength="4mb"/></persistenceAdapter>
    {plugins}
    <transportConnectors>
      <transportConnector name="stomp" uri="{uri}"/>
    </transportConnectors>
  </broker>
</beans>
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


class ActiveMQServer:
    """`activemq`, that can be killed, frozen and started again with its data."""

    def __init__(self, folder: Path, broker: str = BROKER, policy: str = POLICY, plugins: str = "", options: str = "",
                 scheme: str = "stomp", java: Sequence[str] = ()) -> None:  # fmt: skip
        if not (HOME / "bin/activemq.jar").exists() or shutil.which("java") is None:
            if os.environ.get("CELERIAC_TEST_REQUIRE") == "all":
                pytest.fail(MISSING)
            pytest.skip(MISSING)
        self.folder = folder
        self.port = free_port()
        self.process: subprocess.Popen[bytes] | None = None
        self._java = java
        self._spaces = count(1)
        (folder / "activemq.xml").write_text(CONFIGURATION.format(
            broker=broker, folder=folder, policy=policy, plugins=plugins,
            uri=f"{scheme}://127.0.0.1:{self.port}{options}",
        ))  # fmt: skip
        (folder / "log4j.properties").write_text(LOG.format(folder=folder))
        self._account: dict[str, Any] = {}
        if os.geteuid() == 0:
            self._account = {"user": USER, "group": USER, "extra_groups": []}
            for path in (folder, *folder.iterdir()):
                shutil.chown(path, USER, USER)
        self.start()

    def start(self) -> None:
        """Start it, and wait until it takes connections."""
        folder = self.folder
        opens = [f"java.base/java.{name}=ALL-UNNAMED" for name in ("lang", "util", "net")]
        self.process = subprocess.Popen(
            ["java", "-Xms64M", "-Xmx256M", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", f"-Djava.io.tmpdir={folder}",
             *(part for one in opens for part in ("--add-opens", one)), f"-Dactivemq.classpath={folder}:",
             f"-Dactivemq.home={HOME}", f"-Dactivemq.base={folder}", f"-Dactivemq.conf={folder}",
             f"-Dactivemq.data={folder}/data", *self._java, "-jar", str(HOME / "bin/activemq.jar"), "start",
             f"xbean:file:{folder}/activemq.xml"],
            cwd=folder, env={"HOME": str(folder), "PATH": "/usr/bin:/bin", "LANG": "C.UTF-8"}, **self._account,
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        deadline = time.monotonic() + PATIENCE
        while True:
            with suppress(OSError), socket.create_connection(("127.0.0.1", self.port)):
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

    def url(self, space: str = "", credentials: str = "") -> str:
        """Return a URL under which names begin in their own way, so that nothing of other tests is there."""
        return f"stomp://{credentials}127.0.0.1:{self.port}/{space or f'test{next(self._spaces)}'}"


@contextmanager
def running_activemq(**options: Any) -> Iterator[ActiveMQServer]:
    """Run a server for as long as a block lasts; in a folder that another user may enter."""
    with tempfile.TemporaryDirectory(prefix="celeriac-activemq-", ignore_cleanup_errors=True) as folder:
        os.chmod(folder, 0o755)
        server = ActiveMQServer(Path(folder), **options)
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
