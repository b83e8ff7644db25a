"""What is wrong, in words: each trouble by what makes it so."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from celeriac.dashboard.figures import Figures, flow_of, flows_by
from celeriac.dashboard.trends import Trends
from celeriac.dashboard.troubles import troubles
from celeriac.inspector import WorkerLoad
from celeriac.model.history import FailureSignature, Sums
from celeriac.ports.history import Point
from celeriac.ports.operations import QueueCounts, WorkerInfo
from celeriac.web.collecting import Collected

UP = {"broker": True, "workers": True, "history": True}
WORKER = WorkerInfo(name="w1", queues=("mail",))
LOAD = WorkerLoad(capacity={"plain": 2}, busy={}, queues=("mail",))
NOW = 10_000.0


def collected(**given: Any) -> Collected:
    queues = [QueueCounts(queue="mail", ready=200)]
    usual = {"queues": queues, "workers": {"w1": WORKER}, "load": {"w1": LOAD}, "now": NOW}
    return Collected(UP, **{**usual, **given})


def growing(by: int) -> Trends:
    trends = Trends()
    for second in range(0, 21, 5):
        trends.add(NOW - 20 + second, [QueueCounts(queue="mail", ready=1000 + by * second)])
    return trends


def signature(**given: Any) -> FailureSignature:
    usual = {"signature": "00ff", "task": "mail.send", "title": "SMTPError: away", "first": NOW - 60, "last": NOW}
    return FailureSignature(**{**usual, **given})


CASES: list[tuple[str, Collected, Trends, list[FailureSignature], str | None]] = [
    ("all is well", collected(), growing(0), [], None),
    ("no worker at all", collected(workers={}, load={}), Trends(), [], "No worker is running, 200 tasks wait in mail."),
    ("no worker, and nothing waits", collected(workers={}, load={}, queues=[]), Trends(), [], "No worker is running."),
    ("no worker of the queue", collected(load={"w1": WorkerLoad(queues=("other",))}), Trends(), [],
     "No worker receives from the queue mail, and 200 tasks wait."),
    ("a worker was told to receive from it since it started",
     collected(workers={"w1": WorkerInfo(name="w1", queues=("other",))}), Trends(), [], None),
    ("paused", collected(queues=[QueueCounts(queue="mail", ready=1, paused=True)]), growing(5), [],
     "The queue mail is paused, and 1 task waits."),
    ("it grows", collected(), growing(5), [], "The queue mail grows by 5/s: 200 tasks wait, the oldest for 0"),
    ("numbers that are not told", collected(queues=[QueueCounts(queue="mail", uncounted="It tells none.")]), Trends(),
     [], "Numbers of waiting tasks and dead letters are unknown or too low: It tells none."),
    ("it grows slowly", collected(), growing(0), [], None),
    ("the oldest waits for long", collected(latencies={"mail": 900.0}), Trends(), [],
     "The oldest task in the queue mail has waited for 15"),
    ("silent", collected(load={}), Trends(), [], "The worker w1 does not answer."),
    ("the broker is away", Collected({**UP, "broker": False}), Trends(), [], "The broker cannot be reached"),
    ("the history is away", Collected({**UP, "history": False}), Trends(), [], "The history cannot be read"),
    ("a new failure", collected(), Trends(), [signature()], "New failure, 1"),
    ("an old failure", collected(), Trends(), [signature(first=NOW - 7200)], None),
    ("a muted failure", collected(), Trends(), [signature(status="muted")], None),
    ("a failure is back", collected(), Trends(), [signature(status="resolved", first=0.0, marked_at=NOW - 60)],
     "A failure that was resolved is back: SMTPError: away in mail.send."),
    ("many new failures", collected(), Trends(), [signature(first=NOW - age) for age in (90, 60, 120)],
     "3 new failures in the last hour, the latest 1"),
]  # fmt: skip


@pytest.mark.parametrize(("seen", "trends", "signatures", "text"), [case[1:] for case in CASES],
                         ids=[case[0] for case in CASES])  # fmt: skip
def test_a_trouble_is_told_once_and_by_its_cause(seen: Collected, trends: Trends, signatures: list[FailureSignature],
                                                 text: str | None) -> None:  # fmt: skip
    found = troubles(seen, trends, signatures, "shop")
    if text is None:
        assert found == []
    else:
        assert len(found) == 1
        assert found[0].text.startswith(text)


def test_the_worst_is_first_and_many_are_counted() -> None:
    queues = [QueueCounts(queue=f"q{number}", paused=True) for number in range(20)]
    queues.append(QueueCounts(queue="mail", ready=3))
    found = troubles(collected(queues=queues, load={"w1": WorkerLoad(queues=())}), Trends(), [], "shop")
    assert found[0].weight == "fault"
    assert found[0].command == "celeriac -A shop worker -Q mail"
    assert len(found) == 8
    assert found[-1].text == "And 14 more troubles like these."


def test_a_trend_is_unknown_until_it_was_seen_for_a_while_and_after_nobody_looked() -> None:
    trends = Trends()
    trends.add(0.0, [QueueCounts(queue="mail", ready=100)])
    trends.add(5.0, [QueueCounts(queue="mail", ready=50)])
    assert trends.slope() is None
    trends.add(10.0, [QueueCounts(queue="mail", ready=0)])
    assert trends.slope() == trends.slope("mail") == -10.0
    assert trends.slope("other") == 0.0
    trends.add(100.0, [QueueCounts(queue="mail", ready=100)])
    assert trends.slope() is None


def test_figures_read_again_only_the_steps_that_may_still_change() -> None:
    asked: list[tuple[float, float, int]] = []

    class History:
        async def series(self, since: float, until: float, step: int, by: Any) -> list[Point]:
            asked.append((since, until, step))
            return [Point(at=at, task="t", queue="mail", state="SUCCESS", sums=Sums(n=6))
                    for at in range(int(since), int(until), step)]  # fmt: skip

    class Clock:
        time = 100_000.0

        def now(self) -> float:
            return self.time

    class App:
        clock = Clock()

    class Site:
        app = App()

        async def read(self, work: Any) -> Any:
            return await work

    async def look() -> None:
        figures = Figures(Site(), History())  # type: ignore[arg-type]
        first = await figures.period("1h")
        assert len(first.points) == 61
        assert await figures.period("1h") is first  # a moment later it is the same
        figures._kept["1h"].fresh_until = 0.0
        Clock.time += 60
        second = await figures.period("1h")
        assert [point.at for point in second.points] == sorted({point.at for point in second.points})
        assert len(second.points) == 61
        assert asked[1][0] >= 100_000 - 150
        assert flow_of(second.points, 3600.0).rate == pytest.approx(61 * 6 / 3600)
        assert flows_by(second, lambda point: point.queue)["mail"].total == 61 * 6

    asyncio.run(look())
