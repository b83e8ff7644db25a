"""A task that kills its process repeatedly becomes a dead letter; once fixed, it is resent. Run it with

python examples/dead_letters.py
"""

from __future__ import annotations

import asyncio
import os
import signal
import tempfile
from pathlib import Path

from running import worker

from celeriac import Celeriac, WorkerLost
from celeriac.inspector import Inspector

app = Celeriac("dead_letters")


@app.task
def convert(fixed: str) -> str:
    """Crash the process, like a broken library, until the file `fixed` exists."""
    if not Path(fixed).exists():
        os.kill(os.getpid(), signal.SIGSEGV)
    return "converted"


@app.task
def add(x: int, y: int) -> int:
    """Return a sum: an ordinary task on the same worker."""
    return x + y


async def resend_dead_letters() -> None:
    """Print the dead letters, and return them to their queues."""
    inspector = Inspector(app)
    for letter in await inspector.dead():
        print(f"dead letter: {letter.message.task}, {letter.reason}")
        print("resent:", await inspector.resend([letter.message.id]))


if __name__ == "__main__":
    fixed = Path(tempfile.mkdtemp()) / "fixed"
    with worker(app):
        result = convert.delay(str(fixed))
        try:
            result.get(timeout=30)
        except WorkerLost as error:
            print(f"WorkerLost: {error}")
        print("other tasks still run:", add.delay(2, 2).get(timeout=30))
        fixed.touch()
        asyncio.run(resend_dead_letters())
        print("after the fix:", result.get(timeout=30))
    fixed.unlink()
    fixed.parent.rmdir()
