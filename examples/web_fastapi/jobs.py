"""The app of the workers, and its task. The web application imports it too."""

import time

from celeriac import Celeriac

app = Celeriac("jobs")


@app.task(bind=True)
def make_report(self, pages: int) -> str:
    """Make a report, and tell after each page how far it is."""
    for page in range(pages):
        self.progress(page, pages)
        time.sleep(0.2)  # the work
        if page == 100:
            raise ValueError("A report has at most 100 pages.")
    return f"a report of {pages} pages"
