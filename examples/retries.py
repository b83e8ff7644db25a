"""Three kinds of retry, against a service that fails. Run it with

python examples/retries.py
"""

from __future__ import annotations

from typing import Any

from running import worker

from celeriac import AsyncResult, Celeriac

app = Celeriac("retries")


@app.task(bind=True, autoretry_for=(ConnectionError,), retry_backoff=0.1)
def fetch(self: Any, failures: int) -> str:
    """Is retried automatically, up to three times, after at most 0.1, 0.2 and 0.4 seconds."""
    if self.request.attempt <= failures:
        raise ConnectionError(f"no answer to attempt {self.request.attempt}")
    return f"an answer to attempt {self.request.attempt}"


@app.task(bind=True, max_retries=None)
def wait_for_report(self: Any, polls: int) -> str:
    """Poll until the report is there. Between two polls the message waits in the broker and the child is free."""
    if self.request.retries < polls:
        self.retry(countdown=0.1)
    return f"the report was there after {self.request.retries} polls"


@app.task(bind=True, max_retries=2, default_retry_delay=0.1)
def charge(self: Any, euros: int) -> None:
    """Catch the error, and decide to retry."""
    try:
        raise TimeoutError(f"the bank did not take {euros} EUR")
    except TimeoutError as error:
        self.retry(exc=error)


if __name__ == "__main__":
    with worker(app):
        results: list[AsyncResult[Any]] = [
            fetch.delay(2), wait_for_report.delay(5), fetch.delay(9), charge.delay(12),
        ]  # fmt: skip
        for result in results:
            ended = result.get(timeout=20, propagate=False)
            attempts = result.outcome.attempt if result.outcome is not None else 0
            print(f"{result.task_name} {result.state} at attempt {attempts}: {ended}")
