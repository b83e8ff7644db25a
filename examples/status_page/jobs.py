"""A task that takes a while, and the settings of its status URLs."""

import time

from celeriac import Celeriac

app = Celeriac(
    "jobs",
    web_url="http://127.0.0.1:8000",
    web_secret="an example's secret: make your own with `celeriac keys`",
    web_origins=["http://127.0.0.1:5000"],
)


@app.task(bind=True)
def report(self, pages: int) -> str:
    """Write a report."""
    for page in range(pages):
        self.update_state(state="PROGRESS", meta={"done": page, "of": pages})
        time.sleep(0.1)
    return f"a report of {pages} pages"
