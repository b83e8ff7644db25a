"""`celeriac worker --reload`: runs a worker, and replaces it when code changes. For development.

A worker cannot take back what it has imported. So this process imports nothing of the user's. It watches the files,
and runs the same command without `--reload` as a process of its own: the worker. After a change it sends SIGTERM, waits
for the worker, whose running tasks end first as at every warm shutdown, and starts the next one, with the new code.

A worker that cannot start, because of a syntax error for example, has said why. The next change starts another.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Final

from celeriac.cli.output import echo
from celeriac.errors import ImproperlyConfigured

if TYPE_CHECKING:
    from watchfiles import Change

__all__ = ["run_reloading"]

STOP_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)
SETTINGS: Final = (".toml",)  # files that are watched besides Python's
LOOK_MILLISECONDS: Final = 200  # between two looks at the worker while no file changes
PR_SET_PDEATHSIG: Final = 1

Changes = Iterable[set[tuple["Change", str]]]


def run_reloading(folder: str) -> int:
    """Run the worker of this command line, started in `folder`, until it is stopped; return the exit code.

    Watches the current folder, which --workdir may have set.
    """
    try:
        from watchfiles import PythonFilter, watch  # noqa: PLC0415 - an extra, of this command alone
    except ModuleNotFoundError as error:
        raise ImproperlyConfigured("--reload needs watchfiles, which is not installed: "
                                   "pip install 'celeriac[reload]'.") from error  # fmt: skip
    watched, stopping = Path.cwd(), threading.Event()
    changes = watch(watched, watch_filter=PythonFilter(extra_extensions=SETTINGS), stop_event=stopping,
                    rust_timeout=LOOK_MILLISECONDS, yield_on_timeout=True, ignore_permission_denied=True)  # fmt: skip
    command = [sys.executable, *(part for part in sys.orig_argv[1:] if part != "--reload")]
    return _Reloader(command, folder, watched, stopping).run(changes)


class _Reloader:
    """Runs one worker after the other."""

    def __init__(self, command: list[str], folder: str, watched: Path, stopping: threading.Event) -> None:
        self._command = command
        self._folder = folder
        self._watched = watched
        self._stopping = stopping
        self._worker: subprocess.Popen[bytes] | None = None
        self._replacing = False  # the worker is being stopped because code has changed

    def run(self, changes: Changes) -> int:
        """Run workers until one is stopped, or ends well; return its exit code."""
        for number in STOP_SIGNALS:
            if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:  # ignored under `nohup`
                signal.signal(number, self._signalled)
        told = False  # that the worker has failed
        for changed in changes:
            worker = self._worker
            if worker is None:  # only now are files watched: no change is missed
                echo(f"Watching {self._watched}: the worker is replaced when a .py or .toml file changes.", err=True)
                self._start()
            elif changed:
                echo(f"{self._named(changed)} changed: the worker is replaced. Running tasks end first.", err=True)
                self._replace(worker)
                told = False
            elif worker.poll() == 0:  # by a control command
                break
            elif worker.returncode is not None and not told:
                echo(f"The worker has ended with exit code {worker.returncode}. "
                     f"The next change in {self._watched} starts another.", err=True)  # fmt: skip
                told = True
        return self._last_code()

    def _start(self) -> None:
        # It shares neither the terminal's Ctrl-C, which `_signalled` passes on once, nor its input. No bytecode is
        # written: two changes within one second could leave a file that passes for newer than it is.
        environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
        self._worker = subprocess.Popen(self._command, cwd=self._folder, env=environment, stdin=subprocess.DEVNULL,
                                        process_group=0, preexec_fn=_end_with_parent())  # fmt: skip
        if self._stopping.is_set():  # by a signal at this moment, which no worker has seen
            self._worker.terminate()

    def _replace(self, worker: subprocess.Popen[bytes]) -> None:
        self._replacing = True
        worker.terminate()
        worker.wait()
        self._replacing = False
        if not self._stopping.is_set():
            self._start()

    def _signalled(self, number: int, frame: FrameType | None) -> None:
        """Pass a request to stop on to the worker, unless it is stopping already and this is the first request."""
        first = not self._stopping.is_set()
        self._stopping.set()
        if self._worker is not None and not (first and self._replacing and number != signal.SIGQUIT):
            self._worker.send_signal(signal.SIGQUIT if number == signal.SIGQUIT else signal.SIGTERM)

    def _last_code(self) -> int:
        code = self._worker.wait() if self._worker is not None else 0
        if code < 0:  # killed: by a request to stop that came before the worker could handle it, or by another process
            return 0 if -code in STOP_SIGNALS else 1
        return code

    def _named(self, changed: set[tuple[Change, str]]) -> str:
        name, *more = sorted(os.path.relpath(path, self._watched) for _, path in changed)
        return f"{name} and {len(more)} more files have" if more else f"{name} has"


def _end_with_parent() -> Callable[[], None] | None:
    """Return a function that asks Linux to stop the calling process, warmly, when its parent is killed."""
    if not sys.platform.startswith("linux"):
        return None
    prctl = ctypes.CDLL(None).prctl  # looked up before the fork: little may be done between fork and exec

    def ask() -> None:
        prctl(PR_SET_PDEATHSIG, signal.SIGTERM)

    return ask
