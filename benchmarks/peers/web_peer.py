"""Base of the contenders that serve HTTP: how the server starts, and which requests are measured."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

from benchmarks.peers.base import Peer

__all__ = ["WebPeer"]

Request = tuple[str, str, bytes]
"""Method, path and body."""


class WebPeer(Peer):
    """A contender that sends tasks, and tells their states, over HTTP."""

    @abstractmethod
    def serve(self, port: int) -> None:
        """Serve on a port until the process is ended."""

    @abstractmethod
    def sending(self) -> Request:
        """Return the request that sends a task."""

    @abstractmethod
    def asking(self, id: str) -> Request:
        """Return the request that asks for the state of a task."""

    def ended(self) -> str:
        """Run a task to its end, and return its id."""
        raise NotImplementedError

    def send(self, count: int) -> None:
        raise NotImplementedError

    def roundtrip(self, timeout: float) -> Any:
        raise NotImplementedError

    def completed(self) -> int:
        raise NotImplementedError
