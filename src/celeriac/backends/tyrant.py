"""Outcomes in Tokyo Tyrant, by its binary protocol.

The first final outcome stays because it is stored by `putkeep`. The server keeps all values for ever, so a sweep
deletes those that are over. It finds them by entries that list, for each span of ten minutes, the keys that end in it:

| key, after the prefix | value |
|---|---|
| `f:…`, `s:…` | an outcome, as `KeyValueBackend` and `StampedValues` write it |
| `e:<span>:<f:… or s:…>` | an entry: this value ends in that span (its number: the end, by 600 seconds) |
| `swept` | the number of the first span that was not swept yet |
"""

from __future__ import annotations

import logging
import math
import threading
from collections.abc import Sequence

from celeriac.backends.stamped_values import StampedValues
from celeriac.drivers.peer import Peer, batches, host_of
from celeriac.drivers.tyrant.protocol import LARGEST, Put, delete_all, get_all, keys_with, put_all
from celeriac.errors import BackendError
from celeriac.model.clock import Clock
from celeriac.model.codec import PLAIN_CODEC, Codec
from celeriac.model.outcome import Outcome

__all__ = ["TyrantBackend", "connect"]

log = logging.getLogger("celeriac.backends")

SPAN = 600.0  # seconds; a process that stores outcomes sweeps so often
LATE = 1  # a span is swept so many spans after its end: the clocks of other machines may be slow
MOST_KEYS = 100  # in one request that reads
SLICE = 500  # entries that are swept at a time


class TyrantBackend(StampedValues):
    """Outcomes on one server. A thread sweeps, now and then, while outcomes are stored."""

    def __init__(self, peer: Peer, prefix: str, clock: Clock, result_expires: float | None,
                 codec: Codec = PLAIN_CODEC) -> None:  # fmt: skip
        super().__init__(clock, result_expires, codec)
        self.peer = peer
        self.prefix = prefix.encode() + b":"
        self._sweep_at = -math.inf  # monotonic
        self._sweeper: threading.Thread | None = None

    def save(self, outcomes: Sequence[Outcome]) -> list[bool]:
        done = super().save(outcomes)
        now = self.clock.monotonic()
        if now >= self._sweep_at and (self._sweeper is None or not self._sweeper.is_alive()):
            self._sweep_at = now + SPAN
            self._sweeper = threading.Thread(target=self._try_to_sweep, name="celeriac-tyrant-sweep", daemon=True)
            self._sweeper.start()
        return done

    def read_many(self, keys: Sequence[str]) -> dict[str, bytes]:
        found: dict[str, bytes] = {}
        for start in range(0, len(keys), MOST_KEYS):
            values = get_all(self.peer, [self._key(key) for key in keys[start : start + MOST_KEYS]])
            found.update({key[len(self.prefix) :].decode(): value for key, value in values.items()})
        return found

    def put_many(self, items: Sequence[tuple[str, bytes]], new: bool, end: float) -> Sequence[bool | None]:
        done: list[bool | None] = [None] * len(items)
        fit = [place for place, (_, value) in enumerate(items) if len(value) <= LARGEST]
        for part in batches([items[place][1] for place in fit]):
            places = fit[part]
            for place, was_set in zip(places, self._put([items[place] for place in places], new, end), strict=True):
                done[place] = was_set
        return done

    def _put(self, items: Sequence[tuple[str, bytes]], new: bool, end: float) -> list[bool]:
        puts = [Put(self._key(key), value, new) for key, value in items]
        if end == math.inf:
            return put_all(self.peer, puts)
        entries = [Put(self._entry(int(end // SPAN), key), b"1", new=False) for key, _ in items]
        return put_all(self.peer, entries + puts)[len(entries) :]  # if it breaks off, an entry leads nowhere

    def delete_many(self, keys: Sequence[str]) -> None:
        delete_all(self.peer, [self._key(key) for key in keys])

    # --- Deleting what is over ------------------------------------------------------------------------

    def sweep(self) -> int:
        """Delete values that are over; return how many."""
        until = int(self.clock.now() // SPAN) - LATE
        mark = get_all(self.peer, [self._key("swept")]).get(self._key("swept"), b"")
        deleted = 0
        if not mark.isdigit() or len(mark) > 18:  # what is stored from now on ends later
            put_all(self.peer, [Put(self._key("swept"), b"%d" % until, new=False)])
        else:
            for span in range(int(mark), until):
                deleted += self._sweep_span(span)
                put_all(self.peer, [Put(self._key("swept"), b"%d" % (span + 1), new=False)])
        return deleted

    def _sweep_span(self, span: int) -> int:
        deleted = 0
        start = self._entry(span, "")
        while entries := keys_with(self.peer, start, SLICE):
            values = self.read_many([entry[len(start) :].decode(errors="replace") for entry in entries])
            over = [key for key, value in values.items() if self.is_over(value)]  # a later entry lists the others
            if over:
                deleted += delete_all(self.peer, [self._key(key) for key in over])
            if not delete_all(self.peer, entries):
                raise self.peer.refused(b"it does not delete keys")
        return deleted

    def _try_to_sweep(self) -> None:
        try:
            deleted = self.sweep()
        except BackendError as error:  # another process sweeps, or the next time
            log.debug("Cannot delete what has expired: %s", error)
        else:
            log.debug("Deleted %d expired outcomes from %r", deleted, self)

    def _entry(self, span: int, key: str) -> bytes:
        return self._key(f"e:{span}:{key}")

    def _key(self, key: str) -> bytes:
        return self.prefix + key.encode()

    def close(self) -> None:
        self.peer.close()

    def __repr__(self) -> str:
        return f"<TyrantBackend {self.peer.host}:{self.peer.port}>"


def connect(url: str, *, clock: Clock, timeout: float, result_expires: float | None, codec: Codec = PLAIN_CODEC,
            prefix: str = "celeriac") -> TyrantBackend:  # fmt: skip
    """Return the backend of a `tyrant://` URL."""
    host, port = host_of(url, "Tokyo Tyrant", 1978)
    return TyrantBackend(Peer("Tokyo Tyrant", host, port, timeout), prefix, clock, result_expires, codec)
