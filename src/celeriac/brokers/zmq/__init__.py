"""The broker of the hub: the embedded SQLite broker of another machine, over ZeroMQ."""

from celeriac.brokers.zmq.broker import HubBroker, connect

__all__ = ["HubBroker", "connect"]
