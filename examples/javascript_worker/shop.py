"""Tasks that are sent from Python and run in JavaScript, by `worker.mjs`; and one in Python, with their results.

    celeriac -A shop web                          # for the worker in JavaScript
    node worker.mjs http://127.0.0.1:8000
    celeriac -A shop worker -Q default -c 1       # for the tasks in Python
    python shop.py
"""

from celeriac import Celeriac, chord

app = Celeriac("shop", task_queues=["javascript"], task_routes={"shop.slug": "javascript", "shop.page": "javascript"})


@app.task(name="shop.slug")
def slug(title: str, *, separator: str = "-") -> str:
    """Return the part of an address that stands for a title."""
    raise NotImplementedError("worker.mjs runs it")


@app.task(name="shop.page", max_retries=5, time_limit=30)
def page(url: str) -> dict[str, int]:
    """Fetch a page, and return its status and its size."""
    raise NotImplementedError("worker.mjs runs it")


@app.task(name="shop.index")
def index(slugs: list[str]) -> str:
    """Return the index of all pages."""
    return ", ".join(sorted(slugs))


if __name__ == "__main__":
    print(slug.delay("Celeriac, mashed!").get(timeout=60))
    titles = ["Root Soup", "Remoulade", "Schnitzel of Celeriac"]
    print(chord((slug.s(title) for title in titles), index.s()).delay().get(timeout=60))
