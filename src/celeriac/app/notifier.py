"""Sends notices: tells callers through the broker that outcomes of their tasks were stored (`model/notices.py`).

`SettlementWriter` and `Advancer` report what was stored. A duty of the supervisor sends it, so settling never waits for
it. While one notice is being sent, the next are collected: many small batches become one notice. What cannot be sent is
dropped, because the callers poll. `app/purging.py` reports what it has ended, and sends that itself.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable

from celeriac.app.connections import needs_notices
from celeriac.errors import AccessRefused, BrokerError
from celeriac.model.notices import MOST_IDS, encode_notice, is_channel
from celeriac.model.outcome import Outcome
from celeriac.ports.backend import Backend
from celeriac.ports.broker import Broker

__all__ = ["Notifier"]

log = logging.getLogger("celeriac.worker")

MOST_CHANNELS = 1000  # with notices to be sent; callers with others are not told


class Notifier:
    """Collects the ids of ended tasks by the channels of their callers, and sends them.

    `is_needed`: whether the backend keeps outcomes and cannot notify callers, and this process may.
    """

    def __init__(self, broker: Broker, backend: Backend) -> None:
        self.is_needed = needs_notices(backend)
        self._broker = broker
        self._waiting: dict[str, list[str]] = {}  # ids by channel; an empty list: too many to name
        self._has_work = asyncio.Event()

    def stored(self, outcomes: Iterable[Outcome]) -> None:
        """Tell the callers of these tasks soon."""
        if not self.is_needed:
            return
        waiting = self._waiting
        for outcome in outcomes:
            channel = outcome.reply_to
            if not channel or not outcome.ready:
                continue
            if channel not in waiting:
                if len(waiting) < MOST_CHANNELS and self._may_send(channel, outcome):
                    waiting[channel] = [outcome.id]
            elif ids := waiting[channel]:
                ids.append(outcome.id)
                if len(ids) > MOST_IDS:
                    ids.clear()
        if waiting:
            self._has_work.set()

    async def run(self) -> None:
        """Send notices until cancelled."""
        while True:
            await self._has_work.wait()
            await self.finish()

    async def finish(self) -> None:
        """Send what was reported so far. Never raises: what cannot be sent is dropped."""
        while self._waiting:
            channel = next(iter(self._waiting))
            payload = encode_notice(self._waiting.pop(channel))
            try:
                await self._broker.broadcast(channel, [self._broker.codec.seal("notice", payload, channel)])
            except BrokerError as error:
                self._waiting.clear()
                self._failed(error)
            except Exception:  # a fault of Celeriac's; it must not end the worker
                self._waiting.clear()
                log.exception("Cannot tell callers that their tasks have ended; they poll")
        self._has_work.clear()

    def _may_send(self, channel: str, outcome: Outcome) -> bool:
        """Return whether a channel is one for notices."""
        if is_channel(channel):
            return True
        log.error("The caller of %s[%s] is not told of its end: its address %r is not a channel for notices",
                  outcome.task, outcome.id, channel)  # fmt: skip
        return False

    def _failed(self, error: BrokerError) -> None:
        if isinstance(error, AccessRefused):  # a right does not come back by itself
            self.is_needed = False
            log.warning("This process may not tell callers that their tasks have ended, so they poll: %s", error)
        else:
            log.debug("Cannot tell callers that their tasks have ended: %s", error)
