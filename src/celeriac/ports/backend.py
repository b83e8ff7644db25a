"""The backend's port: what holds outcomes must be able to do."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

from celeriac.model.outcome import Outcome

__all__ = ["Backend"]



class Backend(ABC):
    """Holds outcomes, by task id, until they expire."""

    keeps: bool = True
    """Whether outcomes are kept for whoever asks. Else each is sent to its caller alone, and `store` refuses none."""

    @property
    def reply_to(self) -> str:
        """Where outcomes for this process are to be sent; empty where they are kept."""
        return ""

    @abstractmethod
    async def store(self, outcomes: Sequence[Outcome]) -> list[bool]:
        """Keep outcomes. False where a final one was there already: it stays, and the late one is refused."""

    @abstractmethod
    def fetch(self, ids: Sequence[str], wait: float = 0.0) -> dict[str, Outcome]:
        """Return what is known of these tasks, by id.

        With `wait`, only final outcomes, as soon as there is one; an empty dict when `wait` seconds have passed.
        """

    @abstractmethod
    async def afetch(self, ids: Sequence[str], wait: float = 0.0) -> dict[str, Outcome]:
        """Do as `fetch`, for coroutines."""

    @abstractmethod
    def forget(self, ids: Sequence[str]) -> None:
        """Drop what is known of these tasks."""

    @abstractmethod
    async def aforget(self, ids: Sequence[str]) -> None:
        """Do as `forget`, for coroutines."""

    @abstractmethod
    async def recent(self, limit: int, offset: int = 0, state: str | None = None) -> list[Outcome]:
        """Return the outcomes stored last, newest first (for the windows)."""

    @abstractmethod
    def close(self) -> None:
        """Let go of connections; a later call opens them again."""
