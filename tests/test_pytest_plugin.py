"""The pytest plugin, in projects that use it, and in one that does not."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.environment import without_settings
from tests.patience import PATIENCE

pytest_plugins = ["pytester"]

SHOP = """
import os
from datetime import timedelta
from celeriac import Celeriac, every

app = Celeriac("shop", broker_url="redis://no.such.host.example", task_queues=["default", "mail"])

@app.task
def add(x: int, y: int) -> int:
    return x + y

@app.task(bind=True, autoretry_for=(ConnectionError,), retry_backoff=60, retry_jitter=False)
def charge(self, euros):
    if self.request.attempt < 3:
        raise ConnectionError("the bank does not answer")
    return f"charged {euros} in attempt {self.request.attempt}"

@app.task(queue="mail")
async def remind(whom, when=None):
    return whom

@app.task
def where() -> int:
    return os.getpid()

TICKS = []

@app.task(schedule=every(timedelta(minutes=10)))
def report():
    TICKS.append(app.clock.now())

@app.task
def checkout(euros):
    add.delay(euros, y=1)
    remind.apply_async(("ann",), countdown=3600)
"""

INI = """
[pytest]
celeriac_app = shop:app
filterwarnings = error
addopts = -p pytest_celeriac -p no:cacheprovider
"""


@pytest.fixture
def project(pytester: pytest.Pytester) -> pytest.Pytester:
    pytester.makepyfile(shop=SHOP)
    pytester.makeini(INI)
    return pytester


def passes(project: pytest.Pytester, test: str, passed: int = 1) -> None:
    """Run a test file."""
    project.makepyfile(test_shop="from shop import *\nimport pytest\n" + test)
    project.syspathinsert()
    run(project).assert_outcomes(passed=passed)


def run(project: pytest.Pytester) -> pytest.RunResult:
    # In this process: Celeriac is imported here already, and this takes a fifth of the time.
    return project.runpytest_inprocess("-q", "-p", "no:randomly", "-p", "no:django", "-p", "no:timeout")


def test_a_worker_in_threads_runs_the_projects_tasks_on_a_memory_broker(project: pytest.Pytester) -> None:
    passes(project, """
def test_one(celeriac_worker):
    assert add.delay(2, 2).get(timeout=60) == 4
    assert where.delay().get(timeout=60) == os.getpid()
    assert remind.delay("ann").get(timeout=60) == "ann"

def test_the_next_test_finds_nothing_of_it(celeriac_app):
    assert celeriac_app is app
    assert app.broker.complete(app.broker.operations().queues()) == []
    assert app.conf.broker_url.startswith("memory://")

def test_without_the_fixtures_the_app_is_as_it_was():
    assert app.conf.broker_url == "redis://no.such.host.example"
    assert app.conf.worker_lease_seconds == 15.0
""", 3)  # fmt: skip


def test_a_worker_in_a_process_of_its_own_runs_them_too(project: pytest.Pytester) -> None:
    passes(project, """
from tests.patience import wait_for

def test_one(celeriac_worker_process, celeriac_clock):
    assert add.delay(2, 2).get(timeout=60) == 4
    assert where.delay().get(timeout=60) not in (os.getpid(), celeriac_worker_process.pid)
    wait_for(lambda: "is ready" in celeriac_worker_process.output())
    with pytest.raises(Exception, match="virtual clock is for memory://"):
        celeriac_clock.advance(1)

def test_the_app_is_back_after_it(celeriac_worker):
    assert add.delay(2, 2).get(timeout=60) == 4
""", 2)  # fmt: skip


def test_the_clock_brings_countdowns_and_retries_to_their_times(project: pytest.Pytester) -> None:
    passes(project, """
from datetime import UTC, datetime, timedelta

def test_countdown(celeriac_worker, celeriac_clock):
    begun = celeriac_clock.now()
    late, later = add.apply_async((1, 1), countdown=3600), add.apply_async((2, 2), countdown=timedelta(days=30))
    celeriac_clock.advance(3599)
    assert not late.ready()
    celeriac_clock.advance(timedelta(seconds=2))
    assert late.ready() and not later.ready()
    assert 3601 <= celeriac_clock.now() - begun < 3600 + 120
    celeriac_clock.advance_to(celeriac_clock.time() + timedelta(days=31))
    assert later.get(timeout=0) == 4
    with pytest.raises(ValueError, match="does not go back"):
        celeriac_clock.advance_to(datetime(2020, 1, 1, tzinfo=UTC))
    with pytest.raises(ValueError, match="does not go back"):
        celeriac_clock.advance(-1)

def test_retries(celeriac_clock, celeriac_worker):
    result = charge.delay(12)
    celeriac_clock.finish()
    assert result.state == "RETRY"
    celeriac_clock.advance(61)
    assert result.state == "RETRY"
    celeriac_clock.advance(121)
    assert result.get(timeout=0) == "charged 12 in attempt 3"

def test_everything_that_follows_at_once(celeriac_clock, celeriac_worker):
    result = charge.apply_async((12,), countdown=3600, link=add.si(1, 2).set(countdown=60))
    celeriac_clock.advance(timedelta(hours=2))
    assert result.get(timeout=0) == "charged 12 in attempt 3"

async def coroutine(celeriac_clock):
    result = add.apply_async((1, 1), countdown=3600)
    await celeriac_clock.aadvance(3601)
    await celeriac_clock.aadvance_to(celeriac_clock.now())
    return await result.aget(timeout=0)

