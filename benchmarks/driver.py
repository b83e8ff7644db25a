"""Runs one step of a measurement: `python -m benchmarks.driver PEER VERB [NUMBER …]`. Started by `stage`, not by hand.

Input: the folder of this measurement, in an environment variable. Output: lines of JSON on stdout, the result last.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import threading
import time
from collections.abc import Callable
from importlib import metadata
from typing import Any

from benchmarks import web_load
from benchmarks.peers.base import FOLDER, Peer

__all__ = ["main"]

WARM_UP = 200
STEP = 100  # calls between two checks of the time
POLL_SECONDS = 0.02
SHOW_SECONDS = 0.5  # between two progress reports of a drain
START_SECONDS = 60.0  # for a worker to complete its first task
MOST_BATCHES = 4_000
SETTLING_SECONDS = 2.0  # for a scheduler to start


def facts(peer: Peer) -> dict[str, Any]:
    """Describe the contender."""
    return {"title": peer.title, "module": peer.module, "settings": peer.settings, "pace": peer.pace,
            "versions": {name: _version(name) for name in peer.packages}}  # fmt: skip


def send(peer: Peer, count: int, seconds: float) -> dict[str, Any]:
    """Send messages one by one; stop after `count` messages or `seconds`, whichever is first."""
    peer.send(WARM_UP)
    done, start = 0, time.perf_counter()
    while done < count and time.perf_counter() - start < seconds:
        peer.send(min(STEP, count - done))
        done += min(STEP, count - done)
    return _rate(done, time.perf_counter() - start)


def send_together(peer: Peer, count: int, callers: int, seconds: float) -> dict[str, Any]:
    """Send messages one by one from several threads at once: `count` in all, or as many as `seconds` allow."""
    barrier, done = threading.Barrier(callers + 1), [0] * callers

    def call(place: int) -> None:
        peer.send(WARM_UP)
        barrier.wait()
        begin = time.perf_counter()
        while done[place] < count // callers and time.perf_counter() - begin < seconds:
            peer.send(STEP)
            done[place] += STEP

    threads = [threading.Thread(target=call, args=[place]) for place in range(callers)]
    for thread in threads:
        thread.start()
    barrier.wait()
    start = time.perf_counter()
    for thread in threads:
        thread.join()
    return _rate(sum(done), time.perf_counter() - start)


def send_many(peer: Peer, count: int) -> dict[str, Any]:
    """Send `count` messages in the fastest way that the contender offers."""
    peer.send(WARM_UP)
    start = time.perf_counter()
    peer.send_many(count)
    return _rate(count, time.perf_counter() - start)


def fill(peer: Peer, count: int) -> dict[str, Any]:
    """Send the messages for a drain, without timing."""
    peer.send_many(count)
    return {"count": count}


def drain(peer: Peer, count: int, seconds: float) -> dict[str, Any]:
    """Time the completion of tasks, from the first (after the peer's `lead`) to the last; stop after `seconds`."""
    done = first = peer.completed()
    print(json.dumps({"ready": True}), flush=True)
    start = now = shown = time.perf_counter()
    while done < count and now - start < (seconds if first else START_SECONDS):
        time.sleep(POLL_SECONDS)
        done, now = peer.completed(), time.perf_counter()
        if done > peer.lead * count and not first:
            first, start = done, now
            print(json.dumps({"first": first}), flush=True)
        if first and now - shown > SHOW_SECONDS:
            shown = now
            print(json.dumps({"share": done / count}), flush=True)
    return _rate(done - first, now - start)


def roundtrips(peer: Peer, count: int, seconds: float) -> dict[str, Any]:
    """Repeatedly send a message and wait for its result."""
    peer.roundtrips(min(20, count))
    times: list[float] = []
    start = time.perf_counter()
    while len(times) < count and time.perf_counter() - start < seconds:
        times += peer.roundtrips(min(10, count - len(times)))
    return {"seconds": times}


def ping(peer: Peer) -> dict[str, Any]:
    """Wait until a worker has run a task."""
    peer.ready()
    return {}


def later(peer: Peer, count: int, seconds: float) -> dict[str, Any]:
    """Send messages that are due in `seconds`."""
    return {"held": peer.send_later(count, seconds)}


def text(peer: Peer, count: int, length: int) -> dict[str, Any]:
    """Send messages with a text of `length` characters."""
    peer.send_text(count, "x" * length)
    return {"count": count}


def naps(peer: Peer, count: int, seconds: float) -> dict[str, Any]:
    """Send tasks that sleep; time from before sending until all have ended."""
    peer.completed()
    start = now = time.perf_counter()
    peer.send_naps(count)
    sent = time.perf_counter() - start
    left = count
    while left and now - start < seconds:
        time.sleep(POLL_SECONDS)
        left, now = peer.waiting(), time.perf_counter()
    return {"seconds": now - start, "sent": sent, "left": left}


def workflow(peer: Any, kind: int, count: int) -> dict[str, Any]:
    """Send a group (0), a chord (1) or a chain (2) of `count` tasks; time until its result is there."""
    made = (peer.group, peer.chord, peer.chain)[kind](count)
    peer.ready()
    start = time.perf_counter()
    value = made.apply_async().get(timeout=300)
    seconds = time.perf_counter() - start
    assert value == (list(range(count)) if kind == 0 else count)
    return {"seconds": seconds, "count": count, "rate": count / seconds}


def submit(peer: Any, kind: int, count: int, times: int) -> dict[str, Any]:
    """Send `times` workflows without a worker; return how many bytes the server received."""
    peer.group(1).apply_async()  # connects, and sends what the server needs only once, such as scripts
    peer.chord(1).apply_async()
    before = peer.sent_bytes()
    try:
        for _ in range(times):
            (peer.group, peer.chord, peer.chain)[kind](count).apply_async()
    except RecursionError as error:
        return {"failed": type(error).__name__}
    return {"bytes": peer.sent_bytes() - before}


def hold(peer: Peer, held: int) -> dict[str, Any]:
    """Stop workers from receiving (`held` is 1), or let them receive again (0)."""
    peer.hold(bool(held))
    return {}


def schedule(peer: Any, count: int, period: int) -> dict[str, Any]:
    """Store `count` schedules, each with a period in seconds."""
    peer.schedule(count, period)
    return {"count": count}


def beat(peer: Any, seconds: int, count: int, period: int) -> dict[str, Any]:
    """Run a scheduler for a time; return what it sent, how late, its memory, and its CPU once it has started."""
    started: list[tuple[float, float]] = []
    threading.Timer(SETTLING_SECONDS, lambda: started.append((time.perf_counter(), time.process_time()))).start()
    result: dict[str, Any] = peer.beat(seconds, count, period)
    took, used = time.perf_counter() - started[0][0], time.process_time() - started[0][1]
    with open("/proc/self/status") as status:
        rss = next(int(line.split()[1]) / 1000 for line in status if line.startswith("VmHWM"))
    return {"seconds": seconds, **result, "cpu_percent": used / took * 100, "rss_mb": rss}


def declare(peer: Any, count: int) -> dict[str, Any]:
    """Time the start of a scheduler with `count` schedules that code declares, in an empty store and then again."""
    return {"first": peer.declare(count), "again": peer.declare(count)}


def store(peer: Any, size: int, seconds: float) -> dict[str, Any]:
    """Store outcomes in batches of `size`, for about so many seconds."""
    warm, *batches = peer.batches(size, MOST_BATCHES)
    peer.store(warm)
    done, start = 0, time.perf_counter()
    for batch in batches:
        new = peer.store(batch)
        assert new == size, f"{size - new} of {size} were not new"
        done += size
        if time.perf_counter() - start > seconds:
            break
    return _rate(done, time.perf_counter() - start)


def crowd(peer: Any, count: int) -> dict[str, Any]:
    """Be idle workers until this process is ended."""
    peer.crowd(count)
    return {}


def serve(peer: Any, port: int) -> dict[str, Any]:
    """Serve HTTP until this process is ended."""
    peer.serve(port)
    return {}


def requests(peer: Any, port: int, kind: int, connections: int, seconds: float) -> dict[str, Any]:
    """Repeat a request for some seconds: one that sends a task (0), or one that asks for the state of one (1)."""
    return web_load.load(port, peer.asking(peer.ended()) if kind else peer.sending(), connections, seconds)


def stream(peer: Any, port: int, rate: int, seconds: float) -> dict[str, Any]:
    """Send tasks at a rate, and return how long after the end of each task its event came."""
    peer.ready()
    stop, sent, late = threading.Event(), [0], list[float]()

    def send() -> None:
        begin = time.perf_counter()
        while not stop.wait(0.01):
            due = int((time.perf_counter() - begin) * rate) - sent[0]
            peer.in_bulk(range(due))
            sent[0] += due

    sending = threading.Thread(target=send)
    for name, id, _ in web_load.events(port, "/api/v1/events?task=noop", seconds):
        if name == "watching":
            sending.start()
        elif name == "attempt.ended":
            late.append(time.time() - float(id.partition("/")[0]))
    stop.set()
    sending.join()
    return {"late": late, "rate": sent[0] / seconds}


def seed(peer: Any, rows: int) -> dict[str, Any]:
    """Store messages that wait, and attempts in the history, and make workers known that do not answer."""
    peer.seed(rows)
    return {"rows": rows}


def pages(peer: Any, port: int, times: int) -> dict[str, Any]:
    """Return the seconds of each page of the dashboard, fetched some times: by address, the first page first."""
    return {"pages": web_load.timed(port, peer.paths, times)}


def stay(peer: Any, port: int, count: int) -> dict[str, Any]:
    """Keep pages of the dashboard open until this process is ended; tell in a file how many are, and have fetched."""
    web_load.stay(port, peer.stayed()[:count], FOLDER / "pages.json")
    return {}


def scroll(peer: Any, port: int, pages: int) -> dict[str, Any]:
    """Scroll through the list of tasks in a browser."""
    found: dict[str, Any] = _browser().scroll(port, pages)
    return found


def update(peer: Any, port: int, pid: int, updates: int) -> dict[str, Any]:
    """Let a page in a browser be updated so often; return how much memory it and its server `pid` have."""
    found: dict[str, Any] = _browser().update(port, pid, updates, peer.change)
    return found


def _browser() -> Any:
    return importlib.import_module("benchmarks.web_browser")  # which needs Playwright


def worker(peer: Peer, children: int, tuned: int) -> dict[str, Any]:
    """Replace this process with a worker."""
    command = peer.worker(children, bool(tuned))
    os.execv(command[0], command)
    return {}  # for the type checker


VERBS: dict[str, Callable[..., dict[str, Any]]] = {
    verb.__name__: verb
    for verb in (facts, send, send_together, send_many, fill, drain, roundtrips, ping, later, text, naps, workflow,
                 submit, hold, schedule, beat, declare, store, crowd, serve, requests, stream, seed, pages, stay,
                 scroll, update, worker)
}


def main(name: str, verb: str, *numbers: str) -> None:
    """Run a verb, and print its result."""
    try:
        peer: Peer = importlib.import_module(f"benchmarks.peers.{name}").PEER
    except ModuleNotFoundError as error:
        print(json.dumps({"missing": error.name}))
        return
    arguments = [int(number) if number.isdigit() else float(number) for number in numbers]
    print(json.dumps(VERBS[verb](peer, *arguments)), flush=True)


def _rate(count: int, seconds: float) -> dict[str, Any]:
    return {"count": count, "seconds": seconds, "rate": count / seconds if seconds else 0.0}


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "absent"


if __name__ == "__main__":
    main(*sys.argv[1:])
