"""Three nodes of RabbitMQ as one cluster, for the tests: each can be killed, frozen and started again."""

from __future__ import annotations

import os
import secrets
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from urllib.parse import quote

from tests.patience import wait_for
from tests.rabbitmq_server import RabbitServer, free_ports

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
            settings[f"cluster_formation.classic_config.nodes.{number}"] = f"celeriac{port}@localhost"
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
        wait_for(lambda: len([node for node in first.ask("GET", "/api/nodes") if node["running"]]) == len(self.nodes),
                 "nodes that run as one cluster")  # fmt: skip

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
