"""A plain socket and hiredis: what packing a command and parsing its reply cost, with nothing around them."""

from __future__ import annotations

from benchmarks.clients.base import BODY, QUEUE, SCRIPT, WINDOW, Client
from benchmarks.redis_line import Line


class HiredisSocket(Client):
    """One connection."""

    title = "hiredis, a plain socket"
    packages = ("hiredis",)

    def __init__(self) -> None:
        super().__init__()
        self._line = Line(self.port)
        self._command = ("EVALSHA", self._line.ask("SCRIPT", "LOAD", SCRIPT), 1, QUEUE, BODY)

    def call_each(self, count: int) -> None:
        for _ in range(count):
            self._line.ask(*self._command)

    def call_pipelined(self, count: int) -> None:
        for start in range(0, count, WINDOW):
            self._line.ask_all(*[self._command] * min(WINDOW, count - start))


CLIENT = HiredisSocket
