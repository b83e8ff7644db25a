"""Celeriac on RabbitMQ, with results in PostgreSQL."""

from __future__ import annotations

from benchmarks.peers.celeriac_family import CeleriacPeer
from benchmarks.peers.rabbitmq_peer import URL, RabbitMQPeer
from benchmarks.peers.store_peer import URL as STORE


class CeleriacRabbitMQPostgreSQL(CeleriacPeer, RabbitMQPeer):
    """With default settings."""

    packages = ("celeriac", "uvloop", "pamqp", "sqlalchemy", "psycopg")
    settings = ("defaults: durable messages, confirmed; at least once, acknowledged late; measured by messages not "
                "pushed")  # fmt: skip
    pace = 10_000
    queue = "default"


PEER = CeleriacRabbitMQPostgreSQL(__name__, URL, result_backend=STORE)
app = PEER.app
