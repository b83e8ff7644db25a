"""Messages in RabbitMQ, or another AMQP 0-9-1 broker."""

from celeriac.brokers.amqp.broker import AmqpBroker, connect

__all__ = ["AmqpBroker", "connect"]
