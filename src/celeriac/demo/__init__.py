"""`celeriac demo`: a real worker, the embedded broker, real input, and a child killed on purpose.

Called by the command. `story.py` has it from start to end; `tasks.py` the tasks, as a user writes them.
"""

from __future__ import annotations

import importlib

__all__ = ["run_demo"]


def run_demo(*, seconds: float | None = None, keep: bool = False) -> int:
    """Run the demonstration, and return the exit code: 0 only if nothing was lost and every number is right.

    It gives up after `seconds` (a minute, if not given). With `keep` its folder, with the database and the
    worker's log, stays for a look.
    """
    # Imported here: workers import this package for `celeriac.demo.tasks`, and need none of the show.
    story = importlib.import_module("celeriac.demo.story")
    code: int = story.run(seconds=seconds, keep=keep)
    return code