def test_in_a_coroutine(celeriac_clock, celeriac_worker):
    import asyncio
    assert asyncio.run(coroutine(celeriac_clock)) == 2
""", 4)  # fmt: skip


def test_the_clock_brings_schedules_to_their_times(project: pytest.Pytester) -> None:
    passes(project, """
def test_each_tick_at_its_time(celeriac_worker, celeriac_clock):
    TICKS.clear()
    celeriac_clock.advance(3600)
    assert len(TICKS) in (6, 7)
    assert all(590 < after - before < 610 for before, after in zip(TICKS, TICKS[1:]))

def test_without_a_worker_they_wait(celeriac_clock, celeriac_app):
    TICKS.clear()
    celeriac_clock.advance(3600)
    [counts] = app.broker.complete(app.broker.operations().queues())
    assert counts.ready in (6, 7)
    assert TICKS == []
""", 2)  # fmt: skip


def test_a_task_that_does_not_end_is_named(project: pytest.Pytester) -> None:
    passes(project, """
import threading

LEAVE = threading.Event()

def test_it(celeriac_app, celeriac_clock, celeriac_worker):
    @app.task(name="blocks")
    def blocks():
        LEAVE.wait(60)

    result = blocks.delay()
    try:
        with pytest.raises(TimeoutError, match="have not ended: blocks"):
            celeriac_clock.finish(timeout=0.3)
    finally:
        LEAVE.set()
    celeriac_clock.finish()
    assert result.successful()
""")  # fmt: skip


def test_what_was_sent_is_asserted_without_a_worker(project: pytest.Pytester) -> None:
    passes(project, """
def test_sent(assert_sent, celeriac_sent):
    checkout(12)
    assert_sent(add)
    assert_sent(add, args=(12, 1), times=1)
    assert_sent(add, kwargs={"x": 12, "y": 1})
    assert_sent("shop.remind", args=("ann",), queue="mail", countdown=3600)
    assert str(celeriac_sent[0]) == "shop.add(12, y=1) to the queue 'default'"
    assert [one.task for one in celeriac_sent] == ["shop.add", "shop.remind"]
    celeriac_sent.assert_not_sent(charge)
    celeriac_sent.assert_not_sent(add, args=(13, 1))
    celeriac_sent.clear()
    celeriac_sent.assert_not_sent(add)

def test_a_tuple_is_a_list_when_it_arrives(assert_sent):
    remind.delay("ann", when=(1, 2))
    assert_sent(remind, args=("ann",), kwargs={"when": (1, 2)})

def test_groups_too(assert_sent):
    from celeriac import group
    group(add.s(1, number) for number in range(3))()
    assert_sent(add, times=3)

def test_the_error_says_what_was_sent(assert_sent, celeriac_sent):
    add.delay(1, 2)
    with pytest.raises(AssertionError, match=r"shop.add was not sent, with args=\\(2, 2\\). Sent were: shop.add\\("):
        assert_sent(add, args=(2, 2))
    with pytest.raises(AssertionError, match=r"shop.add was sent 1 times, not 2. Sent were"):
        assert_sent(add, times=2)
    with pytest.raises(AssertionError, match=r"shop.charge was not sent, with queue='x'"):
        assert_sent(charge, queue="x")
    with pytest.raises(AssertionError, match=r"shop.add was sent"):
        celeriac_sent.assert_not_sent(add)
    celeriac_sent.clear()
    with pytest.raises(AssertionError, match=r"Nothing was sent"):
        assert_sent(add)
""", 4)  # fmt: skip


def test_without_an_app_of_the_project_there_is_a_new_one_and_settings_are_a_fixture(pytester: pytest.Pytester) -> None:
    pytester.makeconftest("pytest_plugins = ['pytest_celeriac']")
    pytester.makepyfile("""
        import pytest

        @pytest.fixture
        def celeriac_config():
            return {"task_default_queue": "mine"}

        def test_it(celeriac_app, celeriac_worker, assert_sent):
            @celeriac_app.task
            def add(x, y):
                return x + y

            assert add.delay(2, 2).get(timeout=60) == 4
            assert_sent(add, queue="mine")

        def test_a_process_needs_a_module(celeriac_app, request):
            with pytest.raises(Exception, match="celeriac_app = shop:app"):
                request.getfixturevalue("celeriac_worker_process")
    """)
    run(pytester).assert_outcomes(passed=2)


def test_an_app_that_cannot_be_found_is_told(pytester: pytest.Pytester) -> None:
    pytester.makeini("[pytest]\nceleriac_app = shopp:app\naddopts = -p pytest_celeriac")
    pytester.makepyfile("def test_it(celeriac_app): pass")
    result = run(pytester)
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["*no module 'shopp'*"])


def test_a_project_that_uses_none_of_it_imports_nothing_of_celeriac(tmp_path: Path) -> None:
    (tmp_path / "test_other.py").write_text("""
import sys

def test_it():
    assert "pytest_celeriac" in sys.modules
    assert not [name for name in sys.modules if name.partition(".")[0] in ("celeriac", "msgspec", "asyncio")]
""")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "pytest_celeriac", "-c", "/dev/null", "--rootdir",
               str(tmp_path), str(tmp_path)]  # fmt: skip
    environment = without_settings() | {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    result = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=PATIENCE)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "1 passed" in result.stdout
