"""The broker in memory: the reference for the conformance suite, and the broker of tests.

It is written to be read: where another broker is faster, this one shows the meaning. It lives in one process, so its
workers must run in threads of that process.
"""

from celeriac.brokers.memory.broker import MemoryBroker, connect

__all__ = ["MemoryBroker", "connect"]
