"""Signals: connecting receivers, and what each signal gives them, with Celery's arguments and senders."""

from __future__ import annotations

import asyncio
import gc
import json
import os
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any, ClassVar

import pytest
from msgspec.structs import replace

from celeriac import Celeriac, Ignore, Reject, Task, chain, group, signals, states
from celeriac.errors import CeleriacError, EncodeError, TaskRevoked
from celeriac.signals import Signal
from celeriac.testing import running_worker
from tests.patience import PATIENCE, wait_for
from tests.promises.harness import Stage, get

MakeApp = Callable[..., Celeriac]


@pytest.fixture(autouse=True)
def disconnect() -> Iterator[None]:
    """Disconnect what a test has connected."""
    every = [found for found in vars(signals).values() if isinstance(found, Signal)]
    before = [signal.receivers for signal in every]
    yield
    for signal, receivers in zip(every, before, strict=True):
        signal.receivers = receivers


@pytest.fixture
def heard() -> list[tuple[str, Any, dict[str, Any]]]:
    """What task signals have said: name, sender, arguments. No Celery handler would name fewer arguments."""
    found: list[tuple[str, Any, dict[str, Any]]] = []

    def listen(name: str) -> None:
        def receiver(sender: Any, signal: Signal, **given: Any) -> None:
            assert signal.name == name
            assert set(given) == set(signal.arguments)
            found.append((name, sender, given))

        getattr(signals, name).connect(receiver)

    for name in ("task_prerun", "task_postrun", "task_success", "task_failure", "task_retry"):
        listen(name)
    return found


# --- Connecting ---------------------------------------------------------------------------------------


def test_a_receiver_that_asks_for_what_is_not_given_is_refused() -> None:
    with pytest.raises(TypeError, match=r"task_prerun, which has no argument 'state'\. It has: args, kwargs, sender, "):

        @signals.task_prerun.connect
        def state_too_early(task: Any = None, state: Any = None, **more: Any) -> None: ...

    with pytest.raises(TypeError, match=r"no argument 'retvall'\. Did you mean 'retval'\?"):
        signals.task_postrun.connect(lambda retvall, **more: None)
    with pytest.raises(TypeError, match="no argument 'task_id'"):
        signals.worker_ready.connect(lambda task_id=None, **more: None)
    with pytest.raises(TypeError, match="no argument 'sender'"):
        signals.worker_ready.connect(lambda sender, /, **more: None)
    assert not signals.task_prerun
    assert not signals.worker_ready


def test_a_receiver_that_could_not_be_called_is_refused() -> None:
    async def later(**more: Any) -> None: ...

    with pytest.raises(TypeError, match="a coroutine function, and nothing would await it"):
        signals.task_success.connect(later)
    with pytest.raises(TypeError, match=r"add \*\*kwargs"):
        signals.task_success.connect(lambda sender, result: None)
    with pytest.raises(TypeError, match="takes a function, not 3"):
        signals.task_success.connect(3)  # type: ignore[call-overload]


@pytest.mark.parametrize(
    "receiver",
    [
        lambda **more: None, lambda sender=None, **more: None, lambda *args, **more: None, dict,
        lambda sender, mine=1, *, task_id=None, **more: None,
    ],
)  # fmt: skip
def test_a_receiver_that_asks_for_what_is_given_is_connected(receiver: Any) -> None:
    signal = Signal("s", "task_id")
    assert signal.connect(receiver) is receiver
    assert signal


def test_a_receiver_is_connected_once_for_a_sender() -> None:
    signal, heard = Signal("s"), []

    def receive(sender: Any, **more: Any) -> None:
        heard.append(sender)

    for sender in (None, None, "a", "a", "b"):
        signal.connect(receive, sender=sender)
    assert len(signal.receivers) == 3
    signal.send("a")
    assert heard == ["a", "a"]
    assert signal.disconnect(receive, sender="a")
    assert not signal.disconnect(receive, sender="a")
    assert len(signal.receivers) == 2
    assert signal.disconnect(receive)
    assert not signal


def test_one_of_the_receivers_with_a_dispatch_uid_is_connected() -> None:
    signal, heard = Signal("s"), []
    for number in range(3):
        signal.connect(lambda number=number, **more: heard.append(number), dispatch_uid="mine")
    signal.send(None)
    assert heard == [0]
    assert signal.disconnect(dispatch_uid="mine")
    assert not signal


