"""What lists find and tell: workflows that wait for long, and the release in which a failure began. In-process."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from celeriac import Celeriac, chain
from celeriac.brokers.sqlite.operations import SQLiteOperations
from celeriac.dashboard import dashboard, workflows
from celeriac.inspector.audit import BULK_PROGRESS, BULK_STARTED
from celeriac.model.history import Event, FailureSignature
from celeriac.model.message import new_id
from celeriac.ports.abilities import Ability
from celeriac.testing import running_worker
from tests.patience import PATIENCE, wait_for


def _shop(make_app: Callable[..., Celeriac], path: Any, **settings: Any) -> Celeriac:
    app = make_app(broker_url=f"sqlite:///{path}", **settings)

    @app.task(name="shop.add", max_retries=0)
    def add(x: int, y: int = 1) -> int:
        return x + y

    @app.task(name="shop.fail", max_retries=0)
    def fail() -> None:
        raise ValueError("card declined")

    return app


async def _page(app: Celeriac, path: str) -> str:
    transport = httpx.ASGITransport(dashboard(app))
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost", timeout=PATIENCE) as browser:
        found = await browser.get(path, headers={"Accept": "text/html"})
    assert found.status_code == 200
    return found.text


def _text(html: str) -> str:
    return " ".join(re.sub("<[^>]*>", "", html).split())


async def test_a_workflow_that_waits_is_listed_however_long_ago_it_was_at_work(
    make_app: Callable[..., Celeriac], tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workflows, "PEEKED", 1)  # it is not at the head of its queue
    app = _shop(make_app, tmp_path / "shop.db")
    add = app.tasks["shop.add"]
    add.delay(0)
    waits = chain(add.s(1), add.s(2)).delay()
    html = await _page(app, "/workflows")
    assert waits.workflow_id in html
    assert "and among all that have not ended." in _text(html)
    assert "Not ended 1" in _text(html)
    html = await _page(app, "/workflows?only=unfinished")
    assert waits.workflow_id in html
    assert "All that have not ended." in _text(html)


async def test_workflows_are_not_looked_for_where_looking_takes_messages(
    make_app: Callable[..., Celeriac], tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = _shop(make_app, tmp_path / "shop.db")
    chain(app.tasks["shop.add"].s(1), app.tasks["shop.add"].s(2)).delay()
    looks: list[str] = []
    peek = SQLiteOperations.peek

    async def noted(self: SQLiteOperations, queue: str, *given: Any) -> Any:
        looks.append(queue)
        return await peek(self, queue, *given)

    monkeypatch.setattr(SQLiteOperations, "peek", noted)
    assert "at the heads of the queues" in _text(await _page(app, "/workflows"))
    assert looks == ["default"]
    monkeypatch.setattr(app.broker, "can", lambda ability: ability is not Ability.KNOW_IDS)
    assert "heads of the queues" not in _text(await _page(app, "/workflows"))
    assert looks == ["default"]


async def test_bulk_actions_are_listed_however_often_others_told_their_progress(
    make_app: Callable[..., Celeriac], tmp_path: Any
) -> None:
    app = _shop(make_app, tmp_path / "shop.db")
    assert app.history is not None
    now = app.clock.now()
    ids = [new_id() for _ in range(3)]
    for id in ids:
        data = {"bulk": id, "action": "retry", "filter": "", "state": "done", "matched": 1, "done": 1, "refused": 0,
                "by": "ann", "started_at": "2026-01-01T00:00:00Z"}  # fmt: skip
        await app.history.audit(Event(at=now - 60, kind=BULK_STARTED, id=id, by="ann", data=data))
    for number in range(1_001):
        await app.history.audit(Event(at=now - number / 100, kind=BULK_PROGRESS, id=ids[2], by="ann", data=data))
    html = await _page(app, "/bulk")
    assert all(f'data-row="{id}"' in html for id in ids)


async def test_a_queue_that_workers_alone_know_has_a_page(make_app: Callable[..., Celeriac], tmp_path: Any) -> None:
    app = _shop(make_app, tmp_path / "shop.db", task_create_missing_queues=True)
    with running_worker(app, queues=["extra"]):
        html = await _page(app, "/queues/extra")
    assert "There is no queue" not in _text(html)
    assert re.search(r"Workers\s*1", _text(html)) or "1 worker" in _text(html)


async def test_a_store_without_a_list_is_told(
    make_app: Callable[..., Celeriac], tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = _shop(make_app, tmp_path / "shop.db")

    async def unfinished(limit: int) -> None:
        return None

    monkeypatch.setattr(app.backend, "unfinished", unfinished)
    chain(app.tasks["shop.add"].s(1), app.tasks["shop.add"].s(2)).delay()
    found = _text(await _page(app, "/workflows"))
    assert "this result backend has no list of workflows." in found
    assert "Not ended" not in found


async def test_a_failure_tells_in_which_release_it_began_and_in_which_it_was_seen(
    make_app: Callable[..., Celeriac], tmp_path: Any
) -> None:
    def known(app: Celeriac) -> FailureSignature | None:
        assert app.history is not None
        return next(iter(app.broker.complete(app.history.signatures())), None)

    def seen(release: str) -> None:
        app = _shop(make_app, tmp_path / "shop.db", release=release)
        with running_worker(app):
            app.tasks["shop.fail"].delay()
            wait_for(lambda: (one := known(app)) is not None and release in one.releases, release)
        app.close()

    for release in ("<b>7f3a</b>", "8c01"):
        seen(release)
    app = _shop(make_app, tmp_path / "shop.db")
    one = known(app)
    assert one is not None
    assert (one.first_release, one.releases) == ("<b>7f3a</b>", ["<b>7f3a</b>", "8c01"])
    html = await _page(app, f"/failures/{one.signature}")
    assert "in release &lt;b&gt;7f3a&lt;/b&gt;" in html
    assert re.search(r"Releases\s*8c01\s*,", _text(html))
    assert "7f3a" in await _page(app, "/failures")
    assert app.history is not None
    attempts = app.broker.complete(app.history.search()).rows
    assert [attempt.release for attempt in attempts] == ["8c01", "<b>7f3a</b>"]


def test_what_an_older_release_tells_late_makes_it_the_first() -> None:
    old = FailureSignature(signature="1", task="t", first=1.0, last=5.0, first_release="old", releases=["old"])
    new = FailureSignature(signature="1", task="t", first=2.0, last=3.0, first_release="new", releases=["new"])
    assert new.merged(old).first_release == old.merged(new).first_release == "old"
    assert new.merged(old).releases == ["new", "old"]
