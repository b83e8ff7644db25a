"""Celeriac over its hub, with CURVE keys."""

from __future__ import annotations

import asyncio
import os
import threading
from sqlite3 import Connection, connect

from benchmarks.peers.base import HUB_FILE_VARIABLE, HUB_VARIABLE
from benchmarks.peers.celeriac_family import CeleriacPeer, noop
from celeriac import Celeriac
from celeriac.worker.options import WorkerOptions
from celeriac.worker.supervisor import Supervisor

URL = os.environ.get(HUB_VARIABLE, "zmq://127.0.0.1:5557")


class CeleriacHub(CeleriacPeer):
    """With default settings. What has ended is counted in the file of the hub, as in the embedded one."""

    title = "Celeriac's hub"
    packages = ("celeriac", "uvloop", "pyzmq")
    settings = "defaults: one hub on the same machine, CURVE; WAL, synchronous=normal; at least once; results kept"
    pace = 40_000
    _reader: Connection | None = None

    def completed(self) -> int:
        if self._reader is None:
            self._reader = connect(os.environ[HUB_FILE_VARIABLE])
        count: int = self._reader.execute("SELECT count(*) FROM outcomes").fetchone()[0]
        return count

    def waiting(self) -> int:
        counts = self.app.broker.complete(self.app.broker.operations().queues())
        return sum(queue.ready for queue in counts)

    def crowd(self, count: int) -> None:
        """Be idle workers, each with a connection of its own, until this process is ended."""
        threading.Thread(target=asyncio.run, args=[_crowd(count)], daemon=True).start()
        threading.Event().wait()


async def _crowd(count: int) -> None:
    async with asyncio.TaskGroup() as workers:
        for number in range(count):
            # Apps with the same settings share a connection.
            app = Celeriac(broker_url=URL, broker_publish_timeout=30.0 + number / 1000)
            app.task(name="noop")(noop)
            options = WorkerOptions.of(app, name=f"idle{number}", queues=["default"], concurrency=1, pool="threads")
            workers.create_task(Supervisor(app, options).run())


PEER = CeleriacHub(__name__, URL)
app = PEER.app
