"""Streams of what ends by a filter: workers tell only while somebody looks, and a stream that comes back goes on."""

from __future__ import annotations

import json
import signal
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from itertools import chain, islice
from pathlib import Path
from typing import Any

import httpx
import pytest

from celeriac import Celeriac, states
from celeriac.errors import BrokerUnavailable
from celeriac.inspector import Inspector
from celeriac.model.filters import Filter
from celeriac.model.history import Attempt
from celeriac.model.keys import new_key
from celeriac.model.message import Message, new_id
from celeriac.model.outcome import Outcome
from celeriac.model.watching import read_told
from celeriac.testing import running_worker
from celeriac.web.watching import Feeds
from celeriac.worker.options import WorkerOptions
from celeriac.worker.recorder import Recorder
from celeriac.worker.statistics import Ended, grouped
from celeriac.worker.watches import MOST_WATCHES, Watches
from tests.patience import PATIENCE, eventually, wait_for
from tests.web.conftest import Running, worker_of
from tests.web.inside import site_of
from tests.web.served import serving
from tests.web.test_tasks import API, problem, send

Events = Iterator[tuple[str, str, Any]]


@contextmanager
def following(client: httpx.Client, last: str = "", complete: bool = False, **params: str) -> Iterator[Events]:
    """Yield the events of a stream that workers have begun to tell: id, name, data.

    Workers have two seconds to answer the server. On a busy machine they may take longer: then the stream is opened
    again. So it is with `complete`, where an event was missed since the `last`, if the stream begins with a gap.
    """
    headers = {"Last-Event-ID": last} if last else {}
    with ExitStack() as stack:

        def opened() -> Events | None:
            stack.close()
            answer = stack.enter_context(client.stream("GET", f"{API}/events", params=params, headers=headers))
            assert answer.status_code == 200, answer.read()
            found = events(answer)
            _, name, data = next(found)
            assert name == "watching"
            if data["workers"] < 1:  # the shop's, and perhaps one of a test that shares its file
                return None
            if complete:
                first = next(found)
                return chain([first], found) if first[1] != "gap" else None
            return found

        yield wait_for(opened, "a stream that workers tell")


def of(found: Events, ids: Sequence[str]) -> Events:
    """Yield as many events as there are ids, all of them of these tasks.

    The worker tells ends after it has stored the results, so that those of other tests may still come. What the filter
    excludes must not.
    """
    left = len(ids)
    while left:
        id, name, data = next(found)
        assert data["data"]["task"] in ("shop.add", "shop.fail"), data
        if data["subject"] in ids:
            left -= 1
            yield id, name, data


def events(answer: httpx.Response) -> Events:
    id = name = ""
    for line in answer.iter_lines():
        field, _, value = line.partition(": ")
        if field == "id":
            id = value
        elif field == "event":
            name = value
        elif field == "data":
            yield id, name, json.loads(value)
            id = ""


def test_what_ends_is_told_to_those_who_watch_it(client: httpx.Client) -> None:
    with following(client, task="shop.a*,shop.fail", state="success,failure") as found:
        send(client, "mail.send", "ann", wait=60)
        ids = [send(client, "shop.add", n).json()["id"] for n in range(3)]
        ids.append(send(client, "shop.fail", "no").json()["id"])
        told = list(of(found, ids))
    assert sorted(event["subject"] for _, _, event in told) == sorted(ids)
    assert {(name, event["type"]) for _, name, event in told} == {("attempt.ended", "celeriac.attempt.ended")}
    assert len({id for id, _, _ in told}) == 4
    assert all(id == event["id"] for id, _, event in told)
    (failed,) = [event["data"] for _, _, event in told if event["subject"] == ids[-1]]
    assert (failed["state"], failed["error"], failed["message"]) == ("FAILURE", "builtins.ValueError", "no")
    assert "traceback" not in failed


def test_the_tasks_of_a_workflow_are_followed_by_its_root(client: httpx.Client) -> None:
    chain = {"chain": [{"task": "shop.add", "args": [n], "options": {"queue": "mail"}} for n in range(3)]}
    first = send(client, "shop.add", 1, options={"countdown": 3600}).json()["id"]
    with following(client, queue="mail", task="shop.add") as of_queue:
        client.post(f"{API}/workflows", json=chain)
        roots = {event["data"]["root_id"] or event["subject"] for _, _, event in (next(of_queue) for _ in range(3))}
    assert len(roots) == 1
    with following(client, root=first) as of_root:
        send(client, "shop.add", 1, wait=60)
        client.post(f"{API}/tasks/{first}/run-now")
        assert next(of_root)[2]["subject"] == first


