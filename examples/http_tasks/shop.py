"""Tasks that are endpoints of other programs: two in JavaScript, and one in a shell script."""

import os

from celeriac import Celeriac

SECRET = os.environ.get("SECRET", "whsec_YW4gZXhhbXBsZTogbWFrZSB5b3VyIG93biBzZWNyZXQ=")
BILLING = os.environ.get("BILLING", "http://127.0.0.1:8080")
MULTIPLY = os.environ.get("MULTIPLY", "http://127.0.0.1:8081")

app = Celeriac("shop", web_callback_hosts=[BILLING], web_callback_secrets=[SECRET])

charge = app.http_task("billing.charge", f"{BILLING}/charge", secret=SECRET, timeout=10, max_retries=5)
report = app.http_task("billing.report", f"{BILLING}/report", secret=SECRET, time_limit=3600)
multiply = app.http_task("old.multiply", f"{MULTIPLY}/multiply", style="celery", secret=SECRET)


@app.task
def add(x: int, y: int) -> int:
    """Add two numbers, here."""
    return x + y
