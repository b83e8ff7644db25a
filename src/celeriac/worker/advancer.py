"""Advances workflows: sends what follows the end of a node, where settling the node could not do all of it.

Settling a task leaves a `PendingNode` in the backend when the task completes a join, or has failed while others wait
for it. The worker that settled it claims it at once; if that worker was killed, any other does within seconds.
`canvas/advance.py` decides what follows. It is written in one step with the removal of the pending node, so that two
workers that advance the same node do it once.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence

from msgspec.structs import replace

from celeriac.app.app import Celeriac
from celeriac.app.notifier import Notifier
from celeriac.canvas.advance import advance, wanted
from celeriac.canvas.links import fitting
from celeriac.canvas.tree import Tree
from celeriac.errors import AccessRefused, BackendError, BrokerError
from celeriac.model.message import Message
from celeriac.model.outcome import Outcome
from celeriac.model.repeated_warnings import RepeatedWarnings
from celeriac.ports.broker import Lease
from celeriac.ports.workflows import Advance, PendingNode, WorkflowStore
from celeriac.worker.heartbeat import FIRST_PAUSE, fault, may_end, next_pause
from celeriac.worker.outages import Outages

__all__ = ["Advancer"]

log = logging.getLogger("celeriac.worker")

ADVANCE = "advance workflows"  # the duty, for `Outages`
BATCH = 200  # nodes advanced in one step
FETCH = 2_000  # outcomes fetched in one request
CLAIM_SECONDS = 5.0  # a claimed node that is not advanced by then may be claimed by another worker
ALONE_SECONDS = CLAIM_SECONDS / 2  # after its claim; what is published later is marked. It leaves time to publish
POLL_SECONDS = 1.0  # between looks for nodes that other workers left pending
MAYBE_SENT = 0.0  # instead of an instant: the messages of a node may have been published already


class Advancer:
    """Advances workflows until cancelled."""

    def __init__(self, app: Celeriac, lease: Callable[[], Lease], joined: bool, outages: Outages,
                 notifier: Notifier | None = None) -> None:  # fmt: skip
        self.wake = asyncio.Event()  # set it when there may be a pending node
        self._app = app
        self._lease = lease
        self._joined = joined
        self._outages = outages
        self._notifier = notifier
        self._warnings = RepeatedWarnings(log)

    async def run(self) -> None:
        """Advance pending nodes as they come, until cancelled."""
        store = self._app.backend
        if not isinstance(store, WorkflowStore):
            await asyncio.get_running_loop().create_future()  # nothing to do, until cancelled
            return
        polling = asyncio.create_task(self._poll(store))
        polling.add_done_callback(lambda task: self.wake.set())
        try:
            await self._advance_all(polling)
        finally:
            polling.cancel()

    async def _poll(self, store: WorkflowStore) -> None:
        """Look for nodes that other workers left pending, until cancelled."""
        while True:
            try:
                await store.until_pending(POLL_SECONDS)
            except (BrokerError, BackendError):  # what looks then says so
                await asyncio.sleep(POLL_SECONDS)
            self.wake.set()

    async def _advance_all(self, polling: asyncio.Task[None]) -> None:
        pause = FIRST_PAUSE
        while True:
            self.wake.clear()
            try:
                await self.finish()
                self._outages.worked(ADVANCE)
                pause = FIRST_PAUSE
            except AccessRefused:
                raise
            except (BrokerError, BackendError) as error:
                self._outages.failed(ADVANCE, error)
                await asyncio.sleep(pause)
                pause = next_pause(pause)
                continue
            await self.wake.wait()
            if polling.done():
                polling.result()

    async def finish(self) -> None:
        """Advance all pending nodes."""
        store = self._app.backend
        if not isinstance(store, WorkflowStore):
            return
        while True:
            alone_until = self._app.clock.now() + ALONE_SECONDS
            claimed = await store.claim_pending(BATCH, CLAIM_SECONDS)
            if not claimed:
                return
            pending = {node: MAYBE_SENT if was_claimed else alone_until for node, was_claimed in claimed.items()}
            try:
                await self._advance(store, pending)
            except Exception as error:
                if may_end(error) and not isinstance(error, AccessRefused):
                    raise
                if len(pending) > 1:
                    self._warnings.warn("Cannot advance %d nodes together, advancing them one by one: %s",
                                        len(pending), error)  # fmt: skip
                for node in pending:
                    await self._advance_or_drop(store, node)

    async def _advance_or_drop(self, store: WorkflowStore, node: PendingNode) -> None:
        """Advance a node. If that can never succeed, remove it: its workflow ends here, and others go on.

        If rights are missing for what follows, it stays pending until they are granted. A store that refuses everything
        refuses the next claim too.
        """
        try:
            await self._advance(store, {node: MAYBE_SENT})
        except AccessRefused as error:
            self._warnings.warn("A node of the workflow %s cannot be advanced, and is tried again in %g s: %s",
                                node.workflow, CLAIM_SECONDS, error)  # fmt: skip
        except Exception as error:
            if may_end(error):
                raise
            log.error("Nothing follows node %d of the workflow %s: it cannot be advanced: %s",
                      node.node, node.workflow, error, exc_info=fault(error))  # fmt: skip
            await self._drop(store, node)

    async def _drop(self, store: WorkflowStore, node: PendingNode) -> None:
        """Remove a node. If the store refuses that too, others go on, and it is tried again when the claim ends."""
        try:
            await self._write([Advance(pending=node)], {node: MAYBE_SENT}, store)
        except Exception as error:
            if may_end(error):
                raise
            log.error("Node %d of the workflow %s stays pending: it cannot be removed: %s",
                      node.node, node.workflow, error)  # fmt: skip

    async def _advance(self, store: WorkflowStore, pending: Mapping[PendingNode, float]) -> None:
        """Advance pending nodes; given for each until when nobody else publishes its messages.

        What is published later is marked: another worker may have claimed the node meanwhile, and what it has published
        may have ended.
        """
        trees = await self._app.workflows.load([node.workflow for node in pending])
        outcomes = await self._outcomes(list(pending), trees)
        now = self._app.clock.now()
        await self._write([self._follow(node, trees, outcomes, now) for node in pending], pending, store)

    async def _write(self, advances: Sequence[Advance], pending: Mapping[PendingNode, float],
                     store: WorkflowStore) -> None:  # fmt: skip
        if self._joined:
            await self._lease().advance(advances)
            self._tell(advances)
            return
        # Publish first: a crash before `advance` publishes again, and loses nothing.
        now = self._app.clock.now()
        sent: dict[bool, list[Message]] = {False: [], True: []}
        for item, alone_until in zip(advances, pending.values(), strict=True):
            sent[now >= alone_until] += item.messages
        for again, messages in sent.items():
            if messages:
                await self._app.broker.apublish(messages, again)
        await store.advance(advances)
        self._tell(advances)

    def _tell(self, advances: Sequence[Advance]) -> None:
        """Tell the callers of tasks that were ended without being run."""
        if self._notifier is not None and self._notifier.is_needed:
            self._notifier.stored(outcome for item in advances for outcome in item.outcomes)

    def _follow(self, node: PendingNode, trees: Mapping[str, Tree], outcomes: Mapping[str, Outcome],
                now: float) -> Advance:  # fmt: skip
        if node.workflow not in trees:
            log.error("Nothing follows node %d of the workflow %s: the workflow has expired", node.node, node.workflow)
            return Advance(pending=node)
        done = advance(trees[node.workflow], node.node, outcomes, now)
        largest = self._app.broker.codec.largest
        return replace(done, messages=[fitting(message, largest) for message in done.messages])

    async def _outcomes(self, pending: Sequence[PendingNode], trees: Mapping[str, Tree]) -> dict[str, Outcome]:
        """Return the outcomes that are needed to advance these nodes, by id."""
        ids = [id for node in pending if node.workflow in trees for id in wanted(trees[node.workflow], node.node)]
        found: dict[str, Outcome] = {}
        for start in range(0, len(ids), FETCH):
            found |= await self._app.backend.afetch(ids[start : start + FETCH])
        return found
