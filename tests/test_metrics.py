"""Metrics are what workers have counted: folded into buckets, bounded in their labels, and never shrinking."""

from __future__ import annotations

import asyncio
import random
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from celeriac import Celeriac, states
from celeriac.drivers.sqlite.database import Database
from celeriac.inspector import WorkerLoad
from celeriac.metrics.counts import MOST_ERRORS, Attempts, Errors, add_attempts, add_celery_attempts, add_counters
from celeriac.metrics.exposition import text_of
from celeriac.metrics.samples import Samples
from celeriac.metrics.table import BUCKETS, CELERY_METRICS, METRICS, by_name
from celeriac.model.history import Sums
from celeriac.model.keys import new_key, parse_key, write_caller_key
from celeriac.model.message import PLAIN
from celeriac.model.spread import Spread
from celeriac.ports.history import Counted, History
from celeriac.ports.operations import QueueCounts, WorkerInfo
from celeriac.web import api
from celeriac.web.collecting import Collected
from celeriac.worker.counters import Counters
from celeriac.worker.options import WorkerOptions
from celeriac.worker.recorder import Recorder
from tests.clock import FakeClock
from tests.patience import PATIENCE
from tests.scraped import Scrape, names, read, shrunk, value
from tests.test_recorder import Unreliable, ended

ENDED = "celeriac_tasks_ended_total"


def spread(durations: list[float]) -> Spread:
    made = Spread()
    made.add(durations)
    return made


def attempts(task: str = "shop.add", state: str = states.SUCCESS, n: int = 1, error: str = "",
             queue: str = "default") -> Attempts:  # fmt: skip
    return Attempts(task, queue, state, error, Sums(n, spread([0.01] * n), spread([0.02] * n)))


def shown(*counted: Attempts, errors: Errors | None = None, celery: bool = False) -> Scrape:
    samples = Samples(by_name(CELERY_METRICS if celery else METRICS))
    if celery:
        add_celery_attempts(samples, counted, {}, {"shop.add"}, errors or Errors())
    else:
        add_attempts(samples, counted, {"shop.add"}, errors or Errors())
    return read(text_of(samples, "")[0].decode())


def test_workers_are_counted_for_the_queues_that_they_receive_from_now(app: Celeriac) -> None:
    counts = [QueueCounts(queue=queue) for queue in ("a", "b")]
    worker = WorkerInfo(name="w", queues=("a",), concurrency={PLAIN: 2})
    load = WorkerLoad(capacity={PLAIN: 5}, busy={}, queues=("b",))  # it was told to, and to grow
    asked = Collected({}, queues=counts, workers={"w": worker}, load={"w": load})
    silent = Collected({}, queues=counts, workers={"w": worker})
    site = api(app).site
    for collected, queue, slots in ((asked, "b", 5), (silent, "a", 2)):
        for samples, name, factor in (
            (site.collector.samples, "celeriac_queue_workers", 1),
            (site.collector.celery_samples, "celery_active_worker_count", 1),
            (site.collector.celery_samples, "celery_active_process_count", slots),
        ):
            found = read(text_of(samples(collected), "")[0].decode())
            label = "queue" if name.startswith("celeriac") else "queue_name"
            counts_shown = {one: value(found, name, **{label: one}) for one in ("a", "b")}
            assert counts_shown == {"a": 0, "b": 0, queue: factor}


# --- Values -------------------------------------------------------------------------------------------


def test_buckets_are_exact_to_two_and_a_half_percent() -> None:
    durations = [random.lognormvariate(0.0, 3.0) for _ in range(20_000)]
    for bound, count in zip(BUCKETS, spread(durations).cumulative(BUCKETS), strict=True):
        assert sum(one <= bound / 1.026 for one in durations) <= count <= sum(one <= bound * 1.026 for one in durations)


def test_no_bucket_shrinks_while_more_is_counted() -> None:
    total, before = Spread(), [0] * len(BUCKETS)
    near = sorted(bound * factor for bound in BUCKETS for factor in (0.97, 0.98, 0.99, 0.999, 1.0, 1.01, 1.02))
    for duration in [*near, *reversed(near), *random.choices(near, k=100)]:
        total.merge(spread([duration]))
        after = total.cumulative(BUCKETS)
        assert all(new >= old for old, new in zip(before, after, strict=True))
        assert after == sorted(after)
        assert after[-1] <= total.n
        before = after


def test_a_histogram_has_its_buckets_its_sum_and_its_count() -> None:
    scrape = shown(Attempts("shop.add", "default", states.SUCCESS, "", Sums(3, spread([0.2, 0.2, 4000.0]), Spread())))
    name = "celeriac_task_duration_seconds"
    assert value(scrape, f"{name}_count") == 3
    assert value(scrape, f"{name}_sum") == pytest.approx(4000.4)
    assert [value(scrape, f"{name}_bucket", le=le) for le in ("0.1", "0.25", "1800.0", "+Inf")] == [0, 2, 2, 3]
    assert len({with_ for found, with_ in scrape if found == f"{name}_bucket"}) == len(BUCKETS) + 1


