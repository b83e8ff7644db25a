"""What lets an example run with one command: its worker, as a process of its own, for as long as a block lasts."""

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
    """Run `celeriac -A … worker` beside this script, both on a database of their own that goes with the block."""
    with tempfile.TemporaryDirectory(prefix="celeriac-example-") as folder:
        url = f"sqlite:///{folder}/celeriac.db"
        app.conf.broker_url = url
        command = [sys.executable, "-m", "celeriac", "-A", app.main or "", "worker", "-c", str(children)]
        process = subprocess.Popen(command, cwd=Path(__file__).parent, env={**os.environ, "CELERIAC_BROKER_URL": url})
        try:
            yield
        finally:
            app.close()
            process.terminate()  # SIGTERM: what runs may end
            process.wait(timeout=30)