def test_a_receiver_is_held_unless_it_is_connected_weakly() -> None:
    signal, heard = Signal("s"), []

    class Listener:
        def receive(self, **more: Any) -> None:
            heard.append(self)

    kept, method, function = Listener(), Listener(), lambda **more: heard.append(None)
    signal.connect(kept.receive, weak=True)
    signal.connect(method.receive, weak=True)
    signal.connect(function, weak=True)
    signal.connect(lambda **more: heard.append("held"))
    signal.connect(lambda **more: heard.append("held too"), weak=False)
    signal.send(None)
    assert heard == [kept, method, None, "held", "held too"]
    heard.clear()
    del method, function
    gc.collect()
    signal.send(None)
    assert heard == [kept, "held", "held too"]
    assert len(signal.receivers) == 3


def test_a_sender_may_be_named(app: Celeriac) -> None:
    mine = app.task(name="mine")(lambda: None)
    other = app.task(name="other")(lambda: None)
    heard: list[Any] = []
    signals.task_success.connect(lambda sender, **more: heard.append(sender), sender="mine")
    signals.before_task_publish.connect(lambda sender, **more: heard.append(sender), sender=mine)
    for task in (mine, other):
        task.apply()
        task.delay()
    assert heard == [mine, "mine"]


def test_a_signal_of_celery_that_is_not_sent_says_what_to_do_instead() -> None:
    with pytest.raises(AttributeError, match="does not send the signal task_sent: connect to after_task_publish"):
        _ = signals.task_sent
    with pytest.raises(AttributeError, match=r"There is no signal 'task_sucess'\. Did you mean 'task_success'"):
        _ = signals.task_sucess


# --- Tasks --------------------------------------------------------------------------------------------


@pytest.fixture(params=["plain", "coroutine"])
def divide(request: pytest.FixtureRequest, app: Celeriac) -> Any:
    async def coroutine(x: int, y: int = 1) -> float:
        return x / y

    function: Any = coroutine if request.param == "coroutine" else lambda x, y=1: x / y
    return app.task(name="divide", max_retries=1, default_retry_delay=0)(function)


def test_the_success_of_a_task_is_told(divide: Any, heard: list[Any]) -> None:
    divide.apply((4,), {"y": 2}, task_id="i")
    runtime = heard[1][2].pop("runtime")
    assert runtime >= 0
    call = {"task_id": "i", "args": [4], "kwargs": {"y": 2}}
    assert heard == [
        ("task_prerun", divide, {"task": divide, **call}),
        ("task_success", divide, {"task_id": "i", "result": 2.0}),
        ("task_postrun", divide, {"task": divide, **call, "retval": 2.0, "state": states.SUCCESS}),
    ]


def test_the_failure_of_a_task_is_told(divide: Any, heard: list[Any]) -> None:
    divide.apply((4, 0), task_id="i")
    (_, (name, sender, failure), (_, _, postrun)) = heard
    error = failure["exception"]
    assert (name, sender, failure["task_id"], failure["args"], failure["kwargs"]) == (
        "task_failure", divide, "i", [4, 0], {}
    )  # fmt: skip
    assert isinstance(error, ZeroDivisionError)
    assert failure["traceback"] is error.__traceback__ is not None
    assert failure["einfo"].exception is error
    assert "ZeroDivisionError: division by zero" in str(failure["einfo"])
    assert (postrun["state"], postrun["retval"]) == (states.FAILURE, error)


def test_the_retry_of_a_task_is_told(divide: Any, heard: list[Any]) -> None:
    divide.autoretry_for = (ZeroDivisionError,)
    divide.apply((4, 0), task_id="i")
    assert [name for name, _, _ in heard] == [
        "task_prerun", "task_retry", "task_postrun", "task_prerun", "task_failure", "task_postrun"
    ]  # fmt: skip
    retry, postrun = heard[1][2], heard[2][2]
    assert (retry["task_id"], retry["request"].id, retry["request"].retries) == ("i", "i", 0)
    assert isinstance(retry["reason"].exc, ZeroDivisionError)
    assert "ZeroDivisionError" in str(retry["einfo"])
    assert (postrun["state"], postrun["retval"]) == (states.RETRY, retry["reason"])


@pytest.mark.parametrize(
    ("end", "state"), [(Ignore("no"), "IGNORED"), (Reject("no"), "REJECTED"), ("replaced", "IGNORED")], ids=str
)
def test_the_states_of_postrun_are_celerys(app: Celeriac, heard: list[Any], end: Any, state: str) -> None:
    other = app.task(name="other")(lambda: None)

    @app.task(bind=True)
    def ends(self: Task[..., Any]) -> None:
        if isinstance(end, Exception):
            raise end
        self.replace(other.s())

    ends.apply()
    assert [(name, given.get("state")) for name, sender, given in heard if sender == ends] == [
        ("task_prerun", None), ("task_postrun", state)
    ]  # fmt: skip


