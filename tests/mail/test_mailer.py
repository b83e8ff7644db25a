"""Workers send mails about what the history says has failed: each once, whatever is killed in between."""

from __future__ import annotations

import logging
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from celeriac import Celeriac, states
from celeriac.errors import BrokerUnavailable, ImproperlyConfigured
from celeriac.model.failure import Failure
from celeriac.model.history import Event
from celeriac.model.message import Message, new_id
from celeriac.model.outcome import Outcome
from celeriac.model.serialization import loads
from celeriac.testing import running_worker
from celeriac.worker import mailer as mailer_module
from celeriac.worker.mailer import SENDING_SECONDS, Mailer
from celeriac.worker.options import WorkerOptions
from celeriac.worker.recorder import Recorder
from celeriac.worker.statistics import Ended
from tests.clock import FakeClock
from tests.mail.mail_server import running_mail_server
from tests.patience import wait_for

ADMINS = ["ann@example.org"]


def failed(task: str = "shop.charge", error: str = "ValueError", signature: str = "", at: float = 0.0) -> Ended:
    id = new_id()
    failure = Failure("builtins", error, "bad", signature=signature or f"sig{task}{error}", traceback="Traceback …")
    message = Message(id=id, task=task, sent_at=at)
    return message, Outcome(id=id, task=task, state=states.FAILURE, done_at=at, failure=failure, runtime=0.01)


class Shop:
    """An app with workers that record and mail, on a clock that stands still."""

    def __init__(self, make_app: Callable[..., Celeriac], clock: FakeClock, **settings: Any) -> None:
        self.clock = clock
        self.app = make_app(clock=clock, **{"mail_admins": ADMINS, **settings})
        self.sent: list[Message] = []
        self.breaks = ""
        self.app.broker.apublish = self.publish  # type: ignore[method-assign]
        self.workers = [self.worker(name) for name in ("a", "b", "c")]

    def worker(self, name: str) -> tuple[Recorder, Mailer]:
        options = WorkerOptions(name=name)
        recorder = Recorder(self.app, options)
        return recorder, Mailer(self.app, options, recorder, lambda: ["default"])

    async def publish(self, messages: list[Message]) -> None:
        if self.breaks == "before":
            raise BrokerUnavailable("it is away")
        self.sent += messages
        if self.breaks == "after":
            raise BrokerUnavailable("the reply was lost")

    async def fail(self, *ended: Ended, by: int = 0) -> None:
        recorder, _ = self.workers[by]
        recorder.add(ended, self.clock.now())
        await recorder.write()

    async def look(self) -> list[str]:
        """Let all workers look, as they do every ten seconds; return the names of the mails that were sent."""
        self.clock.advance(10)
        names = []
        for _, mailer in self.workers:
            names += [mail.name for mail in await mailer.look()]
        return names

    def told(self) -> list[dict[str, Any]]:
        return [loads(message.body)[0][0]["failures"] for message in self.sent]


@pytest.fixture
def shop(make_app: Callable[..., Celeriac], clock: FakeClock) -> Shop:
    return Shop(make_app, clock)


async def test_10_000_equal_failures_of_three_workers_in_a_minute_are_one_mail_and_then_come_by_schedule(
    shop: Shop,
) -> None:
    """For two days; one of the workers is killed on the way."""
    sent: list[tuple[float, int]] = []
    start = shop.clock.now()
    for second in range(0, 60, 10):
        for by in range(3):
            await shop.fail(*[failed(at=shop.clock.now()) for _ in range(556)], by=by)
        before = len(shop.sent)
        await shop.look()
        sent += [(shop.clock.now() - start, one["notices"][0]["count"]) for one in shop.told()[before:]]
        if second == 30:
            del shop.workers[1:2]
            shop.workers.append(shop.worker("d"))
    assert [count for _, count in sent] == [3 * 556 * 3]
    steps = [60] * 60 + [600] * 200  # an hour by minutes, and a day and more
    for step in steps:
        shop.clock.advance(step - 10)
        await shop.fail(failed(at=shop.clock.now()))
        before = len(shop.sent)
        await shop.look()
        sent += [(shop.clock.now() - start, one["notices"][0]["count"]) for one in shop.told()[before:]]
    gaps = [later[0] - earlier[0] for earlier, later in pairwise(sent)]
    assert gaps == [
        pytest.approx(gap, abs=step) for gap, step in ((300, 61), (1_800, 61), (14_400, 601), (86_400, 601))
    ]
    assert len({message.id for message in shop.sent}) == 5
    (signature,) = await shop.workers[0][1].history.signatures()
    assert signature.count == 18 * 556 + len(steps)
    assert 18 * 556 < sum(count for _, count in sent) <= signature.count


