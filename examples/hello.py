"""The smallest example: two tasks, one worker, two calls. Run it with

python examples/hello.py
"""

from __future__ import annotations

import asyncio

from running import worker

from celeriac import Celeriac

app = Celeriac("hello")


@app.task
def add(x: int, y: int) -> int:
    """Return a sum; runs in a child for plain functions."""
    return x + y


@app.task
async def greet(whom: str) -> str:
    """Return a greeting; runs in a child for coroutines."""
    await asyncio.sleep(0.1)
    return f"hello {whom}"


if __name__ == "__main__":
    with worker(app):
        total = add.delay(20, 22)
        greeting = greet.delay("world")
        print(f"{greeting.get(timeout=20)}, the answer is {total.get(timeout=20)}")
