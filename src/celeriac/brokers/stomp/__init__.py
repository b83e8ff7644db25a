"""Messages in ActiveMQ, or in RabbitMQ through its STOMP plugin."""

from celeriac.brokers.stomp.broker import StompBroker, connect

__all__ = ["StompBroker", "connect"]
