"""What is known of a task, as a web application asks for it: in coroutines, as plain data, step by step."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID

import pydantic
import pytest

from celeriac import AsyncResult, Celeriac, chain, group, states
from celeriac.backends.memory import MemoryBackend
from celeriac.errors import EncodeError, ImproperlyConfigured, ResultIgnored
from celeriac.model.failure import Failure
from celeriac.model.outcome import Outcome
from celeriac.model.serialization import dumps
from celeriac.tasks.plain_data import without_paths
from celeriac.tasks.shared import _apps
from tests.patience import PATIENCE, eventually
from tests.worker_loop import working

MakeApp = Callable[..., Celeriac]
NOTHING = {"state": states.PENDING, "ready": False, "progress": None, "value": None, "error": None}


async def store(result: AsyncResult[Any], state: str, value: Any = None, failure: Failure | None = None) -> None:
    """Store an outcome as a worker does."""
    encoded = None if value is None else dumps(value)
    await result.app.backend.store(
        [Outcome(id=result.id, task="t", state=state, value=encoded, failure=failure, worker="shop@host.1")]
    )


# --- In coroutines ------------------------------------------------------------------------------------


async def test_state_and_info_have_coroutine_versions(app: Celeriac) -> None:
    result = app.AsyncResult("id")
    assert (await result.astate(), await result.ainfo(), await result.aoutcome()) == (states.PENDING, None, None)
    await store(result, states.PROGRESS, {"done": 1, "total": 2})
    assert (await result.astate(), await result.ainfo()) == (states.PROGRESS, {"done": 1, "total": 2})
    await store(result, states.RETRY, failure=Failure.of(OSError("again")))
    assert (await result.astate(), repr(await result.ainfo())) == (states.RETRY, "OSError('again')")
    await store(result, states.SUCCESS, 4)
    assert (await result.astate(), await result.ainfo(), result.result) == (states.SUCCESS, 4, 4)


async def test_a_task_is_revoked_from_a_coroutine(app: Celeriac) -> None:
    app.task(name="t")(lambda: 1)
    result = app.send_task("t")
    await result.arevoke()
    with working(app):
        await eventually(result.ready)
    assert await result.astate() == states.REVOKED


async def test_a_result_that_is_here_needs_no_backend(make_app: MakeApp) -> None:
    app = make_app(broker_url="sqlite:////no/such/folder/x.db")
    result = app.task(name="t")(lambda: 1).apply()
    await result.arevoke()
    assert (await result.astate(), await result.ainfo(), (await result.ato_dict())["value"]) == (states.SUCCESS, 1, 1)
    assert [step["state"] async for step in result.aprogress()] == [states.SUCCESS]


# --- As plain data ------------------------------------------------------------------------------------


async def test_a_result_is_plain_data_in_every_state(app: Celeriac) -> None:
    result = app.AsyncResult("id")
    assert result.to_dict() == await result.ato_dict() == {"id": "id", **NOTHING}
    await store(result, states.STARTED)
    assert result.to_dict() == {"id": "id", **NOTHING, "state": states.STARTED}
    await store(result, "CUSTOM", {"page": 3})
    assert result.to_dict() == {"id": "id", **NOTHING, "state": "CUSTOM", "progress": {"page": 3}}
    await store(result, states.RETRY, failure=Failure.of(OSError("busy")))
    error = {"type": "OSError", "message": "busy"}
    assert result.to_dict() == {"id": "id", **NOTHING, "state": states.RETRY, "error": error}
    await store(result, states.SUCCESS, [1, 2])
    assert result.to_dict() == {"id": "id", **NOTHING, "state": states.SUCCESS, "ready": True, "value": [1, 2]}


async def test_a_revoked_task_has_an_error_in_its_plain_data(app: Celeriac) -> None:
    result = app.AsyncResult("id")
    await store(result, states.REVOKED)
    assert result.to_dict()["ready"]
    assert result.to_dict()["error"]["type"] == "celeriac.errors.TaskRevoked"


@dataclass
class Parcel:
    weight: Decimal
    sent: date


class Label(pydantic.BaseModel):
    parcel: UUID
    lines: set[str]


def test_every_value_that_a_task_can_return_is_plain_data(app: Celeriac) -> None:
    id = UUID(int=7)

    @app.task
    def pack() -> Parcel:
        return Parcel(Decimal("1.5"), date(2026, 1, 31))

    @app.task
    def label() -> Label:
        return Label(parcel=id, lines={"fragile"})

    @app.task
    def odd() -> dict[Any, Any]:
        return {3: float("nan"), "blob": b"\x00", "path": Path("a/b"), id: (1,)}

    assert pack.apply().to_dict()["value"] == {"weight": "1.5", "sent": "2026-01-31"}
    assert label.apply().to_dict()["value"] == {"parcel": str(id), "lines": ["fragile"]}
    assert odd.apply().to_dict()["value"] == {"3": None, "blob": "AA==", "path": "a/b", str(id): [1]}


def test_a_value_that_has_no_plain_form_is_a_clear_error(make_app: MakeApp) -> None:
    app = make_app(result_serializer="pickle", accept_content=["json", "pickle"])
    result = app.task(name="t")(lambda: 1 + 2j).apply()
    assert result.get() == 1 + 2j
    with pytest.raises(EncodeError, match=r"not plain data: builtins\.complex .* `result\.result`"):
        result.to_dict()


def test_plain_data_has_a_traceback_only_if_asked_and_never_the_workers_folders(app: Celeriac) -> None:
    @app.task
    def read() -> None:
        Path("/srv/no such shop/stock.csv").read_text()

    result = read.apply()
    assert result.to_dict()["error"] == {
        "type": "FileNotFoundError", "message": "[Errno 2] No such file or directory: '…/stock.csv'",
    }  # fmt: skip
    error = result.to_dict(traceback=True)["error"]
    assert 'File "…/test_result_status.py", line' in error["traceback"]
    for folder in (str(Path(__file__).parent), "no such shop"):
        assert folder not in json.dumps(result.to_dict(traceback=True))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("open /srv/shop/a.csv failed", "open …/a.csv failed"),
        ("path=/srv/shop/ (/srv/b.py:12)", "path=…/shop/ (…/b.py:12)"),
        ("in ['/srv/a', \"/srv/my shop/b\"]", "in ['…/a', \"…/b\"]"),
        ("sqlite:////srv/shop/x.db, file:///srv/shop/y", "sqlite://…/x.db, file://…/y"),
        ("host:/srv/shop/a", "host:…/a"),
        ("see https://shop.test/a/b, ./a/b, a/b/c, 1/2/3", "see https://shop.test/a/b, ./a/b, a/b/c, 1/2/3"),
    ],
)  # fmt: skip
def test_of_an_absolute_path_only_the_last_part_is_shown(text: str, expected: str) -> None:
    assert without_paths(text) == expected


# --- Step by step -------------------------------------------------------------------------------------


class Steps:
    """A reader of `aprogress`, which tells what it has been given."""

    def __init__(self, steps: AsyncIterator[dict[str, Any]]) -> None:
        self.seen: list[tuple[str, Any]] = []
        self.reading = asyncio.ensure_future(self._read(steps))

    async def _read(self, steps: AsyncIterator[dict[str, Any]]) -> None:
        async for step in steps:
            self.seen.append((step["state"], step["progress"] or step["value"]))

    async def see(self, count: int) -> None:
        await eventually(lambda: len(self.seen) >= count or self.reading.done(), f"step {count}")


@pytest.fixture(params=["memory", "sqlite", "redis"])
def kept(request: pytest.FixtureRequest, make_app: MakeApp, tmp_path: Path) -> Iterator[Celeriac]:
    """An app on each kind of backend."""
    urls = {"memory": None, "sqlite": f"sqlite:///{tmp_path}/x.db"}
    url = urls[request.param] if request.param in urls else request.getfixturevalue("redis").url
    app = make_app() if url is None else make_app(broker_url=url)
    yield app
    app.close()


async def test_the_steps_of_a_task_end_with_its_end(kept: Celeriac) -> None:
    result = kept.AsyncResult("id")
    steps = Steps(result.aprogress(interval=0.01))
    await steps.see(1)
    await store(result, states.PROGRESS, {"done": 1})
    await steps.see(2)
    await store(result, states.PROGRESS, {"done": 2})
    await steps.see(3)
    await store(result, states.SUCCESS, "all")
    await asyncio.wait_for(steps.reading, PATIENCE)
    assert steps.seen == [
        (states.PENDING, None), (states.PROGRESS, {"done": 1}), (states.PROGRESS, {"done": 2}), (states.SUCCESS, "all"),
    ]  # fmt: skip


async def test_the_end_is_seen_at_once_however_long_the_pauses_are(kept: Celeriac) -> None:
    result = kept.AsyncResult("id")
    steps = Steps(result.aprogress(interval=10 * PATIENCE))
    await steps.see(1)
    await store(result, states.SUCCESS, "all")
    await asyncio.wait_for(steps.reading, PATIENCE)
    assert steps.seen == [(states.PENDING, None), (states.SUCCESS, "all")]


async def test_a_task_that_has_ended_has_one_step(app: Celeriac) -> None:
    result = app.AsyncResult("id")
    await store(result, states.FAILURE, failure=Failure.of(KeyError("tea")))
    steps = [step async for step in result.aprogress()]
    assert [(step["ready"], step["error"]) for step in steps] == [(True, {"type": "KeyError", "message": "'tea'"})]


async def test_the_less_happens_the_less_often_the_backend_is_asked(
    app: Celeriac, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits: list[float] = []
    result = app.AsyncResult("id")

    async def afetch(self: MemoryBackend, ids: list[str], wait: float = 0.0) -> dict[str, Outcome]:
        if wait:
            waits.append(wait)
            if len(waits) == 6:
                await store(result, states.PROGRESS, {"done": 1})
            if len(waits) == 8:
                await store(result, states.SUCCESS)
        return self.look(ids, final=wait > 0)

    monkeypatch.setattr(MemoryBackend, "afetch", afetch)
    steps = [step["state"] async for step in result.aprogress(interval=0.2)]
    assert steps == [states.PENDING, states.PROGRESS, states.SUCCESS]
    assert waits == [0.2, 0.4, 0.8, 1.6, 2.0, 2.0, 0.2, 0.4]


async def test_a_reader_that_has_gone_leaves_nothing_behind(app: Celeriac) -> None:
    steps = Steps(app.AsyncResult("nobody").aprogress())
    await steps.see(1)
    steps.reading.cancel()
    await asyncio.wait([steps.reading], timeout=PATIENCE)
    assert steps.reading.cancelled()


async def test_a_call_whose_end_is_not_kept_cannot_be_followed(app: Celeriac) -> None:
    quiet = app.task(name="quiet", ignore_result=True)(lambda: None)
    with pytest.raises(ResultIgnored, match=r"quiet\[.*ignore_result=False"):
        await anext(quiet.delay().aprogress())


# --- By the id alone ----------------------------------------------------------------------------------


def test_a_result_without_an_app_is_that_of_the_current_app(app: Celeriac, make_app: MakeApp) -> None:
    other = make_app("other")
    assert AsyncResult("id").app is other
    assert AsyncResult("id", app=app).app is app
    assert app.task(name="t")(lambda: AsyncResult("id").app.main).apply().get() == "tests"


def test_a_result_without_any_app_is_a_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("celeriac.tasks.current_app.apps", [])
    with pytest.raises(ImproperlyConfigured, match=r"no app yet: make one .*, or import the module"):
        AsyncResult("id")


# --- Eager results in the backend ---------------------------------------------------------------------


def test_eager_results_are_stored_if_a_setting_says_so(make_app: MakeApp) -> None:
    for kept in (True, False):
        app = make_app(task_always_eager=True, task_store_eager_result=kept)
        add = app.task(name="add")(lambda x, y: x + y)
        fail = app.task(name="fail")(lambda: 1 / 0)
        sent = [add.delay(1, 2), add.apply((1, 2)), fail.delay(), asyncio.run(add.adelay(1, 2))]
        states_ = [app.AsyncResult(result.id).state for result in sent]
        success = states.SUCCESS if kept else states.PENDING
        assert states_ == [success, success, states.FAILURE if kept else states.PENDING, success]
    assert _apps[-1] is app


def test_an_eager_workflow_is_stored_task_by_task(make_app: MakeApp) -> None:
    app = make_app(task_always_eager=True, task_store_eager_result=True)
    add = app.task(name="add")(lambda x, y: x + y)
    quiet = app.task(name="quiet", ignore_result=True)(lambda: 5)
    whole = group(add.s(1, 1), quiet.s()).delay()
    assert [app.AsyncResult(result.id).to_dict()["value"] for result in whole] == [2, None]
    assert [app.AsyncResult(result.id).state for result in whole] == [states.SUCCESS, states.PENDING]
    assert app.AsyncResult(chain(add.s(1, 1), add.s(2)).delay().id).get(timeout=1) == 4


def test_an_eager_result_replaces_the_one_of_an_earlier_run_with_its_id(make_app: MakeApp) -> None:
    app = make_app(task_always_eager=True, task_store_eager_result=True)
    now = app.task(name="now")(lambda: time.time_ns())
    first, second = (now.apply_async(task_id="mine").get() for _ in range(2))
    assert first != second
    assert app.AsyncResult("mine").get(timeout=1) == second


async def test_an_eager_result_is_stored_from_inside_an_event_loop(make_app: MakeApp, tmp_path: Path) -> None:
    app = make_app(task_always_eager=True, task_store_eager_result=True, broker_url=f"sqlite:///{tmp_path}/x.db")
    result = await app.task(name="t")(lambda: 4).adelay()
    assert await app.AsyncResult(result.id).aget(timeout=PATIENCE) == 4
