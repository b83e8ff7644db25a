"""The legs of a task's path, and the functions of each leg: py-spy's stacks are summed by leg.

A stack belongs to the leg of its innermost function that is named here; a stack without one counts as "the rest". A
name here must follow its function when that is renamed or moved: a test checks it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

__all__ = ["CHILD_LEGS", "PRODUCER_LEGS", "REST", "SUPERVISOR_LEGS", "WAITING", "Legs", "leg_of"]

Legs = Mapping[str, Sequence[str]]
"""By leg: "function file", or "file" for all functions of a file. A file is named by the end of its path."""

REST = "the event loop, and the rest"
WAITING = "waiting"  # not a leg: py-spy counts it as work

PRODUCER_LEGS: Legs = {
    "check the arguments": ("arguments.py",),
    "make the message: id, body, options": ("message_template.py", "message.py", "clock.py", "serialization.py"),
    "encode the message": ("brokers/redis/envelope.py",),
    "write to the socket": ("exchange connection.py",),
    "wait for Redis, read": ("_read connection.py",),
    "pack the command, borrow a connection": ("server.py", "connection.py", "brokers/redis/broker.py"),
    "make the result": ("_result_of task.py", "result.py"),
}

SUPERVISOR_LEGS: Legs = {
    "write to Redis's socket": ("send wire.py",),
    "read Redis's replies": ("drivers/redis/wire.py",),
    "receive: decode messages": ("_ask lease.py", "receive lease.py", "_accept lease.py", "unpack envelope.py"),
    "check": ("worker/receiver.py", "rates.py"),
    "to the children: choose, frame, write": (
        "dispatch process_pool.py", "worker/pools/assignment.py", "run child_handle.py", "frame frames.py",
        "_write child_handle.py", "_permit child_handle.py", "_limited child_handle.py",
    ),
    "from the children: read, parse": (
        "worker/pools/process_pool.py", "worker/pools/child_handle.py", "worker/pools/frames.py",
        "ran assignment.py",
    ),
    "decide": ("worker/decide.py",),
    "settle: encode, pack": ("brokers/redis/lease.py", "drivers/redis/outcomes.py", "brokers/redis/envelope.py"),
    "settle: bookkeeping": ("worker/settler.py", "worker/settlement_writer.py", "worker/statistics.py"),
}  # fmt: skip

CHILD_LEGS: Legs = {
    "take a permit": ("_take_permit child.py",),
    "read runs, parse": ("_run_of child.py", "worker/pools/frames.py"),
    "decode, run, encode": ("execution.py", "task.py", "serialization.py", "arguments.py", "outcome.py",
                            "celeriac_family.py", "signals.py"),
    "frame and write the outcome": ("work child.py",),
    WAITING: ("run forkserver.py",),
}  # fmt: skip


def leg_of(frames: Sequence[str], legs: Legs) -> str:
    """Return the leg of a stack, whose innermost frame is the last.

    >>> leg_of(["ChildHandle.run (worker/pools/child_handle.py:64)", "frame (worker/pools/frames.py:76)"],
    ...        SUPERVISOR_LEGS)
    'to the children: choose, frame, write'
    >>> leg_of(["main (x.py)"], SUPERVISOR_LEGS) == REST
    True
    """
    for frame in reversed(frames):
        name_of, _, place_of = frame.rstrip(")").partition(" (")
        function, file = name_of.rpartition(".")[2], place_of.partition(":")[0]
        for named in (True, False):  # the entry of a function takes precedence over that of its file
            for leg, places in legs.items():
                for name, _, end in (place.rpartition(" ") for place in places):
                    if bool(name) is named and file.endswith(end) and name in ("", function):
                        return leg
    return REST
