"""A workflow, crawl → extract → index → report, whose size depends on what the crawl finds. Run it with

python examples/pipeline.py
"""

from __future__ import annotations

import re
from collections import Counter
from typing import Any

from running import worker

from celeriac import Celeriac, group

SHELF = {
    "moby-dick": "Call me Ishmael. Some years ago, never mind how long precisely, having little or no money …",
    "emma": "Emma Woodhouse, handsome, clever, and rich, with a comfortable home and happy disposition …",
    "walden": "When I wrote the following pages, or rather the bulk of them, I lived alone, in the woods …",
    "ulysses": "Stately, plump Buck Mulligan came from the stairhead, bearing a bowl of lather …",
}

app = Celeriac("pipeline")


@app.task
def crawl() -> list[str]:
    """Return the names of all books."""
    return sorted(SHELF)


@app.task(bind=True)
def fan_out(self: Any, names: list[str]) -> None:
    """Replace this task with a chord that has one branch per book; its result becomes this task's result."""
    raise self.replace(group(extract.s(name) | index.s() for name in names) | merge.s())


@app.task(autoretry_for=(OSError,))
def extract(name: str) -> list[str]:
    """Return the words of one book."""
    return re.findall(r"[a-z]+", SHELF[name].lower())


@app.task
def index(words: list[str]) -> dict[str, int]:
    """Count the words of one book."""
    return dict(Counter(words))


@app.task
def merge(counts: list[dict[str, int]]) -> dict[str, int]:
    """Add up the counts of all books."""
    total: Counter[str] = Counter()
    for count in counts:
        total.update(count)
    return dict(total)


@app.task
def report(counts: dict[str, int]) -> str:
    """Describe the most frequent words."""
    most = Counter(counts).most_common(3)
    return f"{len(counts)} words; the most frequent: {', '.join(word for word, _ in most)}"


@app.task
def alarm(request: Any, exc: BaseException, traceback: str) -> None:
    """Error callback: called once, whichever task of the workflow fails."""
    print(f"{request.id} failed: {exc}")


if __name__ == "__main__":
    with worker(app, children=2):
        pipeline = (crawl.s() | fan_out.s() | report.s()).on_error(alarm.s())
        print(pipeline)
        result = pipeline.delay()
        print(result.get(timeout=30))
        print(app.workflow(result.workflow_id).graph("text"))
