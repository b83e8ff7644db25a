"""Celeriac over its hub, with CURVE keys."""

from __future__ import annotations

import os
from sqlite3 import Connection, connect

from benchmarks.peers.base import HUB_FILE_VARIABLE, HUB_VARIABLE
from benchmarks.peers.celeriac_family import CeleriacPeer

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


PEER = CeleriacHub(__name__, URL)
app = PEER.app
