"""A log that nobody reads holds up tasks, and no worker."""

from __future__ import annotations

import contextlib
import fcntl
import json
import logging
import os
import signal
import struct
import subprocess
import termios

from celeriac.cli.log import NonBlockingHandler
from celeriac.logs import JSONFormatter
from tests.logs.shop import Shop
from tests.patience import PATIENCE, wait_for


def unread(pipe: int) -> int:
    """Return how many bytes wait in a pipe."""
    (number,) = struct.unpack("i", fcntl.ioctl(pipe, termios.FIONREAD, b"\0" * 4))
    return int(number)


def test_lines_that_tasks_log_wait_for_room_and_none_is_dropped(shop: Shop) -> None:
    shop.open("-l", "info", "-c", "1", into=subprocess.PIPE)
    pipe = shop.workers[0].stderr
    assert pipe is not None
    sent = [shop.app.send_task("shop.write", [50_000]) for _ in range(6)]
    wait_for(lambda: unread(pipe.fileno()) > 55_000, "a full pipe")
    found = 0
    while found < 6 * 19_000:
        found += pipe.read1(10_000).count(b"x")  # a line of the supervisor may come in the middle of such a long one
    assert [result.get(timeout=PATIENCE) for result in sent] == [None] * 6
    shop.workers[0].send_signal(signal.SIGTERM)
    pipe.read()
    assert shop.workers[0].wait(PATIENCE) == 0


def test_a_note_about_dropped_lines_is_a_line_of_the_log() -> None:
    ours, theirs = os.pipe()
    os.set_blocking(theirs, False)
    with contextlib.suppress(BlockingIOError):
        while os.write(theirs, b"x" * 4096):
            pass
    handler = NonBlockingHandler(theirs)
    handler.setFormatter(JSONFormatter("w1"))
    for message in ("first", "second"):
        handler.emit(logging.makeLogRecord({"msg": message}))
    os.read(ours, 1 << 20)
    handler.emit(logging.makeLogRecord({"msg": "third"}))
    lines = [json.loads(line) for line in os.read(ours, 1 << 20).splitlines()]
    os.close(ours)
    os.close(theirs)
    assert [line["message"] for line in lines] == ["2 log lines were dropped here: stderr was full", "third"]
    assert (lines[0]["level"], lines[0]["worker"]) == ("WARNING", "w1")
