"""`explain`: each reason why a task does not run, made so on real brokers with real workers, and told."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from celeriac import Celeriac, chain, chord, group
from celeriac.errors import Reject
from celeriac.inspector import Explanation, Inspector, Reason
from celeriac.model.message import PLAIN, new_id
from celeriac.ports.operations import WorkerInfo
from celeriac.testing import running_worker
from tests.commands import command
from tests.patience import FOR_EVER, PATIENCE, wait_for
from tests.rabbitmq_server import Place

ALL = ("memory", "sqlite", "redis")


class Shop:
    """An app with tasks, and what happens to them."""

    def __init__(self, app: Celeriac) -> None:
        self.app = app
        self.go = threading.Event()
        self.started = threading.Semaphore(0)

        @app.task(name="shop.add")
        def add(x: int, y: int = 2) -> int:
            return x + y

        @app.task(name="shop.hold", track_started=True)
        def hold(n: int = 0) -> int:
            self.started.release()
            self.go.wait(PATIENCE)
            return n

        @app.task(name="shop.fail", max_retries=0)
        def fail() -> None:
            raise ValueError("card declined")

        @app.task(name="shop.again", bind=True, max_retries=3)
        def again(self: Any) -> None:
            raise self.retry(exc=ValueError("busy"), countdown=FOR_EVER)

        @app.task(name="shop.reject")
        def reject() -> None:
            raise Reject("not today")

        @app.task(name="shop.requeue")
        def requeue() -> None:
            raise Reject("later", requeue=True)

        @app.task(name="shop.quiet", ignore_result=True)
        def quiet() -> None:
            pass

        self.add, self.hold, self.fail, self.again = add, hold, fail, again
        self.reject, self.requeue, self.quiet = reject, requeue, quiet

    def explain(self, id: str, timeout: float = PATIENCE, **more: Any) -> Explanation:
        return self.app.broker.complete(Inspector(self.app, timeout=timeout).explain(id, **more))

    def why(self, id: str, kind: str, **more: Any) -> Reason:
        """Return the first reason, which is of this kind as soon as the system has come to it."""
        return first(wait_for(lambda: (found := self.explain(id, **more)).reasons[0].kind == kind and found, kind))

    @contextmanager
    def busy(self, count: int = 1, **options: Any) -> Iterator[list[str]]:
        """Run a worker whose slots are all taken; give the ids of what takes them."""
        with running_worker(self.app, concurrency=count, **options):
            ids = [self.hold.delay(n).id for n in range(count)]
            for _ in ids:
                assert self.started.acquire(timeout=PATIENCE)
            try:
                yield ids
            finally:
                self.go.set()


def first(found: Explanation) -> Reason:
    return found.reasons[0]


def kinds(found: Explanation) -> list[str]:
    return [reason.kind for reason in found.reasons]


@pytest.fixture(params=ALL)
def shop(request: pytest.FixtureRequest, make_app: Callable[..., Celeriac], tmp_path: Any) -> Iterator[Shop]:
    url = {"memory": None, "sqlite": f"sqlite:///{tmp_path / 'explained.db'}"}
    if request.param == "redis":
        url["redis"] = request.getfixturevalue("redis").url
    given = {"broker_url": url[request.param]} if url[request.param] else {}
    made = Shop(make_app(task_queues=["mail", "idle"], **given))
    yield made
    made.go.set()


# --- What stops it ------------------------------------------------------------------------------------


def test_no_worker_runs(shop: Shop) -> None:
    found = shop.explain(shop.add.delay(1).id)
    assert (found.status, found.place, kinds(found)) == ("waiting", "ready", ["no_worker"])
    assert first(found).command == "worker -Q default"


def test_the_queue_is_paused(shop: Shop) -> None:
    app = shop.app
    with running_worker(app):
        app.broker.complete(Inspector(app).pause(["mail"]))
        id = shop.add.apply_async((1,), queue="mail").id
        assert "paused" in shop.why(id, "queue_paused").text
        assert first(shop.explain(id)).command == "queues resume mail"


def test_no_worker_receives_from_the_queue_and_one_does_from_a_similar_one(shop: Shop) -> None:
    shop.app.conf.task_create_missing_queues = True
    with running_worker(shop.app, queues=["mail"]):
        found = shop.explain(shop.add.apply_async((1,), queue="mial").id)
    assert kinds(found) == ["no_receiver"]
    assert "the queue 'mial'. One does from 'mail'" in first(found).text
    assert first(found).command == "control add-consumer mial"


def test_no_worker_knows_the_task_and_one_knows_a_similar_name(shop: Shop) -> None:
    shop.app.conf.worker_unknown_task_seconds = FOR_EVER
    with running_worker(shop.app):
        id = shop.app.send_task("shop.ad", args=(1,)).id
        reason = shop.why(id, "unknown_task")
        wait_for(lambda: "becomes a dead letter in" in first(shop.explain(id)).text, "it was sent back")
    assert "does not know the task 'shop.ad'. Did you mean 'shop.add'?" in reason.text
    assert reason.data == {"nearest": "shop.add"}


def test_all_slots_are_taken_by_what_and_since_when(shop: Shop) -> None:
    with shop.busy(2) as ids:
        found = shop.explain(shop.add.delay(1).id)
        assert first(found).kind == "slots_taken", found
        assert {task["id"] for task in first(found).data["tasks"]} == set(ids)
        taken = "All 2 slots for plain functions of the worker that receives from 'default' are taken."
        assert first(found).text == taken
        assert {line.partition("]")[0] for line in first(found).lines} == {f"shop.hold[{id}" for id in ids}
        since = first(found).since
        assert since is not None
        assert since <= found.at


def test_what_has_another_lane_than_the_taken_slots_is_next(shop: Shop) -> None:
    @shop.app.task(name="shop.wait")
    async def wait() -> None:
        pass

    with shop.busy():
        id = wait.delay().id
        assert wait_for(lambda: shop.explain(id).status == "ended", "the coroutine has ended")


def test_others_come_first_and_the_rate_tells_when_it_starts(shop: Shop) -> None:
    ids = [shop.add.delay(n).id for n in range(4)]
    found = shop.explain(ids[3])
    assert kinds(found) == ["no_worker", "behind"]
    assert (found.reasons[1].data["before"], found.reasons[1].data["ready"]) == (3, 4)
    assert found.reasons[1].text == "3 waiting tasks come before it."  # nothing moves, so there is no time
    with running_worker(shop.app):
        wait_for(lambda: all(shop.explain(id).status == "ended" for id in ids), "their ends")
    with shop.busy(1):
        ids = [shop.add.delay(n).id for n in range(3)]
        found = wait_for(lambda: (told := shop.explain(ids[2])).reasons[-1].until and told, "a rate")
        assert kinds(found) == ["slots_taken", "behind"]
        assert "waiting tasks come before it. At the " in found.reasons[1].text
        assert " of the last five minutes it starts in about " in found.reasons[1].text


def test_what_comes_after_many_others_is_told_at_least(shop: Shop) -> None:
    ids = [shop.add.delay(n).id for n in range(205)]
    reason = shop.explain(ids[-1]).reasons[-1]
    assert (reason.kind, reason.data["before"], reason.data["ready"]) == ("behind", None, 205)
    assert reason.text.startswith("At least 200 of the 205 waiting tasks come before it.")




# --- Not yet ------------------------------------------------------------------------------------------


def test_it_is_due_later(shop: Shop) -> None:
    with running_worker(shop.app):
        id = shop.add.apply_async((1,), countdown=3600).id
        found = shop.explain(id)
        assert (found.place, kinds(found)) == ("scheduled", ["not_due"])
        assert first(found).text.startswith("It is due in 59 min")
        assert first(found).command == f"tasks run-now {id}"
        assert first(found).until is not None
        done = command(shop.app, "tasks", "run-now", id)
        assert done.output == "1 of 1 were scheduled, and may start now.\n"
        assert shop.why(id, "ended").text.startswith("Attempt 1 ended")


def test_it_is_tried_again_later(shop: Shop) -> None:
    with running_worker(shop.app):
        id = shop.again.delay().id
        reason = shop.why(id, "retrying")
    assert reason.text.startswith("It is tried again: attempt 2 of at most 4 is due in 9 min")
    assert reason.text.endswith("Attempt 1 failed: ValueError: busy")
    assert reason.data == {"attempt": 2, "of": 4}


def test_its_task_sends_it_back(shop: Shop) -> None:
    with running_worker(shop.app):
        id = shop.requeue.delay().id
        text = wait_for(lambda: next((one.text for one in shop.explain(id).reasons if one.kind == "requeued"), ""))
    assert "Reject(requeue=True)" in text


def test_its_rate_is_limited(shop: Shop) -> None:
    with running_worker(shop.app):
        command(shop.app, "control", "rate-limit", "shop.add", "6/m", "-t", str(PATIENCE))
        ids = [shop.add.delay(n).id for n in range(3)]
        reason = shop.why(ids[-1], "rate_limit")
        assert reason.text.startswith("shop.add is limited to 6/m on each worker: its turn is in ")
        assert reason.command == "control rate-limit shop.add none"


# --- Ends that are near -------------------------------------------------------------------------------


def test_it_was_revoked_and_no_worker_has_seen_it(shop: Shop) -> None:
    id = shop.add.delay(1).id
    shop.app.control.revoke(id)
    assert kinds(shop.explain(id))[:2] == ["revoked", "no_worker"]
    with running_worker(shop.app):
        wait_for(lambda: shop.explain(id).status == "ended", "its end")
        assert shop.explain(id).reasons[0].text.startswith("It was revoked before it started")


def test_it_expires_and_it_expired(shop: Shop) -> None:
    found = shop.explain(shop.add.apply_async((1,), expires=3600).id)
    assert kinds(found) == ["no_worker", "expires"]
    id = shop.add.apply_async((1,), expires=0.01).id
    assert shop.why(id, "expired").text.endswith("as soon as a worker receives it.")
    with running_worker(shop.app):
        wait_for(lambda: shop.explain(id).status == "ended", "its end")
    assert first(shop.explain(id)).text.startswith("It expired before a worker could start it")


# --- With a worker ------------------------------------------------------------------------------------


def test_it_runs_where_and_since_when(shop: Shop) -> None:
    with shop.busy() as (id,):
        found = shop.explain(id)
        assert (found.status, kinds(found)) == ("running", ["running"])
        assert first(found).text.startswith("Attempt 1 has run for ")


def test_it_runs_over_its_soft_limit(shop: Shop) -> None:
    with running_worker(shop.app, concurrency=1):
        id = shop.hold.apply_async(soft_time_limit=2).id
        assert shop.started.acquire(timeout=PATIENCE)
        reason = shop.why(id, "over_soft_limit")
        assert reason.text.startswith("It has exceeded its soft time limit of 2 s by ")
        assert reason.command == f"tasks revoke {id} --terminate"
        assert kinds(shop.explain(id)) == ["over_soft_limit", "running"]
        shop.go.set()
        wait_for(lambda: shop.explain(id).status == "ended", "its end")


async def _held(app: Celeriac, name: str, seconds: float) -> Any:
    lease = await app.broker.lease(WorkerInfo(name=name, queues=("default",)), seconds, 3)
    [_] = await lease.receive(["default"], {PLAIN: 1}, 0.0)
    return lease


def test_its_worker_does_not_reply(shop: Shop) -> None:
    id = shop.add.delay(1).id
    shop.app.broker.complete(_held(shop.app, "mute", PATIENCE))
    found = shop.explain(id, timeout=0.01)
    assert (found.status, kinds(found)) == ("running", ["holder_silent"])
    assert first(found).text.startswith("The worker mute holds it, and does not say whether it runs. Its lease ends in")
    assert found.unseen == ["The worker mute did not reply: what it runs, and which tasks it knows, is not known."]


def test_its_worker_is_lost_and_its_message_returns(shop: Shop) -> None:
    id = shop.add.delay(1).id
    shop.app.broker.complete(_held(shop.app, "gone", 0.05))
    reason = shop.why(id, "holder_lost", timeout=0.01)
    assert reason.text.startswith("The worker gone held it, and has not renewed its lease")
    assert reason.text.endswith("The next worker that runs returns the message to its queue.")
    with running_worker(shop.app):
        wait_for(lambda: shop.explain(id).status == "ended", "it runs on another worker")


# --- Over ---------------------------------------------------------------------------------------------


def test_it_has_ended(shop: Shop) -> None:
    with running_worker(shop.app):
        good, bad = shop.add.delay(1), shop.fail.delay()
        assert good.get(timeout=PATIENCE) == 3
        reason = shop.why(bad.id, "failed")
    assert shop.explain(good.id).summary == f"shop.add[{good.id}] has ended: SUCCESS."
    assert reason.text.endswith("ValueError: card declined")
    assert reason.command == f"tasks retry {bad.id}"


def test_it_is_a_dead_letter_and_why(shop: Shop) -> None:
    with running_worker(shop.app):
        id = shop.reject.delay().id
        reason = shop.why(id, "dead")
    assert reason.text.startswith("Why: not today. It was set aside ")
    assert reason.command == f"queues dead resend {id}"


def test_its_result_is_gone_and_the_history_has_kept_it(shop: Shop) -> None:
    if shop.app.history is None:
        pytest.skip("no history")
    with running_worker(shop.app):
        id = shop.fail.delay().id
        shop.why(id, "failed")
    shop.app.backend.forget([id])
    found = shop.explain(id)
    assert (found.status, first(found).kind) == ("ended", "forgotten")
    assert "ValueError: card declined. The history has kept it" in first(found).text


def test_it_was_never_seen(shop: Shop) -> None:
    found = shop.explain("order-17")
    assert (found.status, kinds(found)) == ("unknown", ["never_seen"])
    assert "Celeriac has not made this id" in first(found).text
    assert "Its id was made " in first(shop.explain(new_id())).text
    old = first(shop.explain("0100a1b2-c3d4-7000-8000-000000000000"))
    assert (old.kind, "its result has expired" in old.text) == ("forgotten", True)


def test_its_id_is_mistyped(shop: Shop) -> None:
    with running_worker(shop.app):
        result = shop.add.delay(1)
        result.get(timeout=PATIENCE)
    for wrong in (result.id[:-4], f"{result.id[:-1]}{'0' if result.id[-1] != '0' else '1'}"):
        assert first(shop.explain(wrong)).text == f"Nothing is known of it. There is a task {result.id}."


# --- In a workflow ------------------------------------------------------------------------------------


def test_others_of_its_workflow_come_first(shop: Shop) -> None:
    result = chain(shop.add.s(1, 1), shop.add.s(2), shop.add.s(3)).delay()
    parent = result.parent
    assert parent is not None
    assert parent.parent is not None
    found = shop.explain(result.id, workflow=result.workflow_id)
    assert (found.status, found.task, kinds(found)) == ("waiting", "shop.add", ["workflow"])
    assert first(found).text.startswith(f"It waits for shop.add[{parent.parent.id}], PENDING. 0 of the 3 tasks")
    assert first(found).command == f"explain {parent.parent.id}"
    whole = shop.explain(result.workflow_id)
    assert (whole.status, first(whole).text) == ("waiting", first(found).text)
    with running_worker(shop.app):
        assert result.get(timeout=PATIENCE) == 7
    assert shop.explain(result.workflow_id).summary.endswith("has ended.")


def test_a_chord_waits_for_the_members_that_have_not_ended(shop: Shop) -> None:
    @shop.app.task(name="shop.total")
    def total(values: list[int]) -> int:
        return sum(values)

    with running_worker(shop.app, concurrency=2):
        result = chord(group(shop.add.s(1, 1), shop.hold.s(5)), total.s()).delay()
        assert shop.started.acquire(timeout=PATIENCE)
        told = lambda: shop.explain(result.id, workflow=result.workflow_id)  # noqa: E731
        wait_for(lambda: first(told()).data["ended"] == 1, "the end of the other member")
        found = told()
        assert first(found).text.startswith("It waits for shop.hold[")
        shop.go.set()
        assert result.get(timeout=PATIENCE) == 7


def test_it_was_not_run_because_an_earlier_one_failed(shop: Shop) -> None:
    with running_worker(shop.app):
        result = chain(shop.fail.s(), shop.add.si(1)).delay()
        reason = shop.why(result.id, "not_run")
    assert result.parent is not None
    assert reason.command == f"explain {result.parent.id}"


# --- RabbitMQ: what can be known ----------------------------------------------------------------------


def test_where_the_broker_finds_no_message_the_queue_and_the_workers_are_explained(
    make_app: Callable[..., Celeriac], place: Place, tmp_path: Any
) -> None:
    app = make_app(broker_url=place.url, result_backend=f"sqlite:///{tmp_path / 'results.db'}", task_queues=["mail"],
                   broker_publish_timeout=PATIENCE)  # fmt: skip
    shop = Shop(app)
    id = shop.add.delay(1).id
    found = shop.explain(id)
    assert (found.status, kinds(found)) == ("unknown", ["not_seen"])
    assert found.unseen[0].startswith("This broker cannot find a message by its id")
    assert kinds(shop.explain(id, task="shop.add")) == ["no_worker"]
    app.broker.complete(Inspector(app).pause(["mail"]))
    with running_worker(app, concurrency=1):
        running = shop.hold.delay().id
        assert shop.started.acquire(timeout=PATIENCE)
        assert shop.why(running, "running")
        assert kinds(shop.explain(id)) == ["ended"]
        waits = shop.add.delay(1).id
        assert kinds(shop.explain(waits, task="shop.add")) == ["slots_taken"]
        assert kinds(shop.explain(waits, task="shop.add", queue="mail")) == ["queue_paused", "slots_taken"]
        again = shop.again.delay().id
        shop.go.set()
        assert shop.why(again, "retrying").text.startswith("Attempt 1 failed: ValueError: busy.")
    app.backend.close()


# --- The command --------------------------------------------------------------------------------------


def test_the_command_says_what_to_type_next(make_app: Callable[..., Celeriac]) -> None:
    shop = Shop(make_app(task_queues=["it's; rm -rf"]))
    id = shop.add.apply_async((1,), queue="it's; rm -rf").id
    done = command(shop.app, "explain", id)
    assert done.exit_code == 0
    assert done.output == (
        f"shop.add[{id}] is waiting in the queue \"it's; rm -rf\".\n\nNo worker is running.\n   Start one.\n"
        "     celeriac -A app_of_a_test worker -Q 'it'\"'\"'s; rm -rf'\n"
    )
    assert command(shop.app, "explain", "nobody").exit_code == 3
    told = command(shop.app, "explain", id, "--json")
    assert '"kind": "no_worker"' in told.output
    assert '"command": "celeriac -A app_of_a_test worker -Q' in told.output
