"""`explain`: reasons that hold for a moment only, or need an unusual worker: a worker of the test tells what is so.

The broker, its leases and messages are real. `tests/test_explain.py` has the other reasons, made so by real workers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytest

from celeriac import Celeriac
from celeriac.app.control import Reply
from celeriac.inspector import Explanation, Inspector, Reason
from celeriac.model.message import COROUTINE, PLAIN, Message, new_id
from celeriac.ports.operations import WorkerInfo
from tests.patience import FOR_EVER, PATIENCE

WORKER = "one@host"


class _Told(Inspector):
    """Asks a worker that replies what the test decides; None: that does not reply."""

    reply: Mapping[str, Any] | None = None

    async def ask(self, name: str, arguments: Mapping[str, Any] | None = None,
                  destination: Sequence[str] | None = None, timeout: Any = None) -> dict[str, Reply]:  # fmt: skip
        return {} if self.reply is None else {WORKER: Reply(WORKER, dict(self.reply))}


class Shop:
    """An app, and a worker that receives from its queue when the test says so."""

    def __init__(self, app: Celeriac) -> None:
        self.app = app
        self.told = _Told(app)
        info = WorkerInfo(name=WORKER, queues=("default",))
        self.lease = app.broker.complete(app.broker.lease(info, FOR_EVER, 3))

    def take(self) -> None:
        """Let the worker receive a message."""
        [_] = self.app.broker.complete(self.lease.receive(["default"], {PLAIN: 1, COROUTINE: 1}, PATIENCE))

    def explain(self, id: str, **reply: Any) -> Explanation:
        """Explain a task, with what the worker replies."""
        self.told.reply = {"queues": ["default"], **reply} if reply else None
        return self.app.broker.complete(self.told.explain(id))


@pytest.fixture
def shop(make_app: Callable[..., Celeriac]) -> Shop:
    return Shop(make_app())


def the_one(found: Explanation) -> Reason:
    (reason,) = found.reasons
    return reason


def test_no_worker_has_slots_for_its_kind(shop: Shop) -> None:
    found = shop.explain(shop.app.send_task("shop.add").id, lane=COROUTINE, capacity={PLAIN: 4}, free={PLAIN: 4})
    assert (found.status, found.reasons[0].kind) == ("waiting", "no_slots")
    assert found.reasons[0].text == "The worker that receives from 'default' has no slots for coroutines."
    assert found.reasons[0].command == "worker -Q default"


def test_it_is_next(shop: Shop) -> None:
    ids = [shop.app.send_task("shop.add").id for _ in range(2)]
    reason = the_one(shop.explain(ids[0], lane=PLAIN, capacity={PLAIN: 1}, free={PLAIN: 1}))
    assert reason.kind == "next"
    assert reason.text == "It is next, and nothing is in its way: a worker takes it within a second or two."
    assert the_one(shop.explain(ids[0])).kind == "next"  # also if the worker does not reply
    assert the_one(shop.explain(ids[1], lane=PLAIN, capacity={PLAIN: 1}, free={PLAIN: 1})).kind == "behind"


def test_a_worker_that_did_not_know_its_task_sent_it_back(shop: Shop) -> None:
    now = shop.app.clock.now()
    id = new_id()
    shop.app.broker.publish([Message(id=id, task="shop.new", body=b"[[],{}]", sent_at=now, unknown_since=now,
                                     due_at=now + FOR_EVER)])  # fmt: skip
    reason = the_one(shop.explain(id, registered=True, lane=PLAIN, capacity={PLAIN: 1}, free={PLAIN: 1}))
    assert reason.kind == "returned"
    assert reason.text.startswith("A worker sent it back, because it does not know the task: it is tried again in ")
    assert reason.until == now + FOR_EVER


def test_a_worker_has_just_taken_it(shop: Shop) -> None:
    id = shop.app.send_task("shop.add").id
    shop.take()
    found = shop.explain(id, own=None)
    assert (found.status, found.summary) == ("running", f"shop.add[{id}] is with the worker {WORKER}.")
    assert the_one(found).kind == "held"
    assert the_one(found).text.startswith(f"The worker {WORKER} has just taken it, or has run it and is about to")


def test_a_worker_has_received_it_ahead(shop: Shop) -> None:
    id = shop.app.send_task("shop.add").id
    shop.take()
    found = shop.explain(id, own={"id": id, "task": "shop.add", "started_at": None})
    assert (found.status, the_one(found).kind) == ("waiting", "reserved")
    assert the_one(found).command == f"inspect active -d {WORKER}"


def test_it_runs_over_its_time_limit(shop: Shop) -> None:
    id = shop.app.send_task("shop.add").id
    shop.take()
    started = shop.app.clock.now() - 10
    own = {"id": id, "task": "shop.add", "started_at": started, "time_limit": 4.0}
    found = shop.explain(id, own=own)
    assert (found.status, [reason.kind for reason in found.reasons]) == ("running", ["over_limit", "running"])
    assert found.reasons[0].text.startswith("It has exceeded its time limit of 4 s by ")
    assert found.reasons[0].since == started + 4.0
    assert found.reasons[0].command == f"tasks revoke {id} --terminate"