def test_tasks_that_the_app_does_not_have_are_one() -> None:
    scrape = shown(attempts("shop.add"), attempts("made.up"), attempts("made.up.too", n=4))
    assert value(scrape, "celeriac_tasks_ended_total", task="(unknown)", state="success") == 5
    assert {dict(with_).get("task") for _, with_ in scrape} == {"shop.add", "(unknown)"}


def test_mails_and_callbacks_are_counted_by_how_they_ended() -> None:
    scrape = shown(attempts("celeriac.mail", n=2), attempts("celeriac.mail", states.RETRY, error="MailError"),
                   attempts("celeriac.webhook", states.FAILURE, n=3, error="RemoteError"))  # fmt: skip
    assert value(scrape, "celeriac_mails_total", result="success") == 2
    assert value(scrape, "celeriac_mails_total", result="retry") == 1
    assert value(scrape, "celeriac_webhooks_total", result="failure") == 3


def test_states_that_alerts_divide_by_are_there_with_nothing() -> None:
    scrape = shown(attempts(state=states.REVOKED))
    found = {dict(with_)["state"]: n for (name, with_), n in scrape.items() if name == "celeriac_tasks_ended_total"}
    assert found == {"success": 0, "failure": 0, "retry": 0, "revoked": 1}


def test_a_hundred_exceptions_have_names_and_the_others_never_shrink() -> None:
    errors = Errors()
    first = [attempts(state=states.FAILURE, error=f"shop.E{n}", n=1 + n) for n in range(MOST_ERRORS + 50)]
    before = shown(*first, errors=errors)
    name = "celeriac_task_failures_total"
    assert len([1 for found, _ in before if found == name]) == MOST_ERRORS + 1
    assert value(before, name, error="other") == sum(range(1, 51))
    later = [attempts(state=states.FAILURE, error="shop.New", n=10**6), *first]
    after = shown(*later, errors=errors)
    assert list(shrunk(before, after)) == []
    assert value(after, name, error="other") == sum(range(1, 51)) + 10**6
    assert value(after, name) == sum(one.sums.n for one in later)


def test_exceptions_of_python_have_short_names() -> None:
    scrape = shown(attempts(state=states.FAILURE, error="builtins.ValueError"))
    assert value(scrape, "celeriac_task_failures_total", error="ValueError") == 1


def test_labels_are_escaped() -> None:
    scrape = shown(attempts(queue='a"b\\c\nd'))
    assert value(scrape, "celeriac_tasks_ended_total", queue='a"b\\c\nd', state="success") == 1


def test_clients_get_the_format_that_they_accept() -> None:
    samples = Samples(by_name(METRICS))
    add_counters(samples, {Counted("recovered"): 2}, (), ["mail"])
    text, kind = text_of(samples, "application/openmetrics-text; version=1.0.0")
    assert kind.startswith("application/openmetrics-text")
    assert text.endswith(b"# EOF\n")
    assert text_of(samples, "text/plain")[1].startswith("text/plain; version=0.0.4")


def test_celery_exporters_names_divide_the_same_counts() -> None:
    scrape = shown(
        attempts(n=5), attempts(state=states.FAILURE, error="shop.Bad", n=2), attempts(state=states.RETRY, n=3),
        attempts(state=states.FAILURE, error="celeriac.errors.Reject", n=4), attempts(state=states.REVOKED),
        celery=True,
    )  # fmt: skip
    with_ = {"name": "shop.add", "hostname": "generic", "queue_name": "default"}
    found = {name.removeprefix("celery_task_"): value(scrape, name, **with_) for name in names(scrape)
             if name.endswith("_total")}  # fmt: skip
    assert found == {"received_total": 0, "succeeded_total": 5, "failed_total": 2, "retried_total": 3,
                     "rejected_total": 4, "revoked_total": 1}  # fmt: skip
    assert value(scrape, "celery_task_failed_total", exception="Bad") == 2
    assert value(scrape, "celery_task_runtime_count") == 5


# --- What happens besides attempts --------------------------------------------------------------------


async def test_counts_of_a_worker_are_written_once_whatever_replies_are_lost(
    make_app: Callable[..., Celeriac], clock: FakeClock
) -> None:
    store, counters = Unreliable(), Counters()
    recorder = Recorder(make_app(clock=clock), WorkerOptions(name="w"), counters=counters)
    recorder.history = store
    counters.add("children_lost", reason="killed")
    counters.add("received", 3, "shop.add", "default")
    store.loses_replies = True
    for _ in range(3):
        with pytest.raises(Exception, match="the reply was lost"):
            await recorder.write()
        clock.advance(4)
        counters.add("received", 1, "shop.add", "default")
    store.loses_replies = False
    expected = {Counted("children_lost", reason="killed"): 1, Counted("received", "shop.add", "default"): 6}
    for _ in range(5):
        await recorder.write()
        await store.compact(clock.now())
        assert await store.counters() == expected
        clock.advance(10)
    assert await store.unfolded() == []
    assert (await store.totals(), await store.series(0, clock.now())) == ([], [])


