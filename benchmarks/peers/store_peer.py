"""The interface of a contender that stores outcomes."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar
from uuid import uuid4

from benchmarks.peers.base import STORE_VARIABLE

__all__ = ["URL", "StorePeer"]

URL = os.environ.get(STORE_VARIABLE, "")
VALUE = b"x" * 150  # about an encoded outcome's length


class StorePeer(ABC):
    """A result backend, or the bare client of its server."""

    title: ClassVar[str]
    module: ClassVar[str]  # the module that users import
    packages: Sequence[str]  # whose versions are reported
    settings: str  # its configuration and guarantees, as text
    pace = 0

    @abstractmethod
    def store(self, ids: Sequence[str]) -> int:
        """Store a final outcome for each id, in one batch; return how many were new."""

    def batches(self, size: int, number: int) -> list[list[str]]:
        """Return ids in batches, which no other call has returned."""
        run = uuid4().hex[:20]
        return [[f"{run}-{batch:06}-{item:04}" for item in range(size)] for batch in range(number)]
