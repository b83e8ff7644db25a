"""A group of calls, some of which fail, with a progress bar. Run it with

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
    """Take some time, and fail for every tenth picture."""
    time.sleep(0.02)
    if picture % 10 == 7:
        raise ValueError(f"picture {picture} is out of focus")
    return f"picture {picture}"


if __name__ == "__main__":
    with worker(app, children=4):
        sent = group(develop.s(picture) for picture in range(60)).delay()
        failures = [result for result in track(sent, "Developing", timeout=30) if result.failed()]
        print(f"{sent.completed_count()} of {len(sent)} have ended, {len(failures)} failed: {failures[0].result} …")
        values = sent.get(propagate=False)  # in the group's order, with exceptions among the values
        print(values[0], "…", values[-1])