def test_in_a_receiver_the_sender_has_its_request(divide: Any) -> None:
    seen: list[tuple[str, Any]] = []
    for name in ("task_prerun", "task_postrun", "task_success", "task_failure"):
        getattr(signals, name).connect(lambda sender, name=name, **more: seen.append((name, sender.request.id)))
    divide.apply((4, 2), task_id="i")
    divide.apply((4, 0), task_id="j")
    assert {id for _, id in seen[:3]} == {"i"}
    assert {id for _, id in seen[3:]} == {"j"}
    assert len(seen) == 6


# --- Publishing ---------------------------------------------------------------------------------------


def test_the_publishing_of_a_message_is_told_as_celery_does(app: Celeriac) -> None:
    told: dict[str, Any] = {}

    @signals.before_task_publish.connect
    def before(sender: Any, body: Any, exchange: str, routing_key: str, headers: Any, properties: Any, declare: Any,
               retry_policy: Any, **more: Any) -> None:  # fmt: skip
        args, kwargs, embed = body
        told["before"] = (sender, args, dict(kwargs), embed["callbacks"], exchange, routing_key, dict(headers),
                          properties["correlation_id"])  # fmt: skip

    @signals.after_task_publish.connect
    def after(sender: Any, headers: Any, body: Any, exchange: str, routing_key: str, **more: Any) -> None:
        info = headers if "task" in headers else body  # as the manual of Celery has it
        told["after"] = (sender, info["id"], body[0], exchange, routing_key)

    add = app.task(name="add")(lambda x, y: x + y)
    eta = datetime(2040, 1, 1, tzinfo=UTC)
    result = add.apply_async((1,), {"y": 2}, eta=eta, headers={"mine": 1}, time_limit=9)
    sender, args, kwargs, callbacks, exchange, key, headers, correlation = told["before"]
    assert (sender, args, kwargs, callbacks, exchange, key) == ("add", (1,), {"y": 2}, None, "", "default")
    assert correlation == headers["id"] == headers["root_id"] == result.id
    assert (headers["task"], headers["eta"], headers["timelimit"]) == ("add", eta.isoformat(), [9.0, None])
    assert (headers["argsrepr"], headers["kwargsrepr"]) == ("(1,)", "{'y': 2}")
    assert (headers["retries"], headers["mine"]) == (0, 1)
    assert told["after"] == ("add", result.id, (1,), "", "default")


async def test_headers_that_a_receiver_adds_are_sent(app: Celeriac) -> None:
    @signals.before_task_publish.connect
    def trace(headers: Any, **more: Any) -> None:
        headers["trace"] = "t"
        headers.setdefault("mine", 0)
        headers.update(tags=["a", ("b",)])

    @app.task(bind=True)
    def tell(self: Task[..., Any]) -> Any:
        return [self.request.headers, self.request.get("trace"), self.request.get("nothing", 5)]

    expected = {"trace": "t", "tags": ["a", ["b"]]}
    with running_worker(app):
        first = tell.apply_async(headers={"mine": 1})
        assert await first.aget(timeout=PATIENCE) == [{"mine": 1, **expected}, "t", 5]
        for result in [await tell.adelay(), *tell.delay_many([()]), *group(tell.s()).delay()]:
            assert await result.aget(timeout=PATIENCE) == [{"mine": 0, **expected}, "t", 5]


def test_a_receiver_cannot_change_a_message_unnoticed(app: Celeriac, caplog: pytest.LogCaptureFixture) -> None:
    changes: list[Callable[..., None]] = [
        lambda headers, **more: headers.update(id="mine"),
        lambda headers, **more: headers.pop("task"),
        lambda headers, **more: headers.update(x=object()),
        lambda body, **more: body[1].update(y=3),
        lambda properties, **more: properties.update(priority=9),
    ]
    errors = [TypeError, TypeError, EncodeError, AttributeError, AttributeError]
    for change in changes:
        signals.before_task_publish.connect(change)
    add = app.task(name="add")(lambda x, y: x + y)
    result = add.delay(1, y=2)
    logged = [record.exc_info[0] for record in caplog.records if record.exc_info is not None]
    assert logged == errors
    [message] = app.broker.complete(app.broker.operations().peek("default", 10))
    assert (message.id, message.headers, json.loads(message.body)) == (result.id, {}, [[1], {"y": 2}])


