"""Messages that are too large are refused at the call; results make some so, which fail; others become dead letters."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from celeriac import Celeriac, chain, chord
from celeriac.config.settings import received_max_bytes
from celeriac.errors import MessageTooLarge
from celeriac.inspector import Inspector
from celeriac.model.gate import DEEPEST
from celeriac.model.message import Message, encode
from celeriac.model.serialization import dumps_call
from celeriac.testing import running_worker
from tests.patience import PATIENCE, wait_for

SIZES = {"message_max_bytes": 1_000, "result_max_bytes": 2_000, "worker_message_max_bytes": 10_000}
LIMITS = {**SIZES, "broker_publish_timeout": PATIENCE}
KEY = "k" * 40


@pytest.fixture(params=["memory", "sqlite", "redis", "rabbitmq"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "redis":
        return str(request.getfixturevalue("redis").url)
    if request.param == "rabbitmq":
        return str(request.getfixturevalue("place").url)
    return f"sqlite:///{tmp_path}/celeriac.db" if request.param == "sqlite" else f"memory://{tmp_path}"


@pytest.fixture
def app(url: str, tmp_path: Path) -> Iterator[Celeriac]:
    backend = {"result_backend": f"sqlite:///{tmp_path}/results.db"} if url.startswith("amqp") else {}
    app = Celeriac("sizes", broker_url=url, environ={}, **LIMITS, **backend)  # type: ignore[arg-type]
    app.told = []  # type: ignore[attr-defined]

    @app.task(name="letters")
    def letters(count: int) -> str:
        return "x" * count

    @app.task(name="length")
    def length(*texts: Any) -> int:
        return sum(map(len, texts))

    @app.task(name="total")
    def total(texts: list[str]) -> int:
        return sum(map(len, texts))

    @app.task(name="fail", max_retries=0)
    def fail(text: str) -> None:
        raise ValueError("y" * 50_000)

    @app.task(name="tell")
    def tell(request: Any, exc: BaseException, traceback: str) -> None:
        app.told.append((request.id, type(exc)))  # type: ignore[attr-defined]

    @app.task(name="tell_id")
    def tell_id(id: str) -> None:
        app.told.append(id)  # type: ignore[attr-defined]

    yield app
    app.close()


@pytest.mark.parametrize("security", [{}, {"security_keys": [KEY]}], ids=["plain", "signed"])
def test_a_message_that_is_too_large_becomes_a_dead_letter_and_no_worker_ends(
    app: Celeriac, url: str, security: dict[str, Any]
) -> None:
    app.conf.security_keys = security.get("security_keys", [])
    wide = {**LIMITS, **dict.fromkeys(SIZES, 1_000_000)}
    older = Celeriac("sizes", broker_url=url, environ={}, result_backend=app.conf.result_backend, **wide, **security)  # type: ignore[arg-type]
    older.send_task("length", ("x" * 9_000,))
    large = [older.send_task("length", ("x" * 10_000,)), older.send_task("length", ("x" * 500_000,))]
    after = older.send_task("length", ("x" * 9_000,))
    inspector = Inspector(app)
    with running_worker(app, concurrency=1):
        assert app.AsyncResult(after.id).get(PATIENCE) == 9_000
        found = wait_for(lambda: len(dead := asyncio.run(inspector.dead("default"))) == 2 and dead, "two dead letters")
        assert all("more than `worker_message_max_bytes` allows (10,000)" in letter.reason for letter in found)
        assert sorted(len(letter.message.body) > 400_000 for letter in found) == [False, True]
        assert app.tasks["letters"].delay(10).get(PATIENCE) == "x" * 10
        assert all(result.state == "PENDING" for result in large)
    older.close()


def test_dead_letters_that_were_too_large_run_where_the_limit_is_higher(app: Celeriac, url: str) -> None:
    wide = {**LIMITS, **dict.fromkeys(SIZES, 1_000_000)}
    roomy = Celeriac("sizes", broker_url=url, environ={}, result_backend=app.conf.result_backend, **wide)  # type: ignore[arg-type]
    roomy.task(name="length")(len)
    result = roomy.send_task("length", ("x" * 20_000,))
    inspector = Inspector(roomy)
    with running_worker(app):
        (letter,) = wait_for(lambda: asyncio.run(inspector.dead("default")), "a dead letter")
    assert asyncio.run(inspector.resend([letter.message.id])) == 1
    with running_worker(roomy):
        assert result.get(PATIENCE) == 20_000
    roomy.close()


def test_a_chord_whose_results_are_too_large_fails_and_says_so(app: Celeriac) -> None:
    letters, tell = app.tasks["letters"], app.tasks["tell"]
    with running_worker(app):
        body = chord([letters.s(1_500) for _ in range(6)], app.tasks["total"].s()).delay()
        assert body.get(PATIENCE) == 9_000
        body = chord([letters.s(1_500) for _ in range(7)], app.tasks["total"].s().on_error(tell.s())) | letters.s()
        last = body.delay()
        with pytest.raises(MessageTooLarge, match=r"make a message of 10,\d\d\d bytes, more than `worker_message_max"):
            last.get(PATIENCE)
        wait_for(lambda: app.told, "the error callback")  # type: ignore[attr-defined]
        assert app.told == [(last.parent.id, MessageTooLarge)]  # type: ignore[attr-defined]


def test_a_chord_whose_results_are_too_large_fails_in_an_eager_run(app: Celeriac) -> None:
    made = chord([app.tasks["letters"].s(1_500) for _ in range(7)], app.tasks["total"].s())
    with pytest.raises(MessageTooLarge, match=r"make a message of 10,\d\d\d bytes"):
        made.apply().get()


def test_what_follows_one_result_is_always_sent(app: Celeriac) -> None:
    """The limit of results and that of calls, together, are within the limit of workers, whatever that is set to."""
    app.conf.worker_message_max_bytes = 1
    assert received_max_bytes(app.conf) == 6_000
    with running_worker(app):
        text = "z" * 900
        assert chain(app.tasks["letters"].s(1_900), app.tasks["length"].s(text)).delay().get(PATIENCE) == 2_800
        linked = app.tasks["length"].s(text).set(task_id="linked")
        app.tasks["letters"].s(1_900).link(linked).delay()
        assert app.AsyncResult("linked").get(PATIENCE) == 2_800


def test_the_exception_in_an_error_callback_is_cut_if_it_is_too_large(app: Celeriac) -> None:
    with running_worker(app):
        result = app.tasks["fail"].s("x").on_error(app.tasks["tell"].s()).delay()
        wait_for(lambda: app.told, "the error callback")  # type: ignore[attr-defined]
        assert app.told[0][0] == result.id  # type: ignore[attr-defined]


def test_headers_and_links_are_refused_at_the_call_if_workers_would_refuse_them(
    make_app: Callable[..., Celeriac],
) -> None:
    app = make_app(**LIMITS)
    task = app.task(name="t")(lambda *args: None)
    with pytest.raises(MessageTooLarge, match=r"has 6,\d\d\d bytes with its headers and links.* more than 5,000"):
        task.apply_async(headers={"x": "y" * 6_000})
    links = [task.s("x" * 900) for _ in range(6)]
    for name in ("link", "link_error"):
        with pytest.raises(MessageTooLarge, match="with its headers and links"):
            task.apply_async(**{name: links})  # type: ignore[arg-type]
        with pytest.raises(MessageTooLarge, match="with its headers and links"):
            task.delay_many([(1,), (2,)], **{name: links})  # type: ignore[arg-type]
    nested = task.s()
    for _ in range(DEEPEST):
        nested = task.s().set(link=nested)
    with pytest.raises(MessageTooLarge, match="links are nested deeper than 50 levels"):
        task.apply_async(link=nested)
    message = task.s().message()
    large = Message(id="x", task="t", body=dumps_call(("x" * 20_000,), {}))
    assert len(encode(replace(message, link=[]))) < 5_000 < len(encode(large))
