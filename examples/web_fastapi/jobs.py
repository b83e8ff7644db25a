"""The app of the workers, and its task. The web application imports it too."""

import time

from celeriac import Celeriac

app = Celeriac("jobs")


@app.task(bind=True)
def make_report(self, pages: int) -> str:
    """Make a report, and tell after each page how far it is."""
    if pages > 1000:
        raise ValueError("A report has at most 1,000 pages.")
    for page in range(pages):
        self.progress(page, pages)
        time.sleep(0.2)  # the work
    return f"a report of {pages} pages"
