"""Processes of Celeriac that tests start by the hundred: workers, schedulers, servers of the HTTP API, hubs.

Most of what such a start costs is imports. So a process that has imported what they need, and has opened nothing, forks
them (`python -m tests.forked`). The fork becomes what `python -m celeriac …` is: a leader of its own session, in its
folder, with its environment, arguments and outputs, and it ignores the signals that the test ignores.
"""

from __future__ import annotations

import atexit
import importlib
import json
import os
import runpy
import select
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from threading import Lock
from typing import Any

__all__ = ["COMMAND", "SCRIPT", "Forked"]

COMMAND = "tests.forked:run_command"
SCRIPT = "tests.forked:run_script"

SIGNALS = (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)

_lock = Lock()  # of the pipes to the process that forks


class Forked:
    """A process that was forked, used like a `Popen`: it calls a function (`module:name`) with words."""

    def __init__(self, function: str, *words: str, cwd: Path | str, environment: Mapping[str, str], log: Path,
                 imports: Sequence[str] = ()) -> None:  # fmt: skip
        self.returncode: int | None = None
        ignored = [number for number in SIGNALS if signal.getsignal(number) is signal.SIG_IGN]
        self.pid = int(_ask(function=function, words=words, cwd=str(cwd), environment=dict(environment),
                            log=str(log.absolute()), ignored=ignored, imports=imports))  # fmt: skip
        self._descriptor = os.pidfd_open(self.pid)  # it is there until `_ended` asks how it has ended

    def poll(self) -> int | None:
        """Return how it has ended, negative for a signal, or None."""
        if self.returncode is None and select.select([self._descriptor], [], [], 0.0)[0]:
            self._ended()
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Wait for its end; return how it has ended."""
        if self.returncode is None:
            if not select.select([self._descriptor], [], [], timeout)[0]:
                raise TimeoutError(f"The process {self.pid} has not ended within {timeout:g} s")
            self._ended()
        assert self.returncode is not None
        return self.returncode

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def _ended(self) -> None:
        self.returncode = int(_ask(ended=self.pid))
        os.close(self._descriptor)


def _ask(**wanted: Any) -> str:
    with _lock:
        forker = _forker()
        assert forker.stdin is not None
        assert forker.stdout is not None
        forker.stdin.write(json.dumps(wanted) + "\n")
        forker.stdin.flush()
        return forker.stdout.readline()


@cache
def _forker() -> subprocess.Popen[str]:
    process = subprocess.Popen([sys.executable, "-m", "tests.forked"], cwd=Path(__file__).parents[1], text=True,
                               stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True)  # fmt: skip
    atexit.register(_end, process)
    return process


def _end(process: subprocess.Popen[str]) -> None:
    process.communicate()  # it reads to the end of its input


# --- In the process that forks, and in the forks ------------------------------------------------------


def run_command(*arguments: str) -> None:
    """Do as `python -m celeriac …`."""
    sys.argv[1:] = arguments
    runpy.run_module("celeriac", run_name="__main__", alter_sys=True)


def run_script(path: str, *arguments: str) -> None:
    """Do as `python path …`."""
    sys.argv = [path, *arguments]
    runpy.run_path(path, run_name="__main__")


def _fork() -> None:
    """Answer each line of the input: fork a process and write its number, or write how one has ended."""
    for line in sys.stdin:
        wanted = json.loads(line)
        if "ended" in wanted:
            _, status = os.waitpid(wanted["ended"], 0)
            print(os.waitstatus_to_exitcode(status), flush=True)
            continue
        module, _, name = wanted.pop("function").partition(":")
        function = getattr(importlib.import_module(module), name)
        for module in wanted.pop("imports"):
            with suppress(ImportError):  # the fork will say so
                importlib.import_module(module)
        child = os.fork()
        if child == 0:
            break
        print(child, flush=True)
    else:
        return
    words = wanted.pop("words")
    _become(**wanted)
    function(*words)


def _become(cwd: str, environment: dict[str, str], log: str, ignored: list[int]) -> None:
    os.setsid()
    for number in SIGNALS:
        usual = signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL
        signal.signal(number, signal.SIG_IGN if number in ignored else usual)
    os.chdir(cwd)
    sys.path[0] = cwd
    os.environ.clear()
    os.environ.update(environment)
    time.tzset()
    nothing, output = os.open(os.devnull, os.O_RDONLY), os.open(log, os.O_WRONLY | os.O_APPEND)
    for number, descriptor in enumerate((nothing, output, output)):
        os.dup2(descriptor, number)
    os.close(nothing)
    os.close(output)


if __name__ == "__main__":
    _fork()
