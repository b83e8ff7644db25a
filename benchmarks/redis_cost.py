"""What Redis itself spends on our scripts: microseconds as INFO commandstats counts them, split by its slow log.

A script's time is that of its run, without reading the request and writing the reply: those are in the server's CPU
time alone. The slow log, set so that it notes every command, says which script it was. Its notes have a price, within a
script too; so where there is but one script, it is left off, and where they run in batches, the price is small.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

from benchmarks.redis_line import Line, info

__all__ = ["RedisCost", "noting"]

MOST_NOTES = 1_000_000
SCRIPTS = "cmdstat_evalsha"


@dataclass
class RedisCost:
    """By script: its calls, and its seconds; and the server's seconds of CPU, all in all."""

    calls: Counter[str] = field(default_factory=Counter)
    seconds: dict[str, float] = field(default_factory=dict)
    cpu: float = 0.0


@contextmanager
def noting(line: Line, scripts: str | Mapping[str, str]) -> Iterator[RedisCost]:
    """Yield what is filled when the block ends; `scripts`: the only one's name, or the names of all, by their SHA1."""
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
    """Return how often scripts were called, their seconds, and the seconds of CPU that the server has used."""
    told = info(line, "commandstats").get(SCRIPTS, "calls=0,usec=0")
    statistics = dict(entry.split("=", 1) for entry in told.split(","))
    used = info(line, "cpu")
    cpu = float(used["used_cpu_user"]) + float(used["used_cpu_sys"])
    return int(statistics["calls"]), int(statistics["usec"]) / 1e6, cpu


def _split(cost: RedisCost, line: Line, names: Mapping[str, str], seconds: float) -> None:
    """Split the seconds of all scripts by what the slow log has noted."""
    noted: Counter[str] = Counter()
    for _, _, microseconds, command, *_ in line.ask("SLOWLOG", "GET", -1):
        if command[0].upper() == b"EVALSHA":  # what a script calls is noted, too
            name = names.get(command[1].decode(), "others")
            cost.calls[name] += 1
            noted[name] += microseconds
    whole = noted.total()
    cost.seconds = {name: seconds * part / whole for name, part in noted.items()}
    line.ask("SLOWLOG", "RESET")
