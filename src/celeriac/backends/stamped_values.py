"""Base of backends on key-value servers that do not let values expire: each value carries the instant when it ends.

An adapter implements `read_many`, `put_many` and `delete_many`. A value is eight bytes, the instant (a double, in
seconds since the epoch, big-endian), and then what `KeyValueBackend` stores. Values that are over are read as if they
were absent. The adapter may delete them, now and then.
"""

from __future__ import annotations

import math
import struct
from abc import abstractmethod
from collections.abc import Sequence

from celeriac.backends.key_value import KeyValueBackend
from celeriac.errors import BackendError

__all__ = ["StampedValues"]

STAMP = struct.Struct(">d")
TRIES = 3  # a refused value is added again if what was there is over, or gone


class StampedValues(KeyValueBackend):
    """Outcomes in a key-value store that keeps all values for ever. Instants are by the clocks of the clients."""

    @abstractmethod
    def read_many(self, keys: Sequence[str]) -> dict[str, bytes]:
        """Return the values of the keys that exist."""

    @abstractmethod
    def put_many(self, items: Sequence[tuple[str, bytes]], new: bool, end: float) -> Sequence[bool | None]:
        """Set values, whose end is `end`; with `new`, only those whose keys do not exist: each in one atomic step.

        Return for each whether it was set; None: it is too large for the server.
        """

    def is_over(self, value: bytes) -> bool:
        """Return whether a value, as the server has it, has ended; so has one that no adapter has written."""
        return len(value) < STAMP.size or not STAMP.unpack_from(value)[0] > self.clock.now()

    # --- What `KeyValueBackend` needs -----------------------------------------------------------------

    def get_many(self, keys: Sequence[str]) -> dict[str, bytes]:
        found = self.read_many(keys)
        return {key: value[STAMP.size :] for key, value in found.items() if not self.is_over(value)}

    def set(self, key: str, value: bytes, expires: float | None) -> None:
        self.set_many([(key, value)], expires)

    def set_many(self, items: Sequence[tuple[str, bytes]], expires: float | None) -> Sequence[bool | None]:
        end = self._end(expires)
        return self.put_many([(key, STAMP.pack(end) + value) for key, value in items], False, end)

    def add(self, key: str, value: bytes, expires: float | None) -> bool:
        return bool(self.add_many([(key, value)], expires)[0])

    def add_many(self, items: Sequence[tuple[str, bytes]], expires: float | None) -> Sequence[bool | None]:
        """Add values. What is over gives way: it is deleted, and the value is added again.

        Two workers that do so for one key at the same time may both succeed: the protocols have no way to delete only a
        certain value. It takes a task that is settled twice, after `result_expires`, at the same moment.
        """
        end = self._end(expires)
        stamped = [(key, STAMP.pack(end) + value) for key, value in items]
        done: list[bool | None] = [False] * len(items)
        left = list(range(len(items)))
        for _ in range(TRIES):
            for place, was_set in zip(left, self.put_many([stamped[place] for place in left], True, end), strict=True):
                done[place] = was_set
            refused = [place for place in left if done[place] is False]
            if not refused:
                return done
            found = self.read_many([items[place][0] for place in refused])
            over = [key for key, value in found.items() if self.is_over(value)]
            if over:
                self.delete_many(over)
            left = [place for place in refused if items[place][0] in over or items[place][0] not in found]
            if not left:
                return done
        raise BackendError(f"{self!r} refuses to store outcomes, and has none of these tasks. Is its disk full, or is "
                           "it a replica that only reads?")  # fmt: skip

    def _end(self, expires: float | None) -> float:
        return math.inf if expires is None else self.clock.now() + expires
