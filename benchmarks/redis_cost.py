"""Measures the time that Redis spends in our scripts, from INFO commandstats; split by script with the slow log.

The time of a script is its execution, without reading the request and writing the reply, which count only in the
server's CPU time. The slow log, set to record every command, tells which script was called. Recording costs time, also
within a script; so the slow log stays off if there is only one script, and with batches the cost is small.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

from benchmarks.redis_line import Line, info

__all__ = ["RedisCost", "measuring"]

MOST_NOTES = 1_000_000
SCRIPTS = "cmdstat_evalsha"


@dataclass
class RedisCost:
    """Calls and seconds by script, and the server's total CPU seconds."""

    calls: Counter[str] = field(default_factory=Counter)
    seconds: dict[str, float] = field(default_factory=dict)
    cpu: float = 0.0


@contextmanager
def measuring(line: Line, scripts: str | Mapping[str, str]) -> Iterator[RedisCost]:
    """Yield a cost that is filled at the end of the block; `scripts` is the name of the only one, or names by SHA1."""
    cost = RedisCost()
    if not isinstance(scripts, str):
        line.ask("CONFIG", "SET", "slowlog-max-len", MOST_NOTES)
        line.ask("CONFIG", "SET", "slowlog-log-slower-than", 0)
        line.ask("SLOWLOG", "RESET")
    calls, seconds, cpu = _now(line)
    try:
        yield cost
    finally:
        line.ask("CONFIG", "SET", "slowlog-log-slower-than", -1)
        calls_after, seconds_after, cpu_after = _now(line)
        cost.cpu = cpu_after - cpu
        if isinstance(scripts, str):
            cost.calls[scripts], cost.seconds[scripts] = calls_after - calls, seconds_after - seconds
        else:
            _split(cost, line, scripts, seconds_after - seconds)


def _now(line: Line) -> tuple[int, float, float]:
    """Return the number of script calls, their seconds, and the server's CPU seconds so far."""
    counters = info(line, "commandstats").get(SCRIPTS, "calls=0,usec=0")
    statistics = dict(entry.split("=", 1) for entry in counters.split(","))
    used = info(line, "cpu")
    cpu = float(used["used_cpu_user"]) + float(used["used_cpu_sys"])
    return int(statistics["calls"]), int(statistics["usec"]) / 1e6, cpu


def _split(cost: RedisCost, line: Line, names: Mapping[str, str], seconds: float) -> None:
    """Split the seconds of all scripts in proportion to the slow log's entries."""
    noted: Counter[str] = Counter()
    for _, _, microseconds, command, *_ in line.ask("SLOWLOG", "GET", -1):
        if command[0].upper() == b"EVALSHA":  # the commands that a script calls are recorded, too
            name = names.get(command[1].decode(), "others")
            cost.calls[name] += 1
            noted[name] += microseconds
    whole = noted.total()
    cost.seconds = {name: seconds * part / whole for name, part in noted.items()}
    line.ask("SLOWLOG", "RESET")
