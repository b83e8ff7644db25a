"""Starts an example's worker as a separate process, so that the example runs with one command."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from celeriac import Celeriac

__all__ = ["worker"]


@contextmanager
def worker(app: Celeriac, children: int = 2) -> Iterator[None]:
    """Run `celeriac -A … worker` while the `with` block runs, on a temporary database that is deleted at the end."""
    with tempfile.TemporaryDirectory(prefix="celeriac-example-") as folder:
        url = f"sqlite:///{folder}/celeriac.db"
        app.conf.broker_url = url
        command = [sys.executable, "-m", "celeriac", "-A", app.main or "", "worker", "-c", str(children)]
        process = subprocess.Popen(command, cwd=Path(__file__).parent, env={**os.environ, "CELERIAC_BROKER_URL": url})
        try:
            yield
        finally:
            app.close()
            process.terminate()  # SIGTERM: running tasks may end
            process.wait(timeout=30)
