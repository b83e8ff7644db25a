"""What the log says of the ends of attempts: no more lines than are of use."""

from __future__ import annotations

from typing import Any

import pytest

from celeriac import Celeriac
from celeriac.errors import NotRegistered
from celeriac.model.message import Message
from celeriac.signals import Signal
from celeriac.tasks.execution import Executor
from celeriac.worker.attempt_log import AttemptLog
from tests.logs.shop import Shop
from tests.patience import PATIENCE, eventually


def test_a_retry_is_told_with_its_exception_and_its_attempt(shop: Shop) -> None:
    shop.open("-l", "info")
    id = shop.run("again", 2)
    shop.stop()
    told = shop.lines(f"shop.again[{id}] will be retried")
    assert [line.partition("will be retried in ")[2] for line in told] == [
        "0.0 s (attempt 2 of 4): ConnectionError: no answer", "0.0 s (attempt 3 of 4): ConnectionError: no answer"
    ]  # fmt: skip


def test_tracebacks_begin_in_the_code_of_the_user(shop: Shop) -> None:
    shop.open()
    for task in ("fail", "afail"):
        id = shop.run(task, "cups")
        said = shop.wait(lambda id=id: shop.text().partition(f"[{id}] failed")[2].count("\n") > 4 and shop.text())
        frame, code, error = said.partition(f"[{id}] failed")[2].splitlines()[2:5]
        assert 'shop.py", line' in frame
        assert (code.strip(), error.strip()) == ("raise ValueError(text)", "ValueError: cups")


def test_the_traceback_of_a_receiver_begins_in_the_receiver(caplog: pytest.LogCaptureFixture) -> None:
    def receiver(**more: Any) -> None:
        raise ValueError("cups")

    signal = Signal("s", "x")
    signal.connect(receiver)
    signal.send(None)
    assert "in receiver" in caplog.text.partition("Traceback")[2].splitlines()[1]


def test_a_traceback_without_code_of_the_user_is_whole(app: Celeriac) -> None:
    failure = Executor(app).run(Message(id="7", task="shop.gone")).failure
    assert failure is not None
    assert "execution.py" in failure.traceback


def test_no_failure_of_a_storm_is_missing_from_the_numbers(shop: Shop) -> None:
    shop.open()
    results = [shop.app.send_task("shop.fail", ["cups"]) for _ in range(60)]
    for result in results:
        result.get(timeout=PATIENCE, propagate=False)
    shop.stop()
    full = len(shop.lines("] failed: ValueError: cups"))
    summed = [int(line.partition("failed with ValueError ")[2].split()[0]) for line in shop.lines("more times within")]
    assert 5 <= full < 60
    assert full + sum(summed) == 60


async def test_a_storm_that_goes_on_is_told_by_its_numbers_alone(
    app: Celeriac, caplog: pytest.LogCaptureFixture
) -> None:
    log = AttemptLog(app)

    def lose(number: int) -> None:
        for _ in range(number):
            log.lost(Message(id="7", task="shop.add"), "killed by SIGKILL")

    def told() -> list[str]:
        found = [message.removeprefix("The process that ran ") for message in caplog.messages]
        caplog.clear()
        return found

    one = "shop.add[7] died: killed by SIGKILL; the task runs again"
    summed = "shop.add lost its process %d more times within 10 s; the last was [7]: killed by SIGKILL"
    lose(12)
    assert told() == [one] * 5
    log.sum_up()
    assert told() == [summed % 7]
    lose(1)
    log.sum_up()
    assert told() == [summed % 1]
    log.sum_up()
    lose(5)
    log.sum_up()
    assert told() == [one] * 5


async def test_the_numbers_of_a_storm_are_told_after_a_while(
    app: Celeriac, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("celeriac.worker.attempt_log.PERIOD", 0.01)
    log = AttemptLog(app)
    for _ in range(7):
        log.unknown(Message(id="7", task="shop.gone"), NotRegistered("shop.gone"))
    await eventually(lambda: "shop.gone is not registered here and was received 2 more times" in caplog.text)