def test_the_publishing_of_many_is_told_for_each(app: Celeriac) -> None:
    sent: list[str] = []
    signals.before_task_publish.connect(lambda headers, **more: sent.append(headers["id"]))
    signals.after_task_publish.connect(lambda headers, **more: sent.append(headers["id"]))
    add = app.task(name="add", serializer="pickle")(lambda x: x)
    ids = [result.id for result in add.delay_many([(object,), ({1},)])]
    assert sent == ids * 2
    sent.clear()
    chain(app.task(name="json")(lambda x: x).s(1), add.si(2)).delay()
    assert len(sent) == 2
    assert asyncio.run(add.adelay(1)).id == sent[-1]


# --- Workers ------------------------------------------------------------------------------------------

RECEIVERS = """
import json
from celeriac import signals

def listen(name):
    def receive(sender, **given):
        found = {key: getattr(value, "id", None) or repr(value) for key, value in given.items()
                 if key not in ("signal", "einfo", "traceback")}
        request = given.get("request")
        if request is not None:
            found["call"] = [request.name, request.args, request.kwargs]
        with open(SIGNALS, "a") as file:
            print(json.dumps([name, getattr(sender, "name", sender), os.getpid(), found]), file=file)
    getattr(signals, name).connect(receive)

SIGNALS = Path(__file__).with_name("signals")
for name in signals.__all__:
    if name.startswith(("task_", "worker_")):
        listen(name)
"""


def test_a_worker_tells_of_its_life_and_of_the_tasks_that_no_child_reports(stage: Stage) -> None:
    with (stage.folder / "victim.py").open("a") as module:
        module.write(RECEIVERS)
    file = stage.folder / "signals"
    revoked = stage.send("plain", "returns", 1)
    stage.app.control.revoke(revoked.id)
    expired = stage.send("plain", "returns", 2, expires=0)
    worker = stage.worker("-c", "1", "--max-tasks-per-child", "1", worker_grace_seconds=2)

    def heard(name: str, id: str = "") -> list[Any]:
        lines = file.read_text().rpartition("\n")[0].splitlines() if file.exists() else []
        found = [json.loads(line) for line in lines]
        ids = ("task_id", "request", "id")
        return [one for one in found if one[0] == name and (not id or id in [one[3].get(key) for key in ids])]

    def once(name: str, id: str = "") -> Any:
        found = stage.wait(lambda: heard(name, id), f"the signal {name}")
        return found[0]

    ok = stage.send("plain", "returns", "fine")
    assert get(ok) == "fine"
    child = once("task_success", f"'{ok.id}'")[2]
    assert child != worker.pid
    assert once("task_received", ok.id)[1:] == [worker.name, worker.pid, {
        "request": ok.id, "call": ["victim.plain", ["returns", "fine"], {}]
    }]  # fmt: skip
    assert once("task_revoked", revoked.id)[2:] == [worker.pid, {
        "request": revoked.id, "terminated": "False", "signum": "None", "expired": "False",
        "call": ["victim.plain", ["returns", 1], {}]
    }]  # fmt: skip
    assert once("task_revoked", expired.id)[3]["expired"] == "True"
    for lane in ("plain", "coroutine"):
        overdue = stage.send(lane, "blocks", stage.path("never"), time_limit=0.2)
        get_state(overdue, states.FAILURE)
        (failure,) = stage.wait(lambda id=overdue.id: heard("task_failure", f"'{id}'"))
        assert failure[1:3] == [f"victim.{lane}", worker.pid]
        assert "TimeLimitExceeded" in failure[3]["exception"]
    lost = stage.send("plain", "kills_itself", acks_late=False)
    get_state(lost, states.FAILURE)
    assert "WorkerLost" in once("task_failure", f"'{lost.id}'")[3]["exception"]
    failed = stage.send("plain", "raises", "no")
    get_state(failed, states.FAILURE)
    assert [one[2] == worker.pid for one in heard("task_failure", f"'{failed.id}'")] == [False]
    unknown = stage.app.send_task("victim.unknown")
    assert once("task_unknown", f"'{unknown.id}'")[3]["name"] == "'victim.unknown'"
    long = stage.send("plain", "sleeps", 600)
    stage.started(long)
    stage.app.control.revoke(long.id, terminate=True)
    assert once("task_revoked", long.id)[3]["terminated"] == "True"
    ended = [worker.name, child]
    stage.wait(lambda: ended in [one[1:3] for one in heard("worker_process_shutdown")], "the end of the child")
    assert worker.stop() == 0
    assert once("worker_init")[1:3] == [worker.name, worker.pid]
    assert once("worker_ready")[1:3] == [worker.name, worker.pid]
    assert once("worker_shutting_down")[1:] == [
        worker.name, worker.pid, {"sig": "'SIGTERM'", "how": "'Warm'", "exitcode": "0"}
    ]  # fmt: skip
    assert once("worker_shutdown")[1:3] == [worker.name, worker.pid]
    assert {one[1] for one in heard("worker_process_init")} == {worker.name}


