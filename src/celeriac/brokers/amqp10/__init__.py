"""Messages in a server of AMQP 1.0: ActiveMQ, Artemis, Qpid, RabbitMQ and others."""

from celeriac.brokers.amqp10.broker import Amqp10Broker, connect

__all__ = ["Amqp10Broker", "connect"]
