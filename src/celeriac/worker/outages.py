"""Tells once that a server is away, and once that it is back, however many duties of the worker find out.

Each duty reports what it cannot do, and when it has done it again. An outage begins with the first failure. It ends
when all duties that it stopped work again: one that fails for another reason would begin it anew each second.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from celeriac.errors import BackendError, BrokerError

__all__ = ["Outages"]

log = logging.getLogger("celeriac.worker")


class Outages:
    """The outages of one worker's broker and result backend; of both as one, if they are joined."""

    def __init__(self, joined: bool, clock: Callable[[], float] = time.monotonic) -> None:
        self._joined = joined
        self._clock = clock
        self._begun: dict[str, float] = {}  # by server
        self._failing: dict[str, str] = {}  # by duty: the server

    def failed(self, duty: str, error: BrokerError | BackendError) -> None:
        """Report that a duty ("receive") fails for now."""
        server = "result backend" if isinstance(error, BackendError) and not self._joined else "broker"
        self._failing[duty] = server
        if server not in self._begun:
            self._begun[server] = self._clock()
            log.warning("The %s is unavailable, the worker keeps trying: cannot %s: %s", server, duty, error)
        else:
            log.debug("Cannot %s: %s", duty, error)
        self._tell_ends()

    def worked(self, duty: str) -> None:
        """Report that a duty has done its work."""
        if self._failing and self._failing.pop(duty, None) is not None:
            self._tell_ends()

    def _tell_ends(self) -> None:
        for server in self._begun.keys() - self._failing.values():
            log.warning("The %s is back after %.1f s", server, self._clock() - self._begun.pop(server))
