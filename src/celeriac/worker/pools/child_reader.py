"""Reading what children say: at once while there is little, and by the millisecond while there is much.

A child writes each ending at once, so that nothing that has ended is lost with it. A supervisor that woke up for each
would do little else; so a child that has many runs before it is not listened to, but read from again after a pause.

A child that says what cannot be understood is heard no more: an ending may have been in it, so that what runs there
must be taken for lost.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Final

import msgspec

from celeriac.worker.pools.child_handle import ChildHandle
from celeriac.worker.pools.frames import LONGEST, Ran, Ready, Told, parse_from_child

__all__ = ["ChildReader"]

MUCH: Final = 16  # runs that a child has before it, from which on it is read from by the millisecond
PAUSE: Final = 0.001  # seconds


class ChildReader:
    """Reads from the children that it was given; `heard` is told what they say, `garbled` who cannot be understood."""

    def __init__(self, loop: asyncio.AbstractEventLoop,
                 heard: Callable[[Sequence[tuple[ChildHandle, list[Ready | Ran | Told]]]], None],
                 garbled: Callable[[ChildHandle], None]) -> None:  # fmt: skip
        self._loop = loop
        self._heard = heard
        self._garbled = garbled
        self._busy: dict[ChildHandle, None] = {}  # not listened to for now
        self._timer: asyncio.TimerHandle | None = None

    def begin(self, child: ChildHandle) -> None:
        """Read from a child from now on."""
        self._loop.add_reader(child.link, self._readable, child)

    def end(self, child: ChildHandle) -> None:
        """Read from a child no more."""
        self._busy.pop(child, None)
        self._loop.remove_reader(child.link)

    def last_words(self, child: ChildHandle) -> list[Ready | Ran | Told]:
        """Return what a child that has ended managed to say, and read from it no more."""
        self.end(child)
        said: list[Ready | Ran | Told] = []
        while not child.garbled and (data := child.receive()):
            said += self._understood(child, data)
        return said

    def _understood(self, child: ChildHandle, data: bytes) -> list[Ready | Ran | Told]:
        """Return what a child said, up to where it cannot be understood."""
        said: list[Ready | Ran | Told] = []
        try:
            for content in child.frames.feed(data):
                said.append(parse_from_child(content))  # noqa: PERF401 - what came before a broken frame is kept
        except msgspec.DecodeError:
            child.garbled = True
        child.garbled = child.garbled or child.frames.wanted > LONGEST
        return said

    def _said(self, child: ChildHandle, data: bytes) -> tuple[ChildHandle, list[Ready | Ran | Told]]:
        said = self._understood(child, data)
        if child.garbled:
            self.end(child)
            self._garbled(child)
        return child, said

    def _readable(self, child: ChildHandle) -> None:
        data = child.receive()
        if data is None:
            self._loop.remove_reader(child.link)  # it has ended; the nursery will tell how
            return
        if len(child.running) >= MUCH:
            self._loop.remove_reader(child.link)
            self._busy[child] = None
            self._collect_later()
        if data:
            self._heard([self._said(child, data)])

    def _collect_later(self) -> None:
        if self._timer is None:
            self._timer = self._loop.call_later(PAUSE, self._collect)

    def _collect(self) -> None:
        """Read from all that are busy; listen again to those that are not any more."""
        self._timer = None
        said = []
        for child in list(self._busy):
            data = child.receive()
            if data:
                said.append(self._said(child, data))
            if data is None:
                del self._busy[child]
            elif child.garbled:
                continue
            elif len(child.running) < MUCH:
                del self._busy[child]
                self.begin(child)
        if said:
            self._heard(said)
        if self._busy:
            self._collect_later()
