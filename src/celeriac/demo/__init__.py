"""`celeriac demo`: a real worker, the embedded broker, real input, and a child that is killed on purpose.

Called by the command. `story.py` runs the demonstration; `tasks.py` has its tasks, written as a user would write them.
"""

from __future__ import annotations

import importlib

__all__ = ["run_demo"]


def run_demo(*, seconds: float | None = None, keep: bool = False, hub: bool = False) -> int:
    """Run the demonstration, and return the exit code: 0 only if nothing was lost and every number is right.

    It gives up after `seconds` (default: 60). With `keep`, its folder with the database and the worker's log is kept.
    With `hub`, worker and callers reach the database over a hub (`celeriac[zmq]`).
    """
    # Imported here, because workers import this package for `celeriac.demo.tasks` and need nothing else of it.
    story = importlib.import_module("celeriac.demo.story")
    code: int = story.run(seconds=seconds, keep=keep, hub=hub)
    return code