def test_a_stream_is_cut_at_a_rate_and_says_how_many_it_has_left_out(client: httpx.Client) -> None:
    with following(client, queue="mail", task="shop.add") as found:  # no other test sends it there
        body = {"task": "shop.add", "calls": [{"args": [n]} for n in range(500)], "options": {"queue": "mail"}}
        ids = client.post(f"{API}/tasks/batch", json=body).json()["ids"]
        told, dropped = set(), 0
        while len(told) + dropped < 500:
            _, name, data = next(found)
            if name == "dropped":
                dropped += data["dropped"]
            else:
                told.add(data["subject"])
    assert told <= set(ids)
    assert len(told) + dropped == 500
    assert dropped > 0


@pytest.fixture
def quiet(tmp_path: Path) -> Iterator[httpx.Client]:
    """A client of a server of its own: the worker has not run so many tasks that it keeps only some of them."""
    with serving(tmp_path) as served:
        served.worker("-Q", "default")
        with httpx.Client(base_url=served.web()[1], timeout=PATIENCE, trust_env=False) as made:
            yield made


def test_a_client_that_comes_back_is_told_what_it_has_missed(quiet: httpx.Client) -> None:
    client, name = quiet, str(uuid.uuid4())
    with following(client, task="shop.fail,shop.add") as found:
        send(client, "shop.add", 1)
        last, _, _ = next(found)
    missed = [send(client, "shop.fail", name, wait=60).json()["id"] for _ in range(3)]
    with following(client, last, complete=True, task="shop.fail,shop.add") as found:
        told = [next(found) for _ in range(3)]
        assert [name for _, name, _ in told] == ["attempt.ended"] * 3
        assert [data["subject"] for _, _, data in told] == missed
        later = send(client, "shop.add", 1).json()["id"]
        id, _, data = next(found)
        assert data["subject"] == later
    with following(client, id, task="shop.fail,shop.add") as found:
        found = (event for event in found if event[1] != "gap")  # the worker may be slow to say that it has written all
        next(of(found, [send(client, "shop.add", 1).json()["id"]]))  # what ended in the second before it may come again


def test_a_client_is_told_of_a_gap_where_the_history_has_not_all(client: httpx.Client) -> None:
    def counted() -> int:
        series = client.get(f"{API}/stats/series", params={"task": "shop.add"}).json()
        return sum(point["count"].get("SUCCESS", 0) for point in series["points"])

    before = counted()
    with following(client, task="shop.add") as found:
        send(client, "shop.add", 1)
        last, _, _ = next(found)
    body = {"task": "shop.add", "calls": [{"args": [n]} for n in range(1000)]}
    ids = client.post(f"{API}/tasks/batch", json=body).json()["ids"]
    assert len(ids) == 1000
    wait_for(lambda: counted() >= before + 1000, "the history of them all")
    with following(client, last, task="shop.add") as found:
        assert next(found)[1] == "gap"
    old = "1000000000.0/1/x"
    with following(client, old, task="shop.add") as found:
        assert next(found)[1:] == ("gap", {"since": "2001-09-09T01:46:40.000+00:00"})


def test_a_client_is_told_of_a_gap_if_a_worker_cannot_say_that_it_has_written_all(tmp_path: Path) -> None:
    with serving(tmp_path) as served:
        worker = served.worker("-Q", "default")
        with httpx.Client(base_url=served.web()[1], timeout=PATIENCE, trust_env=False) as client:
            with following(client, task="shop.add") as found:
                send(client, "shop.add", 1)
                last, _, _ = next(found)
            worker.send_signal(signal.SIGSTOP)
            headers = {"Last-Event-ID": last}
            with client.stream("GET", f"{API}/events", params={"task": "shop.add"}, headers=headers) as answer:
                assert [name for _, name, _ in islice(events(answer), 2)] == ["watching", "gap"]
            worker.send_signal(signal.SIGCONT)


@pytest.mark.parametrize(
    ("params", "why"),
    [
        ({}, "Give either ids"),
        ({"ids": "x", "task": "y"}, "Give either ids"),
        ({"task": ","}, "1 to 100 values"),
        ({"state": "started"}, "STARTED"),
    ],
)
def test_a_stream_that_makes_no_sense_is_refused(client: httpx.Client, params: dict[str, str], why: str) -> None:
    found = problem(client.get(f"{API}/events", params=params), 422, "bad-query")
    assert why.lower() in found["detail"].lower()


