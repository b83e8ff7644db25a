"""The tasks of a notebook."""

import time

from celeriac import Celeriac

app = Celeriac("shop")


@app.task
def weigh(article: int) -> float:
    """Return the weight of an article."""
    return article / 2


@app.task(bind=True)
def inventory(self, shelves: int) -> str:
    """Count the shelves, and tell after each how far it is."""
    for shelf in range(shelves):
        self.progress(shelf, shelves)
        time.sleep(0.2)
    return f"{shelves} shelves"