async def test_what_a_worker_drops_is_counted(
    make_app: Callable[..., Celeriac], clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("celeriac.worker.recorder.MOST_SLOTS", 2)
    store = Unreliable()
    recorder = Recorder(make_app(clock=clock), WorkerOptions(name="w"))
    recorder.history, store.away = store, True
    for _ in range(5):
        recorder.add([ended()] * 3, clock.now())
        with pytest.raises(Exception, match="away"):
            await recorder.write()
        recorder._bound(2)
        clock.advance(10)
    store.away = False
    while await recorder.write():
        pass
    dropped = (await store.counters())[Counted("dropped", reason="counts")]
    assert dropped == recorder.dropped > 0
    assert sum(point.sums.n for point in await store.totals()) == 15 - dropped


# --- /metrics -----------------------------------------------------------------------------------------


class Site:
    """The HTTP API of an app, in this process, and workers that count."""

    def __init__(self, app: Celeriac, clock: FakeClock) -> None:
        self.app = app
        self.clock = clock
        history = app.history
        assert history is not None
        self.history: History = history
        self.start()

    def start(self) -> None:
        self.api = api(self.app)

    def worker(self, name: str) -> Recorder:
        return Recorder(self.app, WorkerOptions(name=name))

    async def scrape(self, **query: str) -> Scrape:
        self.api.site.collector._until = 0.0  # the clock of the test does not move it
        transport = httpx.ASGITransport(self.api)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            answer = await client.get("/metrics", params=query)
            assert answer.status_code == 200, answer.text
            return read(answer.text)


@pytest.fixture
def site(make_app: Callable[..., Celeriac], clock: FakeClock) -> Site:
    app = make_app(clock=clock)
    app.task(name="shop.add")(lambda: None)
    return Site(app, clock)


async def total(site: Site) -> float:
    return value(await site.scrape(), "celeriac_tasks_ended_total")


async def test_a_worker_that_is_killed_between_two_writes_costs_what_it_had_not_written(site: Site) -> None:
    killed, other = site.worker("a"), site.worker("b")
    killed.add([ended()] * 5, site.clock.now())
    await killed.write()
    assert await total(site) == 5
    killed.add([ended()] * 3, site.clock.now())  # … and now it is killed
    site.clock.advance(20)
    other.add([ended()] * 2, site.clock.now())
    await other.write()
    before = await site.scrape()
    assert value(before, "celeriac_tasks_ended_total") == 7
    assert value(before, "celeriac_task_duration_seconds_count") == 7
    site.clock.advance(3 * 3600)  # its last slot is folded now, without its successor having said anything
    again = site.worker("a")
    again.add([ended()], site.clock.now())
    await again.write()
    while await site.history.compact(site.clock.now()):
        pass
    after = await site.scrape()
    assert list(shrunk(before, after)) == []
    assert value(after, "celeriac_tasks_ended_total") == 8


async def test_a_minute_without_the_server_costs_nothing(site: Site) -> None:
    worker = site.worker("a")
    worker.add([ended()], site.clock.now())
    await worker.write()
    before, ran = await site.scrape(), 1
    for second in range(60):
        site.clock.advance(1)
        worker.add([ended(runtime=0.01 * second)] * second, site.clock.now())
        ran += second
        await worker.write()
        await site.history.compact(site.clock.now())
    site.start()
    after = await site.scrape()
    assert list(shrunk(before, after)) == []
    assert value(after, "celeriac_tasks_ended_total") == ran
    assert value(after, "celeriac_task_duration_seconds_count") == ran


async def test_no_counter_goes_down_while_workers_come_and_go_and_slots_are_folded(site: Site) -> None:
    before, ran = await site.scrape(), 0
    workers: list[Recorder] = []
    for turn in range(60):
        if turn % 7 == 0:
            for one in workers:
                await one.finish(PATIENCE)
            workers = [site.worker(f"w{turn}{number}") for number in range(3)]
        for one in workers:
            one.counters.add("received", 2, "shop.add", "default")
            one.add([ended(state=random.choice([states.SUCCESS, states.RETRY]))] * 2, site.clock.now())
            ran += 2
            await one.write()
        site.clock.advance(random.choice([0.5, 7.0, 120.0]))
        await site.history.compact(site.clock.now())
        after = await site.scrape()
        assert list(shrunk(before, after)) == []
        assert value(after, "celeriac_tasks_ended_total") == value(after, "celeriac_tasks_received_total") == ran
        before = after


async def test_without_a_history_there_is_the_rest(make_app: Callable[..., Celeriac], clock: FakeClock) -> None:
    app = make_app(clock=clock, history="off")
    transport = httpx.ASGITransport(api(app))
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
        scrape = read((await client.get("/metrics")).text)
    assert "celeriac_queue_messages" in names(scrape)
    assert not names(scrape) & {metric.name for metric in METRICS if metric.source == "history"}
    assert value(scrape, "celeriac_source_up", source="broker") == 1


async def test_a_source_that_fails_is_missing_and_the_others_are_not(
    site: Site, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    worker = site.worker("a")
    worker.add([ended()], site.clock.now())
    await worker.write()

    async def fail(*given: Any) -> Any:
        raise httpx.InvalidURL("a fault")

    monkeypatch.setattr(site.api.site.collector, "_queues", fail)
    scrape = await site.scrape()
    assert value(scrape, "celeriac_source_up", source="broker") == 0
    assert value(scrape, "celeriac_source_up", source="history") == 1
    assert value(scrape, "celeriac_tasks_ended_total") == 1
    assert "celeriac_queue_messages" not in names(scrape)
    assert "Metrics of the source broker are missing" in caplog.text


async def test_a_source_that_hangs_is_asked_once(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("celeriac.web.collecting.WITHIN", 0.01)
    asked, answer = 0, asyncio.Event()

    async def hang() -> Any:
        nonlocal asked
        asked += 1
        await answer.wait()
        return []

    site.api.site.collector._queues = hang
    for _ in range(3):
        assert value(await site.scrape(), "celeriac_source_up", source="broker") == 0
    assert asked == 1
    answer.set()
    monkeypatch.setattr("celeriac.web.collecting.WITHIN", PATIENCE)
    assert value(await site.scrape(), "celeriac_source_up", source="broker") == 1


async def test_no_file_is_read_in_the_event_loop(
    make_app: Callable[..., Celeriac], clock: FakeClock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = make_app(clock=clock, broker_url=f"sqlite:///{tmp_path}/shop.db")
    app.task(name="shop.add")(lambda: None).delay()
    site, readers, read_ = Site(app, clock), set(), Database.read
    worker = site.worker("w")
    worker.add([ended()], clock.now())
    await worker.write()

    def reading(self: Database, *given: Any) -> Any:
        readers.add(threading.current_thread())
        return read_(self, *given)

    monkeypatch.setattr(Database, "read", reading)
    scrape = await site.scrape()
    assert (value(scrape, ENDED), value(scrape, "celeriac_source_up")) == (1, 4)
    assert readers
    assert threading.main_thread() not in readers
    app.close()


async def test_a_server_that_may_not_command_workers_shows_the_rest(
    make_app: Callable[..., Celeriac], clock: FakeClock
) -> None:
    key = new_key()
    worker = make_app(clock=clock, security_keys=[key])
    await worker.broker.lease(WorkerInfo(name="w"), 60.0, 3)
    site = Site(make_app(clock=clock, security_keys=[write_caller_key(parse_key(key))]), clock)
    assert value(await site.scrape(), "celeriac_worker_up") == 1
    scrape = await site.scrape()
    assert value(scrape, "celeriac_worker_up") == 1
    assert not {dict(with_).get("source") for _, with_ in scrape} & {"workers"}
    assert "celeriac_worker_slots_busy" not in names(scrape)


async def test_scrapes_at_the_same_time_share_a_collection(site: Site) -> None:
    asked = 0
    count = site.api.site.collector._queues

    async def counting() -> Any:
        nonlocal asked
        asked += 1
        return await count()

    site.api.site.collector._queues = counting
    transport = httpx.ASGITransport(site.api)
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
        for names_ in ("celeriac", "celery", "celeriac"):
            assert (await client.get("/metrics", params={"names": names_})).status_code == 200
    assert asked == 1


async def test_the_age_of_the_oldest_message_counts_whatever_its_priority(site: Site) -> None:
    task = site.app.tasks["shop.add"]
    task.apply_async(priority=0)
    site.clock.advance(100)
    task.apply_async(priority=9)
    site.clock.advance(20)
    scrape = await site.scrape()
    assert value(scrape, "celeriac_queue_latency_seconds", queue="default") == pytest.approx(120, abs=0.01)
    assert value(scrape, "celeriac_queue_messages", queue="default", state="ready") == 2


async def test_how_long_requests_took_is_there_by_route(site: Site) -> None:
    await site.scrape()
    scrape = await site.scrape()
    assert value(scrape, "celeriac_http_request_duration_seconds_count", route="/metrics", method="GET",
                 status="200") == 1  # fmt: skip
