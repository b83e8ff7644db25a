"""The port for claims: a key that one process takes for some time, with a value that others find.

The HTTP API keeps its idempotency keys so, and workers agree by it on who compacts the history. Backends that keep
outcomes for everyone implement it, and so does each history: its store may be another server than the result backend.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

from celeriac.errors import NotSupported

if TYPE_CHECKING:
    from celeriac.ports.backend import Backend

__all__ = ["ClaimKeeper", "ClaimStore", "claim_store"]


class ClaimStore(ABC):
    """Keeps claims until they expire. All that use one server share its keys: begin them with a word of your own."""

    @abstractmethod
    async def claim(self, key: str, value: bytes, seconds: float, now: float) -> bytes | None:
        """Take a key for some time, for the caller alone. Return None, or the value of the claim that holds it.

        With 0 seconds, only look. A claim that the caller holds itself is not taken again before it has expired.
        """


class ClaimKeeper(ABC):
    """What keeps claims. Implemented by histories, and by backends next to `Backend`."""

    @abstractmethod
    def claims(self) -> ClaimStore:
        """Return the port for claims."""


def claim_store(backend: Backend) -> ClaimStore:
    """Return the port for claims of a backend. Raises `NotSupported` if it keeps none."""
    if isinstance(backend, ClaimKeeper):
        return backend.claims()
    raise NotSupported(f"{backend!r} keeps no claims, so it cannot tell that a request is repeated. Leave the "
                       "Idempotency-Key out, or set `result_backend` to sqlite://, redis://, zmq://, db+postgresql:// "
                       "or mongodb://.")  # fmt: skip
