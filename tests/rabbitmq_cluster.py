"""Three nodes of RabbitMQ as one cluster, for the tests: each can be killed, frozen and started again."""

from __future__ import annotations

import http.client
import os
import secrets
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from urllib.parse import quote

from tests.patience import wait_for
from tests.ports import free_ports
from tests.rabbitmq_server import RabbitServer, node_name

__all__ = ["RabbitCluster", "running_cluster"]

NODES = 3


class RabbitCluster:
    """The nodes of a cluster. A minority pauses (`cluster_partition_handling`), as RabbitMQ advises for three nodes."""

    def __init__(self, folders: list[Path]) -> None:
        cookie = secrets.token_hex(10)
        *ports, epmd = free_ports(3 * len(folders) + 1)
        own = [(ports[3 * number : 3 * number + 3]) for number in range(len(folders))]
        settings = {"cluster_partition_handling": "pause_minority",
                    "cluster_formation.peer_discovery_backend": "classic_config"}  # fmt: skip
        for number, (port, _, _) in enumerate(own, 1):
            settings[f"cluster_formation.classic_config.nodes.{number}"] = node_name(port)
        self.nodes = [
            RabbitServer(folder, [*three, epmd], cookie, **settings) for folder, three in zip(folders, own, strict=True)
        ]

    def start(self) -> None:
        """Start all nodes, and wait until they have found each other."""
        first = self.nodes[0]
        first.start_epmd()
        for node in self.nodes:
            node.launch()
        for node in self.nodes:
            node.wait()
        self.wait()

    def wait(self) -> None:
        """Wait until each node sees all others."""
        wait_for(lambda: all(self._running(node) == len(self.nodes) for node in self.nodes), "a whole cluster")

    def _running(self, node: RabbitServer) -> int:
        """Return how many nodes run, as one of them sees it; 0 if that does not answer."""
        try:
            found = node.ask("GET", "/api/nodes?columns=running")
        except (OSError, http.client.HTTPException):
            return 0
        return len([one for one in found or () if one.get("running")])

    def leader(self, vhost: str, queue: str, without: RabbitServer) -> RabbitServer | None:
        """Return the node that leads a queue, as the others than one see it; None while they elect it."""
        seer = next(node for node in self.nodes if node is not without)
        try:
            found = seer.ask("GET", f"/api/queues/{quote(vhost, safe='')}/{quote(queue, safe='')}?columns=leader,state")
        except (OSError, http.client.HTTPException):
            return None
        leader = (found or {}).get("leader", "")
        return next((node for node in self.nodes if node is not without and node.name == leader), None)

    def end(self) -> None:
        """Kill all nodes."""
        for node in reversed(self.nodes):
            node.end()

    def url(self, vhost: str = "/") -> str:
        """Return the URL that names all nodes."""
        hosts = ",".join(f"127.0.0.1:{node.port}" for node in self.nodes)
        return f"amqp://guest:guest@{hosts}/{quote(vhost, safe='')}"


@contextmanager
def running_cluster() -> Iterator[RabbitCluster]:
    """Run a cluster for as long as a block lasts."""
    with ExitStack() as stack:
        folders = []
        for _ in range(NODES):
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="celeriac-rabbitmq-",
                                                                     ignore_cleanup_errors=True))  # fmt: skip
            os.chmod(folder, 0o755)
            folders.append(Path(folder))
        cluster = RabbitCluster(folders)
        stack.callback(cluster.end)
        cluster.start()
        yield cluster
