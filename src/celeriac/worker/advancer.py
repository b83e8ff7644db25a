"""The duty of advancing workflows: what follows from the end of a node, where settling it did not do it all.

Settling a task leaves a `Due` behind, in the backend, when it brings a join to its end or has failed with others
waiting for it. Here they are taken on, many at a time, by whichever worker comes first: the one that settled, at once;
any other, within seconds, when that one was killed. What follows is decided by `canvas/advance.py`, and written in one
step together with the removal of the due: two workers that advance the same node do it once.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Mapping, Sequence

from celeriac.app.app import Celeriac
from celeriac.canvas.advance import advance, wanted
from celeriac.canvas.tree import Tree
from celeriac.errors import BackendError, BrokerError
from celeriac.model.outcome import Outcome
from celeriac.ports.broker import Lease
from celeriac.ports.workflows import Advance, Due, WorkflowStore
from celeriac.worker.heartbeat import FIRST_PAUSE, longer

__all__ = ["Advancer"]

log = logging.getLogger("celeriac.worker")

BATCH = 200  # nodes advanced in one go
FETCH = 2_000  # outcomes asked for in one go
TAKE_SECONDS = 5.0  # a node that was taken on and not advanced by then is another's
LOOK_SECONDS = 1.0  # how often to look for what other workers have left


class Advancer:
    """Advances workflows until it is stopped."""

    def __init__(self, app: Celeriac, lease: Callable[[], Lease], joined: bool) -> None:
        self.something = asyncio.Event()  # set when there may be something due
        self._app = app
        self._lease = lease
        self._joined = joined

    async def run(self) -> None:
        """Advance, for ever."""
        pause = FIRST_PAUSE
        if not isinstance(self._app.backend, WorkflowStore):
            await asyncio.get_running_loop().create_future()  # for ever: there is nothing to do
        while True:
            self.something.clear()
            try:
                await self.finish()
                pause = FIRST_PAUSE
            except (BrokerError, BackendError) as error:
                log.warning("Cannot advance workflows, trying again in %.1f s: %s", pause, error)
                await asyncio.sleep(pause)
                pause = longer(pause)
                continue
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LOOK_SECONDS):
                    await self.something.wait()

    async def finish(self) -> None:
        """Advance all that is due now."""
        store = self._app.backend
        if not isinstance(store, WorkflowStore):
            return
        while dues := await store.due(BATCH, TAKE_SECONDS):
            await self._advance(store, dues)

    async def _advance(self, store: WorkflowStore, dues: Mapping[Due, bool]) -> None:
        """Advance what is due, and say of what was taken on before that its messages may have been sent."""
        trees = await self._app.workflows.load([due.workflow for due in dues])
        outcomes = await self._outcomes(list(dues), trees)
        now = self._app.clock.now()
        advances = [self._follow(due, trees, outcomes, now) for due in dues]
        if self._joined:
            await self._lease().advance(advances)
            return
        # First to the broker: a crash in between sends again, and loses nothing.
        for again in (False, True):
            messages = [
                message
                for item, taken_before in zip(advances, dues.values(), strict=True)
                if taken_before is again
                for message in item.messages
            ]
            if messages:
                await self._app.broker.apublish(messages, again)
        await store.advance(advances)

    def _follow(self, due: Due, trees: Mapping[str, Tree], outcomes: Mapping[str, Outcome], now: float) -> Advance:
        if due.workflow not in trees:
            log.error("The workflow %s has expired; nothing follows from its node %d", due.workflow, due.node)
            return Advance(due=due)
        return advance(trees[due.workflow], due.node, outcomes, now)

    async def _outcomes(self, dues: Sequence[Due], trees: Mapping[str, Tree]) -> dict[str, Outcome]:
        """Return the outcomes that the nodes are made up of, by id."""
        ids = [id for due in dues if due.workflow in trees for id in wanted(trees[due.workflow], due.node)]
        found: dict[str, Outcome] = {}
        for start in range(0, len(ids), FETCH):
            found |= await self._app.backend.afetch(ids[start : start + FETCH])
        return found