@pytest.mark.parametrize("breaks", ["before", "after"])
async def test_who_dies_while_it_sends_leaves_the_mail_to_another_worker_under_the_same_name(
    breaks: str, shop: Shop
) -> None:
    await shop.fail(failed(at=shop.clock.now()))
    shop.clock.advance(30)
    shop.breaks = breaks
    with pytest.raises(BrokerUnavailable):
        await shop.look()
    shop.breaks = ""
    names = []
    for _ in range(int(SENDING_SECONDS // 10) + 1):
        names += await shop.look()
    assert len(names) == 1
    assert len(shop.sent) == (1 if breaks == "before" else 2)
    assert len({message.id for message in shop.sent}) == 1
    for _ in range(30):
        assert await shop.look() == []


async def test_a_mail_goes_to_a_queue_of_the_worker_that_sends_it(make_app: Callable[..., Celeriac],
                                                                  clock: FakeClock) -> None:  # fmt: skip
    shop = Shop(make_app, clock, task_queues=["images"])
    recorder, _ = shop.workers[0]
    shop.workers = [(recorder, Mailer(shop.app, WorkerOptions(name="a"), recorder, lambda: ["unknown", "images"]))]
    await shop.fail(failed(at=clock.now()))
    clock.advance(30)
    await shop.look()
    (message,) = shop.sent
    assert (message.task, message.queue, message.priority) == ("celeriac.mail", "images", 9)
    assert message.soft_time_limit == 120.0


async def test_a_route_decides_the_queue_of_mails(make_app: Callable[..., Celeriac], clock: FakeClock) -> None:
    shop = Shop(make_app, clock, task_routes={"celeriac.mail": "ops"})
    await shop.fail(failed(at=clock.now()))
    clock.advance(30)
    await shop.look()
    assert [message.queue for message in shop.sent] == ["ops"]


async def test_tasks_and_exceptions_are_left_out(make_app: Callable[..., Celeriac], clock: FakeClock) -> None:
    shop = Shop(make_app, clock, mail_on=["task:shop.*", "KeyError"], mail_not_on=[TimeoutError])

    @shop.app.task(name="shop.quiet", mail=False)
    def quiet() -> None: ...

    await shop.fail(failed(at=clock.now()), failed("shop.quiet", at=clock.now()), failed("other.x", at=clock.now()),
                    failed("other.x", "KeyError", at=clock.now()),
                    failed("shop.x", "TimeoutError", at=clock.now()))  # fmt: skip
    clock.advance(30)
    await shop.look()
    mailed = sorted(
        (one["notices"][0]["signature"]["task"], one["notices"][0]["signature"]["error"]) for one in shop.told()
    )
    assert mailed == [("other.x", "builtins.KeyError"), ("shop.charge", "builtins.ValueError")]


async def test_a_muted_signature_is_silent_and_one_that_regresses_is_told(shop: Shop) -> None:
    history = shop.workers[0][1].history
    await shop.fail(failed(signature="one", at=shop.clock.now()), failed(signature="two", at=shop.clock.now()))
    await history.mark("one", "muted", "ann", shop.clock.now())
    await history.mark("two", "resolved", "ann", shop.clock.now())
    shop.clock.advance(30)
    await shop.fail(failed(signature="one", at=shop.clock.now()), failed(signature="two", at=shop.clock.now()))
    await shop.look()
    (told,) = shop.told()
    assert (told["notices"][0]["signature"]["signature"], told["notices"][0]["kind"]) == ("two", "regressed")


async def test_while_nothing_fails_a_worker_reads_nothing(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    """It looks once when it has started, and then once a minute."""
    slept: list[float] = []
    recorder, mailer = shop.workers[0]
    now = [1_000.0]

    class Enough(BaseException):
        """The duty has slept often enough."""

    async def sleep(seconds: float) -> None:
        slept.append(seconds)
        now[0] += seconds
        if len(slept) == 61:
            raise Enough

    looked: list[float] = []

    async def claim(*arguments: Any) -> bytes | None:
        looked.append(now[0])
        shop.clock.advance(60)
        return None

    monkeypatch.setattr(mailer_module.asyncio, "sleep", sleep)
    monkeypatch.setattr(mailer_module.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(recorder.history, "claim", claim)
    with pytest.raises(Enough):
        await mailer.run()
    assert looked == [1_010.0 + 60 * minute for minute in range(10)]


async def test_what_is_stored_there_and_an_outage_do_not_end_the_duty(
    shop: Shop, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    _, mailer = shop.workers[0]
    errors: list[Exception] = [RuntimeError("odd"), BrokerUnavailable("away"), BrokerUnavailable("away")]

    class Enough(BaseException):
        """The duty has done what it is to do."""

    async def look() -> list[Any]:
        if errors:
            raise errors.pop(0)
        return []

    turns = 0

    async def sleep(seconds: float) -> None:
        nonlocal turns
        turns += 1
        mailer._waits = True
        if turns == 6:
            raise Enough

    monkeypatch.setattr(mailer, "look", look)
    monkeypatch.setattr(mailer_module.asyncio, "sleep", sleep)
    with caplog.at_level(logging.INFO, "celeriac.worker"), pytest.raises(Enough):
        await mailer.run()
    texts = [record.getMessage() for record in caplog.records]
    assert texts == ["Cannot look for failures to mail",
                     "Mails about failures cannot be sent, the worker keeps trying: away",
                     "Mails about failures can be sent again"]  # fmt: skip


async def test_that_a_mail_was_sent_is_an_event_of_the_history(shop: Shop) -> None:
    await shop.fail(failed(signature="one", at=shop.clock.now()))
    shop.clock.advance(30)
    await shop.look()
    (event,) = await shop.workers[0][1].history.events(("mail",))
    assert event == Event(at=shop.clock.now(), kind="mail", id="one", by="a", text="one.0",
                          data={"about": {"one": ["new", 0, 1]}})  # fmt: skip


# --- Settings -----------------------------------------------------------------------------------------


def mailer_of(app: Celeriac) -> Mailer:
    options = WorkerOptions(name="w")
    return Mailer(app, options, Recorder(app, options))


@pytest.mark.parametrize(
    ("settings", "needed"),
    [
        ({}, False),
        ({"mail_admins": ADMINS}, True),
        ({"mail_admins": ADMINS, "task_send_error_emails": True}, True),
        ({"mail_admins": ADMINS, "task_send_error_emails": False}, False),
        ({"mail_admins": ADMINS, "task_send_error_emails": False, "history": "off"}, False),
        ({"task_send_error_emails": True}, False),
    ],
)
def test_failures_are_mailed_once_there_are_administrators(
    settings: dict[str, Any], needed: bool, make_app: Callable[..., Celeriac], caplog: pytest.LogCaptureFixture
) -> None:
    assert mailer_of(make_app(**settings)).is_needed is needed
    assert ("has no addresses" in caplog.text) is (settings == {"task_send_error_emails": True})


def test_without_a_history_a_worker_that_is_to_mail_does_not_start(make_app: Callable[..., Celeriac]) -> None:
    app = make_app(history="off", mail_admins=ADMINS)
    with pytest.raises(ImproperlyConfigured, match=r"need the history, and this app keeps none: set `history_url`"):
        mailer_of(app)
    with pytest.raises(ImproperlyConfigured, match="need the history"), running_worker(app):
        pass


# --- The whole way ------------------------------------------------------------------------------------


def test_a_worker_mails_a_failure_with_its_call_and_traceback(
    make_app: Callable[..., Celeriac], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mailer_module, "LOOK_SECONDS", 0.1)
    monkeypatch.setattr("celeriac.mail.schedule.GATHER", 0.0)
    with running_mail_server(tmp_path / "smtp") as server:
        app = make_app(mail_admins=ADMINS, mail_url=server.url, mail_from="c@example.org")

        @app.task(name="shop.charge")
        def charge(order: int, password: str) -> None:
            raise ValueError(f"no money for {order}")

        with running_worker(app):
            charge.delay(7, password="s3cr3t")
            (mail,) = server.wait_for_mails(1)
    assert mail.subject.startswith("[tests] ValueError in shop.charge: 1 × in")
    assert "charge(order=7, password='***')" in mail.text
    assert "in charge" in mail.text
    assert "s3cr3t" not in mail.content


def test_mail_admins_is_sent_by_a_worker(make_app: Callable[..., Celeriac], tmp_path: Path) -> None:
    with running_mail_server(tmp_path / "smtp") as server:
        app = make_app(mail_admins=ADMINS, mail_url=server.url, mail_from="c@example.org")
        with running_worker(app):
            app.mail_admins("Stock\r\nBcc: x@example.org", "It is low.\n.\nSee below.").get(timeout=60)
            (mail,) = server.mails()
    assert mail.subject == "[tests] Stock Bcc: x@example.org"
    assert mail.recipients == ADMINS
    assert "It is low.\n.\nSee below." in mail.text


async def test_mail_admins_is_refused_without_addresses_and_without_text(make_app: Callable[..., Celeriac]) -> None:
    with pytest.raises(ImproperlyConfigured, match="There is nobody to mail to: set `mail_admins`"):
        make_app().mail_admins("x", "y")
    app = make_app(mail_admins=ADMINS)
    with pytest.raises(TypeError, match="body must be text, not 7"):
        await app.amail_admins("x", 7)  # type: ignore[arg-type]


async def test_amail_admins_sends_a_message(make_app: Callable[..., Celeriac]) -> None:
    app = make_app(mail_admins=ADMINS)
    await app.amail_admins("Hello", "World")
    found = await app.broker.operations().peek("default", limit=5)
    assert [message.task for message in found] == ["celeriac.mail"]


def test_a_mail_that_is_refused_for_now_is_tried_again_for_a_day_for_those_who_have_not_got_it(
    make_app: Callable[..., Celeriac], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = make_app().builtin_tasks["celeriac.mail"]
    policy = task.retry_policy(Message(id="1", task="celeriac.mail"))
    pauses = [policy.delay_after(attempt) for attempt in range(1, policy.max_retries + 1)]
    assert 0.5 * 86_400 < sum(pauses) < 1.5 * 86_400
    assert pauses[0] <= 60
    with running_mail_server(tmp_path / "smtp", fault="451 bob") as server:
        app = make_app(mail_admins=[*ADMINS, "bob@example.org"], mail_url=server.url, mail_from="c@example.org")
        monkeypatch.setattr("celeriac.model.retry.RetryPolicy.delay_after", lambda self, attempt: 0.01)
        with running_worker(app):
            result = app.mail_admins("x", "y")
            server.wait_for_mails(1)
            server.set_fault("")
            result.get(timeout=60)
            first, second = server.mails()
    assert (first.recipients, second.recipients) == (ADMINS, ["bob@example.org"])
    assert first.id == second.id


def test_a_worker_without_addresses_leaves_a_mail_to_others(make_app: Callable[..., Celeriac], tmp_path: Path) -> None:
    app = make_app(mail_admins=ADMINS)
    with running_worker(app):
        app.conf.update(mail_url="smtp://localhost:1", mail_from="c@example.org")
        message = app.message_template("celeriac.mail").message(({"at": 0.0, "subject": "x", "body": "y"},), {}, {})
        app.conf.mail_admins = []
        app.publish([message])
        result = app.AsyncResult(message.id)
        wait_for(lambda: result.state == states.RETRY, "the first attempt")


def test_a_mail_that_is_refused_for_good_is_a_failure(make_app: Callable[..., Celeriac], tmp_path: Path) -> None:
    with running_mail_server(tmp_path / "smtp", fault="550") as server:
        app = make_app(mail_admins=ADMINS, mail_url=server.url, mail_from="c@example.org")
        with running_worker(app):
            result = app.mail_admins("x", "y")
            with pytest.raises(Exception, match=r"refuses 1 of 1 recipients: ann@example.org: 550 5\.1\.1"):
                result.get(timeout=60)
    assert result.state == "FAILURE"