def test_a_stream_that_resumes_from_nowhere_is_refused(client: httpx.Client) -> None:
    for last in ("nonsense", "nan/1/x", "1/x/y"):
        answer = client.get(f"{API}/events", params={"task": "*"}, headers={"Last-Event-ID": last})
        problem(answer, 400, "bad-request")


def test_a_worker_tells_no_more_when_the_last_stream_has_ended(client: httpx.Client, running: Running) -> None:
    with following(client, task="shop.add"):
        pass
    worker = worker_of(client.get(f"{API}/workers"))
    assert running.served.folder.exists()
    channel = {"channel": "celeriac", "seconds": 30}

    def refused() -> httpx.Response | None:
        answer = client.post(f"{API}/workers/{worker['name']}/orders", json={"order": "watch", "arguments": channel})
        return answer if answer.status_code != 200 else None  # the worker has two seconds to answer

    found = wait_for(refused, "the worker's answer")
    assert "channel must begin with 'events.'" in problem(found, 422, "bad-body")["detail"]


# --- On each broker -----------------------------------------------------------------------------------


class Hearing:
    """Takes what a feed has, as a stream does."""

    def __init__(self) -> None:
        self.ids: list[str] = []
        self.gaps = 0

    def add(self, attempts: list[Attempt], dropped: int) -> None:
        self.ids += [attempt.id for attempt in attempts]

    def miss(self) -> None:
        self.gaps += 1


@pytest.fixture(params=["memory", "sqlite", "redis", "signed"])
def shop(request: pytest.FixtureRequest, tmp_path: Path, make_app: Callable[..., Celeriac]) -> Celeriac:
    settings: dict[str, Any] = {"broker_url": f"memory://{new_id()}"}
    if request.param == "redis":
        settings["broker_url"] = request.getfixturevalue("redis").url
    elif request.param != "memory":
        settings["broker_url"] = f"sqlite:///{tmp_path}/shop.db"
    if request.param == "signed":
        settings["security_keys"] = [new_key()]
    app = make_app("shop", **settings)

    @app.task(name="shop.add")
    def add(x: int) -> int:
        return x + 1

    return app


async def test_streams_with_the_same_filter_share_a_watch_that_ends_with_the_last(shop: Celeriac) -> None:
    site = site_of(shop).site
    site.inspector = Inspector(shop, timeout=PATIENCE)
    feeds = Feeds(site)
    first, second, other = Hearing(), Hearing(), Hearing()
    chosen, elsewhere = Filter(tasks=("shop.*",)), Filter(tasks=("mail.*",))
    with running_worker(shop) as worker:
        watches = worker.settler.recorder.watches
        feed = await feeds.join(chosen, first)
        assert feed.workers == 1
        assert await feeds.join(chosen, second) is feed
        assert await feeds.join(elsewhere, other) is not feed
        assert len(watches._watched) == 2
        result = await shop.tasks["shop.add"].adelay(1)
        await eventually(lambda: first.ids and second.ids)
        assert (first.ids, second.ids, other.ids) == ([result.id], [result.id], [])
        feeds.leave(chosen, first)
        feeds.leave(elsewhere, other)
        await eventually(lambda: len(watches._watched) == 1, "the end of the other watch")
        feeds.leave(chosen, second)
        await eventually(lambda: not watches.is_watched, "the end of the watch")


async def test_a_feed_that_cannot_hear_makes_gaps_and_listens_again(
    shop: Celeriac, monkeypatch: pytest.MonkeyPatch
) -> None:
    feeds, hearing, listen, calls = Feeds(site_of(shop).site), Hearing(), shop.broker.listen, 0

    async def away(channel: str) -> Any:
        nonlocal calls
        if channel.startswith("events.") and (calls := calls + 1) == 1:
            raise BrokerUnavailable("it is away")
        return await listen(channel)

    monkeypatch.setattr(shop.broker, "listen", away)
    monkeypatch.setattr("celeriac.web.watching.LISTEN_AGAIN_SECONDS", 0.0)
    with running_worker(shop) as worker:
        await feeds.join(Filter(), hearing)
        assert hearing.gaps == 1
        await eventually(lambda: worker.settler.recorder.watches.is_watched, "the watch")
        result = await shop.tasks["shop.add"].adelay(1)
        await eventually(lambda: hearing.ids == [result.id], "the event")
        feeds.leave(Filter(), hearing)
        await eventually(lambda: not worker.settler.recorder.watches.is_watched, "the end of the watch")


