"""A task that kills its process again and again is put aside; mended, it is sent again. Run it with

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
def convert(mended: str) -> str:
    """Crash the process, as a broken library does, until it is mended."""
    if not Path(mended).exists():
        os.kill(os.getpid(), signal.SIGSEGV)
    return "converted"


@app.task
def add(x: int, y: int) -> int:
    """Do honest work beside it."""
    return x + y


async def send_dead_letters_again() -> None:
    """Show the dead letters, and put them back in their queues."""
    inspector = Inspector(app)
    for letter in await inspector.dead():
        print(f"dead letter: {letter.message.task}, {letter.reason}")
        print("sent again:", await inspector.resend([letter.message.id]))


if __name__ == "__main__":
    mended = Path(tempfile.mkdtemp()) / "mended"
    with worker(app):
        result = convert.delay(str(mended))
        try:
            result.get(timeout=30)
        except WorkerLost as error:
            print(f"WorkerLost: {error}")
        print("others go on:", add.delay(2, 2).get(timeout=30))
        mended.touch()
        asyncio.run(send_dead_letters_again())
        print("then:", result.get(timeout=30))
    mended.unlink()
    mended.parent.rmdir()
