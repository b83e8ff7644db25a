"""Failures of the same cause have the same signature, and others have another."""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from celeriac import Celeriac, states
from celeriac.errors import WorkerLost
from celeriac.model.failure import Failure
from celeriac.model.failure_signature import message_signature, signature_of
from celeriac.model.message import Message
from celeriac.model.outcome import Outcome


def caught(function: Callable[[], object]) -> BaseException:
    with pytest.raises(BaseException) as found:
        function()
    error = found.value
    traceback = error.__traceback__
    while traceback is not None and traceback.tb_frame.f_code is not function.__code__:
        traceback = traceback.tb_next
    return error.with_traceback(traceback)


def divide(by: int = 0) -> float:
    return 1 / by


def parse(text: str) -> object:
    return json.loads(text)


def nested(levels: int) -> object:
    return nested(levels - 1) if levels else divide()


def chained(message: str, hidden: bool = False) -> None:
    try:
        divide()
    except ZeroDivisionError as error:
        raise ValueError(message) from (None if hidden else error)


def of(function: Callable[[], object], task: str = "shop.add") -> str:
    return signature_of(task, caught(function))


def test_it_is_sixteen_hexadecimal_digits() -> None:
    assert len(of(divide)) == 16
    int(of(divide), 16)


def test_lines_messages_and_values_do_not_matter() -> None:
    assert of(lambda: parse("{")) == of(lambda: parse("[1,")) != of(lambda: parse("0") or divide())
    assert of(lambda: chained("order 1")) == of(lambda: chained("order 2"))


def test_task_class_place_and_cause_matter() -> None:
    found = [of(divide), of(divide, "other"), of(lambda: int("x")), of(lambda: nested(0)),
             of(lambda: chained("x")), of(lambda: chained("x", hidden=True))]  # fmt: skip
    assert len(set(found)) == len(found)


def test_the_depth_of_a_recursion_does_not_matter() -> None:
    assert of(lambda: nested(3)) == of(lambda: nested(300))


def test_frames_of_libraries_do_not_matter() -> None:
    """Both end in json, at different depths."""
    assert of(lambda: parse("{")) == of(lambda: parse("nonsense"))


def test_an_app_that_is_an_installed_package_has_frames_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where all code is in site-packages, what it has in common with other tasks' is no reason to be the same."""
    package = tmp_path / "site-packages" / "installed_shop"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text(
        "import json\ndef one(): deep('{')\ndef two(): deep('[')\ndef deep(text): json.loads(text)\n"
    )
    monkeypatch.syspath_prepend(str(package.parent))
    shop = importlib.import_module("installed_shop")
    assert of(shop.one) == of(shop.one) != of(shop.two)
    del sys.modules["installed_shop"]


def test_groups_and_broken_exceptions_have_one_too() -> None:
    class Broken(Exception):
        def __str__(self) -> str:
            raise RuntimeError

    def group() -> None:
        raise ExceptionGroup("several", [ValueError(), KeyError()])

    assert Failure.of(caught(group), "t").signature
    assert Failure.of(Broken(), "t") == Failure.of(Broken(), "t")
    loop = ValueError()
    loop.__cause__ = loop
    assert Failure.of(loop, "t").signature


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("killed by signal 9", "killed by signal 11"),
        ("no order 'a-1'", "no order 'b-22'"),
        ("<object at 0x7f00>", "<object at 0x8fff12>"),
        ("id 0197a1b2-0000-7000-8000-000000000000 is gone", "id 0197a1b2-ffff-7abc-8000-0123456789ab is gone"),
        ("10.0.0.1:80 refused", "192.168.1.20:8080 refused"),
        ("commit deadbeef1", "commit 00c0ffee9"),
    ],
)
def test_what_varies_in_a_message_does_not_matter(one: str, other: str) -> None:
    assert message_signature("t", "E", one) == message_signature("t", "E", other)
    assert message_signature("t", "E", one) != message_signature("t", "E", f"not {one}")


def test_a_task_that_fails_tells_its_signature(make_app: Callable[..., Celeriac]) -> None:
    app = make_app(task_store_eager_result=True)

    @app.task
    def fail(text: str) -> None:
        raise ValueError(text)

    found = []
    for text in ("a", "b"):
        result = fail.apply((text,))
        assert result.state == states.FAILURE
        outcome = app.backend.fetch([result.id])[result.id]
        assert outcome.failure is not None
        found.append(outcome.failure.signature)
    assert found[0] == found[1] != ""


def test_a_failure_that_no_child_reports_has_one_by_its_message() -> None:
    message = Message(id="x", task="t")
    one, other = (Outcome.failed(message, WorkerLost(f"killed, {n} times"), states.FAILURE, 0.0) for n in (3, 4))
    assert one.failure is not None
    assert other.failure is not None
    assert one.failure.signature == other.failure.signature != ""
    revoked = Outcome.failed(message, WorkerLost(""), states.REVOKED, 0.0)
    assert revoked.failure is not None
    assert revoked.failure.signature == ""
