"""What a measuring process does: `python -m benchmarks.clients.measure CLIENT MEASURE COUNT SECONDS`.

Started by `__main__`, not by hand. Prints one line of JSON. `MEASURE` is `facts`, or a method of the client.
"""

from __future__ import annotations

import importlib
import json
import sys
import time
from importlib import metadata
from typing import Any

from benchmarks.clients.base import WINDOW, Client
from benchmarks.clients.catalogue import CONSUME, SERVERS

__all__ = ["main"]

WARM_UP = 100


def main(name: str, measure: str, count: str, seconds: str) -> None:
    """Measure, and print the result."""
    try:
        client: type[Client] = importlib.import_module(f"benchmarks.clients.{name}").CLIENT
    except ModuleNotFoundError as error:
        print(json.dumps({"missing": error.name}))
        return
    if measure == "facts":
        every = [measure for server in SERVERS.values() for measure in server.measures]
        told: dict[str, Any] = {
            "title": client.title,
            "versions": {package: metadata.version(package) for package in client.packages},
            "measures": [measure for measure in every if hasattr(client, measure)],
        }
    else:
        told = _rate(client(), measure, int(count), float(seconds))
    print(json.dumps(told), flush=True)


def _rate(client: Client, measure: str, count: int, seconds: float) -> dict[str, float]:
    """Run until `count` are done, or (except for consuming) `seconds` have passed."""
    work = getattr(client, measure)
    step = count if measure == CONSUME else WINDOW
    if measure != CONSUME:
        work(min(WARM_UP, count))
    done, start, cpu = 0, time.perf_counter(), time.process_time()
    while done < count and time.perf_counter() - start < seconds:
        work(min(step, count - done))
        done += min(step, count - done)
    elapsed, used = time.perf_counter() - start, time.process_time() - cpu
    return {"count": done, "rate": done / elapsed, "cpu_us": used / done * 1e6}


if __name__ == "__main__":
    main(*sys.argv[1:])
