"""Celery on RabbitMQ with py-amqp and publisher confirms; results in PostgreSQL, by SQLAlchemy and psycopg 3."""

from __future__ import annotations

from benchmarks.peers.celery_family import SETTINGS, CeleryPeer
from benchmarks.peers.rabbitmq_peer import URL, RabbitMQPeer
from benchmarks.peers.store_peer import URL as STORE


class CeleryRabbitMQPostgreSQL(CeleryPeer, RabbitMQPeer):
    """With the settings that the issue requires."""

    packages = ("celery", "kombu", "amqp", "sqlalchemy", "psycopg")
    settings = f"{SETTINGS}; durable messages, confirmed (confirm_publish); measured by messages not pushed"
    pace = 400
    queue = "celery"


PEER = CeleryRabbitMQPostgreSQL(__name__, URL, STORE.replace("postgresql:", "postgresql+psycopg:"),
                                broker_transport_options={"confirm_publish": True})  # fmt: skip
app = PEER.app
