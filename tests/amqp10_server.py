"""Servers of AMQP 1.0 for the tests, and how a worker dies there."""

from __future__ import annotations

import asyncio

from celeriac.brokers.amqp10.transport import Amqp10Transport
from celeriac.brokers.queue_server.lease import QueueServerLease
from celeriac.ports.broker import Lease

__all__ = ["die"]


async def die(lease: Lease) -> None:
    """Let a worker die: its connection ends without a word, and the server notices."""
    assert isinstance(lease, QueueServerLease)
    assert isinstance(lease._transport, Amqp10Transport)
    assert lease._lost is None, lease._lost
    async with lease._transport.inspecting() as inspection:
        before = await inspection.workers()
        lease.connection.abandon()
        while await inspection.workers() >= before:
            await asyncio.sleep(0.01)  # between two looks
