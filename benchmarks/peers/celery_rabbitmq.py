"""Celery on RabbitMQ by py-amqp, with publisher confirms; results, where they are wanted, over `rpc://`."""

from __future__ import annotations

from benchmarks.peers.celery_family import SETTINGS, CeleryPeer
from benchmarks.peers.rabbitmq_peer import URL, RabbitMQPeer


class CeleryRabbitMQ(CeleryPeer, RabbitMQPeer):
    """As the issue sets it."""

    packages = ("celery", "kombu", "amqp")
    settings = f"{SETTINGS}; durable messages, confirmed (confirm_publish); measured by messages not pushed"
    pace = 1_500
    queue = "celery"


PEER = CeleryRabbitMQ(__name__, URL, "rpc://", broker_transport_options={"confirm_publish": True})
app = PEER.app
