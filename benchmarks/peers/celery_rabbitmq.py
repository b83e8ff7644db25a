"""Celery on RabbitMQ with py-amqp and publisher confirms; results, where measured, with `rpc://`."""

from __future__ import annotations

from benchmarks.peers.celery_family import SETTINGS, CeleryPeer
from benchmarks.peers.rabbitmq_peer import URL, RabbitMQPeer


class CeleryRabbitMQ(CeleryPeer, RabbitMQPeer):
    """With the settings that the issue requires."""

    packages = ("celery", "kombu", "amqp")
    settings = f"{SETTINGS}; durable messages, confirmed (confirm_publish); measured by messages not pushed"
    pace = 1_500
    queue = "celery"


PEER = CeleryRabbitMQ(__name__, URL, "rpc://", broker_transport_options={"confirm_publish": True})
app = PEER.app