def test_the_children_of_a_worker_that_stops_tell_of_their_ends(stage: Stage) -> None:
    with (stage.folder / "victim.py").open("a") as module:
        module.write(RECEIVERS)
        module.write("""
from celeriac.worker import supervisor
from celeriac.worker.pools import process_pool

supervisor.FINAL_SECONDS = process_pool.LEAVE_SECONDS = 60.0  # on a busy machine, children may be slow to end
""")
    worker = stage.worker("-c", "2")
    children = {process.pid for process in worker.children()}
    assert worker.stop() == 0
    told = [json.loads(line) for line in (stage.folder / "signals").read_text().splitlines()]
    ends = {pid: given for name, _, pid, given in told if name == "worker_process_shutdown"}
    assert ends.keys() == children
    assert all(given["pid"] == str(pid) and given["exitcode"] == "0" for pid, given in ends.items())


def get_state(result: Any, state: str) -> None:
    wait_for(result.ready, f"the end of {result.id}")
    assert result.state == state


def test_what_worker_init_sets_up_is_there_in_each_child(stage: Stage) -> None:
    with (stage.folder / "victim.py").open("a") as module:
        module.write("""
from celeriac import signals

LOADED = []

@signals.worker_init.connect
def load(**more):
    LOADED.append(os.getpid())

@app.task
def loaded():
    return LOADED
""")
    worker = stage.worker("-c", "1")
    assert get(stage.app.send_task("victim.loaded")) == [worker.pid]


def test_a_worker_in_threads_tells_of_its_life_too(app: Celeriac) -> None:
    told: list[tuple[str, Any]] = []
    for name in ("worker_init", "worker_ready", "worker_shutting_down", "worker_shutdown", "task_received"):
        getattr(signals, name).connect(lambda sender, name=name, **more: told.append((name, sender)))
    add = app.task(name="add")(lambda: 1)
    with running_worker(app) as worker:
        assert add.delay().get(timeout=PATIENCE) == 1
    assert told == [
        ("worker_init", worker.name), ("worker_ready", worker), ("task_received", worker.name),
        ("worker_shutting_down", worker.name), ("worker_shutdown", worker),
    ]  # fmt: skip
    assert (worker.hostname, worker.app) == (worker.name, app)


class Opened:
    """Notes in which process it is unpickled."""

    processes: ClassVar[list[int]] = []

    def __setstate__(self, state: Any) -> None:
        self.processes.append(os.getpid())


@pytest.mark.parametrize("body", [b"5", b"[1]", b'["ab", {}]', b"[1, 2, 3]", b"{"])
@pytest.mark.parametrize("name", ["task_received", "task_revoked"])
def test_a_body_that_is_no_call_harms_no_worker_that_tells_of_its_message(
    app: Celeriac, name: str, body: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    told: list[Any] = []
    getattr(signals, name).connect(lambda request, **more: told.append((request.args, request.kwargs)))
    add = app.task(name="add")(lambda: 1)
    odd = replace(add.message_template().message((), {}, {"expires": 0} if name == "task_revoked" else {}), body=body)
    app.broker.publish([odd])
    with running_worker(app, concurrency=1):
        with pytest.raises((CeleriacError, TypeError, ValueError)):
            app.AsyncResult(odd.id).get(timeout=PATIENCE)
        assert add.delay().get(timeout=PATIENCE) == 1
    assert told[0] == ([], {})
    assert "one by one" not in caplog.text


def test_a_supervisor_unpickles_nothing_to_tell_of_a_message(make_app: MakeApp) -> None:
    app = make_app(accept_content=["json", "pickle"])
    told: list[Any] = []
    signals.task_revoked.connect(lambda request, **more: told.append(request.args))
    add = app.task(name="add", serializer="pickle")(lambda it: 1)
    it = Opened()
    it.has_state = True  # type: ignore[attr-defined]
    with running_worker(app), pytest.raises(TaskRevoked):
        add.apply_async((it,), expires=0).get(timeout=PATIENCE)
    assert (told, Opened.processes) == ([[]], [])
