"""A scheduler in a process of its own: `python beater.py NAME CLAIM_SECONDS DECLARED`, copied beside `victim.py`.

Its clock is wrong by the seconds in the file `NAME.clock`, if there is one. It declares as many schedules as it is
told, which it brings into the store whenever it starts, as every scheduler does. Where it publishes in a step of its
own, it lingers before and after that, so that it is often killed and frozen there.
"""

from __future__ import annotations

import asyncio
import logging
import random
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from celeriac.beat import scheduler
from celeriac.model.clock import Clock
from celeriac.model.message import Message

LONGEST = 0.6  # seconds


class WrongClock(Clock):
    """The machine's clock, as wrong as a file says."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def now(self) -> float:
        return time.time() + float(self._path.read_text())

    def monotonic(self) -> float:
        return time.monotonic()


def declared(count: int) -> dict[str, Any]:
    """Return the setting `beat_schedule` of so many schedules."""
    item = {"task": "victim.brief", "schedule": 1.0, "missed": "all", "max_missed": 10_000}
    return {f"declared{number}": item | {"args": (number,)} for number in range(count)}


def main(name: str, claim_seconds: float, count: int) -> None:
    import victim  # the copy beside this file

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    scheduler.CLAIM_SECONDS = claim_seconds
    path = Path(__file__).with_name(f"{name}.clock")
    if path.exists():
        victim.app.clock = WrongClock(path)
    victim.app.conf.beat_schedule = declared(count)
    publish = victim.app.broker.apublish

    async def linger(messages: Sequence[Message], again: bool = False) -> None:
        await asyncio.sleep(random.uniform(0.0, LONGEST))
        await publish(messages, again)
        await asyncio.sleep(random.uniform(0.0, LONGEST))

    victim.app.broker.apublish = linger
    asyncio.run(victim.app.beat(name))


if __name__ == "__main__":
    main(sys.argv[1], float(sys.argv[2]), int(sys.argv[3]))
