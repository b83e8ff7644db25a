"""The countdown and the expiry of what follows a task count from the task's end, not from the call."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from celeriac import Celeriac, chain, chord, current_request, group
from celeriac.model.message import Message, decode, encode
from celeriac.testing import running_worker
from tests.canvas.test_canvas import OutcomesOnly
from tests.clock import FakeClock
from tests.patience import wait_for

TOOK = 1000.0  # seconds by the clock of the tests
CALLED = 1_800_000_000.0
LATEST = datetime.fromtimestamp(CALLED + 5000, UTC)

Step = Callable[..., Any]
"""Returns a signature of what follows, with options."""


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock(CALLED)


@pytest.fixture
def seen() -> list[tuple[float, float]]:
    """When each following task was due and would have expired, by its own request."""
    return []


@pytest.fixture
def app(make_app: Callable[..., Celeriac], clock: FakeClock, seen: list[tuple[float, float]]) -> Celeriac:
    app = make_app(clock=clock, worker_lease_seconds=1e6)

    @app.task(name="slow")
    def slow(*args: Any, fails: bool = False) -> None:
        clock.advance(TOOK)
        if fails:
            raise ValueError("no")

    @app.task(name="after")
    def after(*args: Any) -> None:
        request = current_request()
        assert request is not None
        assert request.eta is not None
        assert request.expires is not None
        seen.append((request.eta.timestamp(), request.expires.timestamp()))

    @app.task(name="hasty", expires=30)
    def hasty(*args: Any) -> None:
        after()

    return app


def link(app: Celeriac, after: Step) -> Any:
    return app.tasks["slow"].s().set(link=after())


def link_as_option(app: Celeriac, after: Step) -> Any:
    return app.tasks["slow"].s().set(link=[after().to_dict()])


def link_of_a_link(app: Celeriac, after: Step) -> Any:
    return app.tasks["slow"].s().set(link=app.tasks["slow"].s().set(link=after()))


def error_callback(app: Celeriac, after: Step) -> Any:
    return app.tasks["slow"].s(fails=True).set(link_error=after())


def step(app: Celeriac, after: Step) -> Any:
    return chain(app.tasks["slow"].s(), app.tasks["slow"].s(), after())


def error_callback_of_a_step(app: Celeriac, after: Step) -> Any:
    return chain(app.tasks["slow"].s(), app.tasks["slow"].s(fails=True).set(link_error=after()))


def body(app: Celeriac, after: Step) -> Any:
    return chord([app.tasks["slow"].s(), app.tasks["slow"].s()], after())


def error_callback_of_a_group(app: Celeriac, after: Step) -> Any:
    return group(app.tasks["slow"].s(), app.tasks["slow"].s(fails=True)).on_error(after()) | app.tasks["slow"].s()


def link_of_a_group(app: Celeriac, after: Step) -> Any:
    return group(app.tasks["slow"].s(), app.tasks["slow"].s()).link(after())


WAYS = [link, link_as_option, link_of_a_link, error_callback, step, error_callback_of_a_step, body,
        error_callback_of_a_group, link_of_a_group]  # fmt: skip


@pytest.mark.parametrize("name", ["after", "hasty"])
@pytest.mark.parametrize("way", WAYS)
def test_durations_count_from_the_end_of_the_task_before(
    app: Celeriac, clock: FakeClock, way: Callable[..., Any], name: str
) -> None:
    options = {} if name == "hasty" else {"expires": timedelta(seconds=30)}
    way(app, lambda: app.tasks[name].s().set(countdown=10, **options)).delay()
    (following,) = scheduled(app, name)
    assert clock.now() in (CALLED + TOOK, CALLED + 2 * TOOK)
    assert following.due_at == pytest.approx(clock.now() + 10, abs=0.01)
    assert following.expires_at == pytest.approx(clock.now() + 30, abs=0.01)
    assert following.countdown == 10  # for brokers that have a clock of their own


@pytest.mark.parametrize("way", WAYS)
def test_instants_are_instants(app: Celeriac, clock: FakeClock, way: Callable[..., Any]) -> None:
    way(app, lambda: app.tasks["after"].s().set(eta=LATEST, expires=LATEST)).delay()
    (following,) = scheduled(app, "after")
    assert (following.due_at, following.expires_at) == (LATEST.timestamp(), LATEST.timestamp())


@pytest.mark.parametrize("way", WAYS)
def test_durations_count_from_the_end_of_the_task_before_in_eager_runs_too(
    app: Celeriac, clock: FakeClock, way: Callable[..., Any], seen: list[tuple[float, float]]
) -> None:
    way(app, lambda: app.tasks["after"].s().set(countdown=10, expires=30)).apply()
    assert seen == [(pytest.approx(clock.now() + 10, abs=0.01), pytest.approx(clock.now() + 30, abs=0.01))]
    assert clock.now() > CALLED


def test_a_chain_without_a_backend_that_keeps_workflows_counts_likewise(app: Celeriac, clock: FakeClock) -> None:
    app._backend = OutcomesOnly(app.backend)
    step(app, lambda: app.tasks["after"].s().set(countdown=10, expires=30)).delay()
    (following,) = scheduled(app, "after")
    assert clock.now() == CALLED + 2 * TOOK
    assert following.due_at == pytest.approx(clock.now() + 10, abs=0.01)
    assert following.expires_at == pytest.approx(clock.now() + 30, abs=0.01)


def test_durations_of_links_travel(app: Celeriac) -> None:
    signature = link(app, lambda: app.tasks["after"].s().set(countdown=10, expires=30))
    message = signature.message()
    assert decode(encode(message)) == message


def scheduled(app: Celeriac, name: str) -> list[Message]:
    """Run what is ready until nothing is left but what waits for its time; return it."""
    store = app.broker.shared  # type: ignore[attr-defined]

    def left() -> list[Message]:
        found = [message for _, message, _ in list(store.messages.values())]
        return found if all(message.task == name for message in found) else []

    with running_worker(app):
        return wait_for(left, "the end of all tasks but the last")  # type: ignore[no-any-return]
