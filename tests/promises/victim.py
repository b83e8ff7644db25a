"""The victim: tasks that end in every way there is. `harness.py` copies this file into a folder of the test's own.

`plain(how, value)` and `coroutine(how, value)` do as `WAYS[how]` says, in the two lanes. Each run writes lines into
the file `journal` beside this one: `start|end id attempt deliveries pid time worker`.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import ctypes
import gc
import hashlib
import inspect
import multiprocessing
import os
import random
import signal
import socket
import stat
import sys
import threading
import time
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from celeriac import Celeriac, current_request
from celeriac.errors import Ignore, Reject, Replaced, Retry, SoftTimeLimitExceeded, TimeLimitExceeded

app = Celeriac("victim", task_queues=["default", "other"])

JOURNAL = os.open(Path(__file__).with_name("journal"), os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC)


EXECUTOR = ThreadPoolExecutor(1)


def note(what: str) -> None:
    """Write a line: one write to a file opened for appending, so that lines of all processes stay whole."""
    me = current_request()
    line = f"{what} {me.id} {me.attempt} {me.deliveries} {os.getpid()} {time.time():.6f} {me.worker}\n"
    os.write(JOURNAL, line.encode())


class Odd(Exception):
    """Cannot be made from its arguments."""

    def __init__(self, one: int, two: int) -> None:
        super().__init__(f"{one} is not {two}")


class Unspeakable(Exception):
    """Cannot be formatted."""

    def __str__(self) -> str:
        raise RuntimeError("no words")


class Fatal(Exception):
    """Exits the process that formats it."""

    def __str__(self) -> str:
        sys.exit(4)


class Temporary(Exception):
    """Passes."""


# --- Ways to end --------------------------------------------------------------------------------------


def returns(task: Any, value: Any) -> Any:
    return value


def raises(task: Any, value: Any) -> Any:
    raise ValueError(value)


def raises_odd(task: Any, value: Any) -> Any:
    raise Odd(1, 2)


def raises_unspeakable(task: Any, value: Any) -> Any:
    raise Unspeakable


def raises_fatal(task: Any, value: Any) -> Any:
    raise Fatal


def raises_unpicklable(task: Any, value: Any) -> Any:
    raise ValueError("locked", threading.Lock())


def raises_interrupt(task: Any, value: Any) -> Any:
    raise KeyboardInterrupt


def runs_out_of_memory(task: Any, value: Any) -> Any:
    return bytearray(1 << 60)


def recurses(task: Any, value: Any) -> Any:
    return recurses(task, value)


def exits(task: Any, value: Any) -> Any:
    sys.exit(value)


def exits_at_once(task: Any, value: Any) -> Any:
    os._exit(value)


def kills_itself(task: Any, value: Any) -> Any:
    os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(10)


def kills_itself_unless(task: Any, value: Any) -> Any:
    if Path(value).exists():
        return "spared"
    return kills_itself(task, value)


def kills_its_worker(task: Any, value: Any) -> Any:
    os.kill(int(Path(f"{task.request.worker}.pid").read_text()), signal.SIGKILL)
    time.sleep(10)


def crashes(task: Any, value: Any) -> Any:
    ctypes.string_at(0)


def garbles(task: Any, value: Any) -> Any:
    """Write into every socket what is no frame."""
    for fd in range(3, 100):
        with contextlib.suppress(OSError):
            if stat.S_ISSOCK(os.fstat(fd).st_mode):
                os.write(fd, {"text": b"to whom it may concern", "frame": b"\3\0\0\0\xc1\xc1\xc1"}[value])


def ends_untold(task: Any, value: Any) -> Any:
    """End in a way that no frame can hold."""
    raise Replaced([object()])


def returns_object(task: Any, value: Any) -> Any:
    return object()


def returns_much(task: Any, value: Any) -> Any:
    return "x" * value


async def slowly_returns_much(task: Any, value: Any) -> Any:
    await asyncio.sleep(0.2)
    return "x" * value


def counts(task: Any, value: Any) -> Any:
    return len(value)


def ignores(task: Any, value: Any) -> Any:
    raise Ignore


def requeues(task: Any, value: int) -> dict[str, Any]:
    """Put the message back into its queue until the delivery `value`, which kills its process; then return."""
    if task.request.deliveries < value:
        raise Reject("not yet", requeue=True)
    if task.request.deliveries == value:
        os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(10)
    return task.request.delivery_info


def rejects(task: Any, value: Any) -> Any:
    raise Reject("not for me")


def retries_at_once(task: Any, value: Any) -> Any:
    """Fail in the attempts before the one that `value` names."""
    if task.request.attempt < value:
        task.retry(exc=Temporary(f"attempt {task.request.attempt}"), countdown=0.05)
    return task.request.attempt


def retries_nowhen(task: Any, value: Any) -> Any:
    raise Retry("again", delay="soon")


def retries_later(task: Any, value: Any) -> Any:
    task.retry(exc=Temporary("later"), countdown=value)


def raises_temporary(task: Any, value: Any) -> Any:
    raise Temporary("every time")


def tells_deliveries(task: Any, value: Any) -> Any:
    return task.request.deliveries


def eats_memory(task: Any, value: Any) -> Any:
    """Touch as many MB as `value` says."""
    return len(b"x" * (value << 20))


def waits_for_another(task: Any, value: Any) -> Any:
    return app.AsyncResult(value).get(timeout=5)


async def awaits_another(task: Any, value: Any) -> Any:
    return await app.AsyncResult(value).aget(timeout=100)


def sleeps(task: Any, value: Any) -> Any:
    time.sleep(value)
    return value


async def exits_behind(task: Any, value: Any) -> Any:
    """Exit in a callback of the loop, where no task is."""
    asyncio.get_running_loop().call_soon(sys.exit, 5)
    await asyncio.sleep(10)


async def asleeps(task: Any, value: Any) -> Any:
    await asyncio.sleep(value)
    return value


def holds(task: Any, value: Any) -> Any:
    """Run until the file `value` is there."""
    while not Path(value).exists():
        time.sleep(0.01)
    return "released"


async def aholds(task: Any, value: Any) -> Any:
    while not Path(value).exists():
        await asyncio.sleep(0.01)
    return "released"


def tells_progress(task: Any, value: Any) -> Any:
    task.progress(1, 2, phase="half")
    return holds(task, value)


def tells_no_state(task: Any, value: Any) -> Any:
    task.update_state(value)


async def atells_progress(task: Any, value: Any) -> Any:
    task.progress(1, 2, phase="half")
    return await aholds(task, value)


def tells_without_end(task: Any, value: Any) -> Any:
    """Tell large states until the soft time limit passes."""
    try:
        while True:
            task.update_state("BUSY", "x" * 4_000_000)
    except SoftTimeLimitExceeded:
        return "cleaned up"


def tells_from_threads(task: Any, value: Any) -> Any:
    def tell() -> None:
        for _ in range(20):
            task.update_state("BUSY", "x" * 1_000_000)

    threads = [threading.Thread(target=contextvars.copy_context().run, args=(tell,)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return "told"


def forks(task: Any, value: Any) -> Any:
    """Fork, and let the fork end as `value` says: by `sys.exit`, or by going on."""
    pid = os.fork()
    if not pid:
        if value == "exits":
            sys.exit(0)
        return "from the fork"
    os.waitpid(pid, 0)
    return "from the child"


def tells_exit_code_of_fork(task: Any, value: Any) -> Any:
    pid = os.fork()
    if not pid:
        sys.exit(*value)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def terminates_a_process(task: Any, value: Any) -> Any:
    """Return the exit code of a process that was told to end."""
    process = multiprocessing.get_context("fork").Process(target=time.sleep, args=(60,))
    process.start()
    process.terminate()
    process.join(60)
    code = process.exitcode
    process.kill()
    return code


def ignores_sigusr1(task: Any, value: Any) -> Any:
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)


def lists_inheritable(task: Any, value: Any) -> Any:
    """Return the sockets and pipes that programs started here would have too."""
    found = []
    for fd in range(3, 100):
        with contextlib.suppress(OSError):
            mode = os.fstat(fd).st_mode
            if os.get_inheritable(fd) and (stat.S_ISSOCK(mode) or stat.S_ISFIFO(mode)):
                found.append(fd)
    return found


def tells_link_timeouts(task: Any, value: Any) -> Any:
    return [each.gettimeout() for each in gc.get_objects() if isinstance(each, socket.socket)]


async def leaves_a_thread(task: Any, value: Any) -> Any:
    """Wait no longer for a thread that runs until the file `value` is there."""
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(asyncio.to_thread(holds, task, value), 0.05)


async def tells_from_a_thread(task: Any, value: Any) -> Any:
    def tell() -> Any:
        time.sleep(0.2)  # until the loop has nothing to do
        return tells_progress(task, value)

    return await asyncio.to_thread(tell)


async def holds_a_group(task: Any, value: Any) -> Any:
    """Wait for a subtask that makes the file `value` when it is cancelled."""

    async def subtask() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            Path(value).touch()

    async with asyncio.TaskGroup() as group:
        group.create_task(subtask())


async def swallows_termination(task: Any, value: Any) -> Any:
    while True:
        with contextlib.suppress(Exception):
            await asyncio.sleep(60)


def cleans_up(task: Any, value: Any) -> Any:
    try:
        return holds(task, value)
    except SoftTimeLimitExceeded:
        return "cleaned up"


async def acleans_up(task: Any, value: Any) -> Any:
    try:
        return await aholds(task, value)
    except SoftTimeLimitExceeded:
        return "cleaned up"


def is_stubborn(task: Any, value: Any) -> Any:
    """Take no notice of a soft time limit."""
    while True:
        try:
            return holds(task, value)
        except SoftTimeLimitExceeded:
            pass


async def ais_stubborn(task: Any, value: Any) -> Any:
    while True:
        try:
            return await aholds(task, value)
        except SoftTimeLimitExceeded:
            pass


async def aswallows_limits(task: Any, value: Any) -> Any:
    """Take no notice of the hard time limit either."""
    try:
        return await aholds(task, value)
    except TimeLimitExceeded:
        return "all is well"


swallows_limits = is_stubborn


def never_ends(task: Any, value: Any) -> Any:
    """Take no notice of any exception."""
    while True:
        with contextlib.suppress(Exception):
            holds(task, value)
            return


async def anever_ends(task: Any, value: Any) -> Any:
    while True:
        with contextlib.suppress(Exception):
            await aholds(task, value)
            return


def prints(task: Any, value: Any) -> None:
    print("x" * value, flush=True)


def leaves_threads(task: Any, value: Any) -> None:
    """Leave threads behind that end much later."""
    threading.Thread(target=time.sleep, args=(60,)).start()
    EXECUTOR.submit(time.sleep, 60)


def computes(task: Any, value: Any) -> Any:
    """Be busy in C for a minute or more."""
    hashlib.pbkdf2_hmac("sha256", b"x", b"y", 100_000_000)


def blocks(task: Any, value: Any) -> Any:
    """Block the thread: in a coroutine, the whole loop."""
    return holds(task, value)


WAYS: dict[str, Any] = {name: way for name, way in vars().items() if inspect.isfunction(way) and name != "note"}


@app.task(bind=True, autoretry_for=(Temporary,), max_retries=3, retry_backoff=0.05, retry_jitter=False)
def plain(self: Any, how: str, value: Any = None) -> Any:
    note("start")
    try:
        return WAYS[how](self, value)
    finally:
        note("end")


@app.task(bind=True, autoretry_for=(Temporary,), max_retries=3, retry_backoff=0.05, retry_jitter=False)
async def coroutine(self: Any, how: str, value: Any = None) -> Any:
    note("start")
    try:
        found = WAYS.get(f"a{how}", WAYS[how])(self, value)
        return await found if inspect.isawaitable(found) else found
    finally:
        note("end")


@app.task
def quick(number: int) -> int:
    note("start")
    return number


@app.task
def brief(number: int) -> int:
    """Take a few milliseconds, as most tasks do."""
    note("start")
    time.sleep(random.uniform(0.0, 0.006))
    note("end")
    return os.getpid()


@app.task
async def abrief(number: int) -> int:
    note("start")
    await asyncio.sleep(random.uniform(0.0, 0.006))
    note("end")
    return os.getpid()


@app.task(rate_limit="5/s")
def limited(number: int) -> int:
    note("start")
    return number


# --- Parts of random workflows: see `tests/canvas/oracle.py` ------------------------------------------

CALLS = os.open(Path(__file__).with_name("calls"), os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC)


def tell(*words: Any) -> None:
    note("start")
    os.write(CALLS, f"{' '.join(map(str, words))}\n".encode())
    time.sleep(random.uniform(0.0, 0.004))
    note("end")


@app.task(bind=True, max_retries=1, default_retry_delay=0)
def step(self: Any, value: Any, label: int, way: str) -> int:
    if way == "retries" and self.request.retries == 0:
        raise self.retry(exc=OSError("once"))
    tell("task", label, None)
    if way == "fails":
        raise ValueError(label)
    return zlib.crc32(repr(value).encode()) ^ label


@app.task
def callback(value: Any, label: int) -> None:
    tell("callback", label, repr(value).replace(" ", ""))


@app.task
def errback(request: Any, error: BaseException, traceback: str, label: int) -> None:
    tell("errback", label, error.args[0])


@app.task
def deaf_errback(value: Any, label: int) -> None:
    tell("errback", label, value)
