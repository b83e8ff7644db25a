"""Sweeps: returns what dead workers held to its queues, and ends what must not run again.

Each worker does so every second, and so does each gateway, unless the broker says when there is something to sweep.
What `Lease.sweep` hands over goes to the receiver, which reports it as lost.
"""

from __future__ import annotations

import asyncio

from celeriac.errors import AccessRefused, BrokerError, LeaseLost
from celeriac.worker.heartbeat import Heartbeat
from celeriac.worker.receiver import Receiver

__all__ = ["sweep"]

SWEEP = "sweep expired leases"  # the duty, for `Outages`
SWEEP_SECONDS = 1.0


async def sweep(heartbeat: Heartbeat, receiver: Receiver) -> None:
    """Sweep the expired leases of dead workers until cancelled."""
    while True:
        lease = heartbeat.lease
        try:
            taken_over = await lease.sweep() if heartbeat.may_sweep() else []
            heartbeat.outages.worked(SWEEP)
            await receiver.accept(taken_over)
            await lease.until_sweep(SWEEP_SECONDS)
            continue
        except LeaseLost:
            heartbeat.outages.worked(SWEEP)
            heartbeat.lost(lease)
        except AccessRefused:
            raise
        except BrokerError as error:
            heartbeat.outages.failed(SWEEP, error)
        await asyncio.sleep(SWEEP_SECONDS)