# --- In the worker ------------------------------------------------------------------------------------


class Time:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def some(count: int, task: str = "shop.add", root: str | None = None, state: str = states.SUCCESS) -> list[Ended]:
    return [
        (Message(id=f"{task}-{n}", task=task, queue="default"),
         Outcome(id=f"{task}-{n}", task=task, state=state, root_id=root, runtime=0.1))
        for n in range(count)
    ]  # fmt: skip


@pytest.fixture
def time() -> Time:
    return Time()


@pytest.fixture
def watches(app: Celeriac, time: Time) -> Watches:
    return Watches(app, "w1", time)


async def told(watches: Watches, app: Celeriac, monkeypatch: pytest.MonkeyPatch) -> dict[str, tuple[list[str], int]]:
    """Return what is sent: ids, and how many were left out, by channel."""
    sent: dict[str, tuple[list[str], int]] = {}

    async def broadcast(channel: str, payloads: list[bytes]) -> None:
        for payload in payloads:
            found = read_told(payload)
            sent[channel] = ([attempt.id for attempt in found.attempts], found.dropped)

    with monkeypatch.context() as patch:
        patch.setattr(app.broker, "broadcast", broadcast)
        await watches._send()
    return sent


async def test_a_watch_takes_what_it_means_up_to_its_rate(
    watches: Watches, app: Celeriac, time: Time, monkeypatch: pytest.MonkeyPatch
) -> None:
    watches.watch("events.a", Filter(tasks=("shop.*",)), 10.0, 30.0)
    watches.watch("events.b", Filter(roots=("r",)), 10.0, 30.0)
    watches.ended(grouped([*some(15), *some(3, "mail.send", "r")]))
    sent = await told(watches, app, monkeypatch)
    assert sent == {"events.a": ([f"shop.add-{n}" for n in range(10)], 5),
                    "events.b": ([f"mail.send-{n}" for n in range(3)], 0)}  # fmt: skip
    time.now = 0.5
    watches.ended(grouped(some(15)))
    assert (await told(watches, app, monkeypatch))["events.a"][1] == 10
    # Numbers alone are sent once in a second.
    watches.ended(grouped(some(15)))
    assert await told(watches, app, monkeypatch) == {}
    time.now = 1.5
    watches.ended(grouped(some(0)))
    assert await told(watches, app, monkeypatch) == {"events.a": ([], 15)}


async def test_a_watch_expires_unless_it_is_repeated(watches: Watches, time: Time) -> None:
    assert not watches.is_watched
    watches.watch("events.a", Filter(), 10.0, 30.0)
    watches.watch("events.b", Filter(), 10.0, 30.0)
    time.now = 25.0
    watches.watch("events.a", Filter(), 10.0, 30.0)
    time.now = 40.0
    watches.ended(grouped(some(1)))
    watches.watch("events.c", Filter(), 10.0, 0.0)
    assert list(watches._watched) == ["events.a"]
    watches.watch("events.a", Filter(), 10.0, 0.0)
    assert not watches.is_watched


async def test_only_so_many_watch_one_worker(watches: Watches) -> None:
    for n in range(MOST_WATCHES):
        watches.watch(f"events.{n}", Filter(), 10.0, 30.0)
    with pytest.raises(ValueError, match="which is the most"):
        watches.watch("events.one-more", Filter(), 10.0, 30.0)


async def test_what_cannot_be_sent_is_counted(
    watches: Watches, app: Celeriac, time: Time, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def away(channel: str, payloads: list[bytes]) -> None:
        raise BrokerUnavailable("it is away")

    watches.watch("events.a", Filter(), 10.0, 30.0)
    watches.ended(grouped(some(5)))
    with monkeypatch.context() as patch:
        patch.setattr(app.broker, "broadcast", away)
        assert await watches._send()
    time.now = 2.0
    assert await told(watches, app, monkeypatch) == {"events.a": ([], 5)}


def test_a_recorder_that_nobody_watches_makes_no_event(app: Celeriac, monkeypatch: pytest.MonkeyPatch) -> None:
    recorder = Recorder(app, WorkerOptions.of(app))
    calls: list[Any] = []
    monkeypatch.setattr(recorder.watches, "ended", calls.append)
    recorder.add(some(3), 1_800_000_000.0)
    assert calls == []
    recorder.watches.watch("events.a", Filter(), 10.0, 30.0)
    recorder.add(some(3), 1_800_000_000.0)
    assert len(calls) == 1
