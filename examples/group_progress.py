"""A group of calls, its results shown as they arrive, with a progress bar; some of them fail. Run it with

python examples/group_progress.py
"""

from __future__ import annotations

import time

from running import worker

from celeriac import Celeriac, group
from celeriac.progress import track

app = Celeriac("group_progress")


@app.task
def develop(picture: int) -> str:
    """Take some time, and fail at every tenth picture."""
    time.sleep(0.02)
    if picture % 10 == 7:
        raise ValueError(f"picture {picture} is out of focus")
    return f"picture {picture}"


if __name__ == "__main__":
    with worker(app, children=4):
        sent = group(develop.s(picture) for picture in range(60)).delay()
        failures = [result for result in track(sent, "Developing", timeout=30) if result.failed()]
        print(f"{sent.completed_count()} of {len(sent)} have ended, {len(failures)} badly; one: {failures[0].result}")
        values = sent.get(propagate=False)  # in the group's order, exceptions in their places
        print(values[0], "…", values[-1])
