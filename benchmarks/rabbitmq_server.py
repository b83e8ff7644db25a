"""A RabbitMQ node for one benchmark: on free ports, with an empty vhost for each measurement.

`running` passes its URL to the measuring processes in an environment variable. If started as root, the node runs as the
user that Debian's package creates. The management plug-in is used only to create vhosts; its metrics are disabled.
"""

from __future__ import annotations

import base64
import http.client
import json
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from itertools import count
from pathlib import Path
from typing import Any

from benchmarks.peers.base import RABBITMQ_VARIABLE
from benchmarks.server import answer, shared
from benchmarks.stage import BenchmarkError, Stage
from tests.ports import free_ports

__all__ = ["Node", "running"]

PROGRAM = "/usr/lib/rabbitmq/bin/rabbitmq-server"  # the wrapper in the PATH switches the user itself
MISSING = "rabbitmq-server is not installed: apt-get install rabbitmq-server"
USER = "rabbitmq"
START_SECONDS = 60.0
GRACE_SECONDS = 5.0  # for the node to end
VHOST_SECONDS = 60.0  # for deleting a vhost with all its messages


class Node:
    """A server with its data in `folder`; `vhost` belongs to the current measurement."""

    version = ""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port, self._http, dist, epmd = free_ports(4)
        self.vhost = ""
        self._numbers = count(1)
        self._account: dict[str, Any] = {"user": USER, "group": USER, "extra_groups": []} if os.geteuid() == 0 else {}
        settings = {
            "listeners.tcp.1": f"127.0.0.1:{self.port}", "management.tcp.ip": "127.0.0.1",
            "management.tcp.port": str(self._http), "management_agent.disable_metrics_collector": "true",
            "log.console": "false",
        }  # fmt: skip
        (folder / "rabbitmq.conf").write_text("".join(f"{key} = {value}\n" for key, value in settings.items()))
        (folder / "plugins").write_text("[rabbitmq_management].")
        self._environment = {
            "HOME": str(folder), "PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8",
            "RABBITMQ_NODENAME": f"benchmark{self.port}@localhost", "RABBITMQ_CONF_ENV_FILE": "/dev/null",
            "RABBITMQ_CONFIG_FILE": str(folder / "rabbitmq.conf"), "RABBITMQ_LOG_BASE": str(folder / "log"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(folder / "plugins"), "RABBITMQ_MNESIA_BASE": str(folder / "mnesia"),
            "RABBITMQ_PID_FILE": str(folder / "pid"), "RABBITMQ_DIST_PORT": str(dist),
            "ERL_EPMD_PORT": str(epmd), "ERL_EPMD_ADDRESS": "127.0.0.1",
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "-kernel inet_dist_use_interface {127,0,0,1}",
        }  # fmt: skip
        if self._account:
            folder.chmod(0o755)
            for path in (folder, *folder.iterdir()):
                shutil.chown(path, USER, USER)
        self._processes = [self._run("epmd", "-address", "127.0.0.1", "-port", str(epmd))]
        try:
            self._processes.append(self._run(PROGRAM))
            output = folder / "output"
            overview = answer(self._processes[1], lambda: self._ask("GET", "overview"), START_SECONDS, output)
            self.version = f"{overview['rabbitmq_version']} on Erlang {overview['erlang_version']}"
        except BaseException:
            self.end()
            raise

    def _run(self, *command: str) -> subprocess.Popen[bytes]:
        with (self.folder / "output").open("a") as output:
            return subprocess.Popen(
                command, cwd=self.folder, env=self._environment, start_new_session=True, stdin=subprocess.DEVNULL,
                stdout=output, stderr=output, **self._account,
            )  # fmt: skip

    @property
    def url(self) -> str:
        """The URL of the current measurement's vhost."""
        return f"amqp://guest:guest@127.0.0.1:{self.port}/{self.vhost}"

    def renew(self) -> None:
        """Delete the vhost with all its contents, and create a new one."""
        try:
            if self.vhost:
                self._ask("DELETE", f"vhosts/{self.vhost}")
            self.vhost = f"measurement-{next(self._numbers)}"
            self._ask("PUT", f"vhosts/{self.vhost}")
        except OSError as error:
            raise BenchmarkError(f"RabbitMQ could not create a vhost: {error}") from error

    def _ask(self, method: str, path: str) -> dict[str, Any]:
        """Send a request to the management API; raise `ConnectionError` if it fails."""
        connection = http.client.HTTPConnection("127.0.0.1", self._http, timeout=VHOST_SECONDS)
        secret = base64.b64encode(b"guest:guest").decode()
        try:
            connection.request(method, f"/api/{path}", headers={"Authorization": f"Basic {secret}"})
            reply = connection.getresponse()
            data = reply.read()
        except http.client.HTTPException as error:
            raise ConnectionError(f"{method} {path}: {error!r}") from error
        finally:
            connection.close()
        if reply.status >= 400:
            raise ConnectionError(f"{method} {path}: {reply.status} {reply.reason}")
        document: dict[str, Any] = json.loads(data) if data else {}
        return document

    def end(self) -> None:
        """Kill the server and its descendants; its data is not needed any more."""
        with suppress(OSError, ValueError, subprocess.TimeoutExpired):
            os.kill(int((self.folder / "pid").read_text()), signal.SIGKILL)  # its parent, a shell script, then ends
            self._processes[-1].wait(GRACE_SECONDS)
        for process in reversed(self._processes):
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # it has its own session, so no other process is in this group
            process.wait()


@contextmanager
def running(stage: Stage) -> Iterator[Node]:
    """Run a node within a `with` block, for all of the stage's measurements.

    A quick run has one node for all benchmarks, until the stage ends: its start takes longer than they do.
    """
    with ExitStack() as block:
        node = stage.kept.get(RABBITMQ_VARIABLE)
        if node is None:
            node = (stage.end if stage.quick else block).enter_context(_started(stage))
            if stage.quick:
                stage.kept[RABBITMQ_VARIABLE] = node

        def clear() -> None:
            node.renew()
            stage.variables[RABBITMQ_VARIABLE] = node.url

        with shared(stage, {RABBITMQ_VARIABLE: node.url}, clear):
            yield node


@contextmanager
def _started(stage: Stage) -> Iterator[Node]:
    if not Path(PROGRAM).exists():
        raise BenchmarkError(MISSING)
    with stage.scratch() as folder:
        node = Node(folder)
        try:
            yield node
        finally:
            node.end()
