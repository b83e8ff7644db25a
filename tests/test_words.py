"""The words that travel: outcomes and failures, retries, options, times, ids, signals."""

from __future__ import annotations

import asyncio
import json
import logging
import math
import os
import sys
import time
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from http import HTTPStatus
from itertools import count
from types import ModuleType
from typing import Any

import msgspec
import pytest

from celeriac import errors
from celeriac.errors import (
    EncodeError,
    NotRegistered,
    Reject,
    RemoteError,
    TaskExpired,
    TaskRevoked,
    UnknownOption,
    WaitInTask,
    WorkerLost,
    nearest,
)
from celeriac.model.clock import aware, instant, seconds
from celeriac.model.failure import TRACEBACK_LIMIT, Failure
from celeriac.model.gate import DEEPEST, LONGEST_NAME
from celeriac.model.message import Message, new_id, new_ids
from celeriac.model.options import check_call, check_task, rate
from celeriac.model.outcome import Outcome
from celeriac.model.retry import RetryPolicy
from celeriac.signals import Signal


def raised(error: BaseException) -> Failure:
    try:
        raise error
    except BaseException as caught:
        return Failure.of(caught)


def travelled(failure: Failure) -> Failure:
    return msgspec.msgpack.decode(msgspec.msgpack.encode(failure), type=Failure)


class BrokenText(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text for you")


class BrokenArguments(Exception):
    def __reduce__(self) -> Any:
        raise RuntimeError

    @property
    def args(self) -> Any:  # type: ignore[override]
        raise RuntimeError("no arguments for you")


class OwnArguments(Exception):
    def __init__(self, code: int, *, reason: str) -> None:
        super().__init__(f"{code}: {reason}")


class FatalText(Exception):
    def __str__(self) -> str:
        sys.exit(4)


class Coded(Exception):
    def __init__(self, message: str, *, code: int = 0) -> None:
        super().__init__(message)
        self.code = code


class Holding(Exception):
    """Has what cannot be serialised, in an attribute of the name."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.code = 5
        setattr(self, name, object())


class Answered(Exception):
    def __init__(self, number: int) -> None:
        super().__init__(f"{number}")
        self.status = HTTPStatus(number)

    def __reduce__(self) -> Any:
        return type(self), (int(self.status),), vars(self)


class BrokenRecord:
    __dataclass_fields__ = {"x": None}

    @property
    def x(self) -> int:
        raise RuntimeError("no x for you")


# --- Failures -----------------------------------------------------------------------------------------


def test_an_exception_comes_back_as_its_own_class_with_its_arguments() -> None:
    back = travelled(raised(KeyError("a", 3))).exception()
    assert type(back) is KeyError
    assert back.args == ("a", 3)


@pytest.mark.parametrize(
    ("error", "attributes"),
    [
        (FileNotFoundError(2, "No such file", "x"), ["errno", "strerror", "filename", "filename2"]),
        (OSError(18, "Crosses devices", "from", None, "to"), ["errno", "filename", "filename2"]),
        (FileNotFoundError("x"), ["errno", "filename"]),
        (KeyError((1, 2)), []),
        (ValueError("x", (1, [(2, {"a": (3,)})], {}, ())), []),
        (SyntaxError("no", ("file", 3, 4, "text")), ["filename", "lineno"]),
        (json.JSONDecodeError("no", "{", 1), ["doc", "pos", "lineno"]),
        (ImportError("no", name="x", path="y"), ["name", "path"]),
        (Coded("boom", code=5), ["code"]),
        (Holding("_private"), ["code"]),
        (OwnArguments(3, reason="no"), []),
        (RemoteError("shop.Error", "no", "long ago\n" * 1700), ["type", "message", "traceback"]),
        (Reject("no", requeue=True), ["reason", "requeue"]),
        (NotRegistered("a", ["b"]), ["task", "known"]),
    ],
    ids=repr,
)
def test_an_exception_comes_back_with_all_it_is_made_of(error: Exception, attributes: list[str]) -> None:
    back = travelled(raised(error)).exception()
    assert (type(back), back.args, str(back)) == (type(error), error.args, str(error))
    for name in attributes:
        found = getattr(back, name)
        assert (type(found), found) == (type(getattr(error, name)), getattr(error, name))
    again = travelled(raised(back)).exception()
    assert (type(again), again.args, str(again)) == (type(error), error.args, str(error))


def test_an_exception_comes_back_without_the_attributes_that_cannot_travel() -> None:
    back = travelled(raised(Holding("response"))).exception()
    assert (type(back), str(back), getattr(back, "code", None)) == (Holding, "response", 5)
    assert back.response is None  # type: ignore[attr-defined]


def test_methods_of_a_class_that_fail_do_no_harm_to_an_exception() -> None:
    back = travelled(raised(BrokenArguments("x"))).exception()
    assert (type(back), BaseException.args.__get__(back)) == (BrokenArguments, ("x",))


def test_an_enum_among_the_attributes_comes_back_as_its_value() -> None:
    back = travelled(raised(Answered(404))).exception()
    assert (type(back), str(back), back.status) == (Answered, "404", 404)  # type: ignore[attr-defined]


CALLED: list[str] = []


class Active(OSError):
    """Notes what is called of it."""

    def __new__(cls, *args: Any) -> Any:
        CALLED.append("__new__")
        return super().__new__(cls, *args)

    def __init__(self, *args: Any) -> None:
        CALLED.append("__init__")
        super().__init__(*args)

    def __setstate__(self, state: Any) -> None:
        CALLED.append("__setstate__")

    def __setattr__(self, name: str, value: Any) -> None:
        CALLED.append(name)

    @property
    def code(self) -> int:
        return 5

    @code.setter
    def code(self, value: Any) -> None:
        CALLED.append("code")


def test_no_code_of_its_class_makes_an_exception() -> None:
    error = Active(2, "No such file", "x")
    vars(error).update(code=7, status=8)
    failure = travelled(raised(error))
    CALLED.clear()
    back = failure.exception()
    assert (type(back), back.errno, back.filename, back.status) == (Active, 2, "x", 8)  # type: ignore[attr-defined]
    assert CALLED == []


def test_a_forged_state_replaces_no_method_of_an_exception() -> None:
    state = b'{"with_traceback": 1, "add_note": 2, "__class__": 3, "code": 4}'
    back = Failure("builtins", "ValueError", "x", b'["x"]', state=state).exception()
    assert type(back) is ValueError
    assert vars(back) == {"code": 4}


class LazyModule(ModuleType):
    """A module that imports others as soon as it is looked into."""

    @property
    def __dict__(self) -> Any:  # type: ignore[override]
        raise AssertionError

    def __getattr__(self, name: str) -> Any:
        raise AssertionError


class LazyObject:
    """A stand-in for a class, which imports it as soon as it is looked at."""

    @property
    def __class__(self) -> Any:
        raise AssertionError

    def __getattr__(self, name: str) -> Any:
        raise AssertionError


def test_a_lazy_module_is_not_loaded_by_looking_for_a_class(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lazy_module", LazyModule("lazy_module"))
    monkeypatch.setitem(sys.modules, "lazy_object", LazyObject())  # type: ignore[arg-type]
    monkeypatch.setattr(sys.modules[__name__], "stand_in", LazyObject(), raising=False)
    for module, kind in (("lazy_module", "Fall"), ("lazy_object", "Fall"), (__name__, "stand_in")):
        assert isinstance(Failure(module, kind, "down", b"[]").exception(), RemoteError)


@pytest.mark.parametrize(
    "error",
    [ValueError("y" * 70_000), ValueError({"$tuple": 1}), ValueError(object)],
    ids=lambda error: repr(error)[:40],
)
def test_what_would_come_back_as_half_of_itself_comes_as_a_remote_error(error: Exception) -> None:
    back = travelled(raised(error)).exception()
    assert isinstance(back, RemoteError)
    assert back.type.endswith(type(error).__name__)


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (BrokenText("x"), "BrokenText: (the exception's __str__ failed)"),
        (FatalText("x"), "FatalText: (the exception's __str__ failed)"),
        (ValueError(object), "ValueError: <class 'object'>"),
        (ValueError("name \udcff"), "ValueError: name \\udcff"),
        (ValueError(BrokenRecord()), "ValueError: "),
        (type("Odd", (Exception,), {"__module__": "\udcff"})("x"), "\\udcff.Odd: x"),
        (type("Local", (Exception,), {"__module__": None})("x"), "None.Local: x"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else "",
)
def test_no_exception_is_too_strange_to_travel(error: Exception, text: str) -> None:
    failure = travelled(raised(error))
    back = failure.exception()
    assert isinstance(back, RemoteError)
    assert text in str(back)


class Silent(type):
    def __getattribute__(cls, name: str) -> Any:
        raise RuntimeError(name)


def test_an_exception_travels_whose_class_says_nothing_of_itself() -> None:
    class Nothing(Exception, metaclass=Silent):
        pass

    failure = travelled(raised(Exception.__new__(Nothing)))
    assert (failure.module, failure.type.rpartition(".")[2]) == (__name__, "Nothing")
    assert isinstance(failure.exception(), RemoteError)


@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt(), GeneratorExit(), asyncio.CancelledError()])
def test_what_would_end_the_reader_comes_back_as_a_remote_error(error: BaseException) -> None:
    back = raised(error).exception()
    assert isinstance(back, RemoteError)
    assert back.type.endswith(type(error).__name__)


def test_a_class_that_is_not_imported_here_is_not_imported_for_an_exception() -> None:
    failure = Failure("antigravity", "Fall", "down", b"[]")
    assert str(failure.exception()) == "antigravity.Fall: down"
    assert "antigravity" not in sys.modules


@pytest.mark.parametrize("kind", ["system", "path.join", "os", "<locals>.X"])
def test_nothing_but_an_exception_is_called_to_rebuild_one(kind: str) -> None:
    assert isinstance(Failure("os", kind, "m", b'["true"]').exception(), RemoteError)


def test_a_long_traceback_is_cut_in_the_middle() -> None:
    failure = raised(ValueError("x" * 50_000))
    assert len(failure.traceback) < TRACEBACK_LIMIT + 100
    assert len(failure.message) <= 4000


def test_the_traceback_says_where_and_why() -> None:
    try:
        try:
            raise OSError("first")
        except OSError as error:
            raise ValueError("second") from error
    except ValueError as error:
        failure = Failure.of(error)
    assert "OSError: first" in failure.traceback
    assert "test_the_traceback_says_where_and_why" in failure.traceback


@pytest.mark.parametrize(
    "error", [WorkerLost(), WorkerLost("killed by signal 9"), TaskExpired(), TaskRevoked("by hand"), WaitInTask()]
)
def test_the_errors_of_celeriac_come_back_as_themselves(error: Exception) -> None:
    outcome = Outcome.failed(Message(id="1", task="t"), error, "FAILURE", 5.0)
    back = outcome.exception()
    assert (type(back), str(back)) == (type(error), str(error))
    assert str(error)


@pytest.mark.parametrize("name", errors.__all__)
def test_an_errors_docstring_is_its_default_message(name: str) -> None:
    kind = getattr(errors, name)
    if isinstance(kind, type) and kind.__init__ is errors.CeleriacError.__init__:
        assert str(kind()) == kind.__doc__.split("\n")[0]


# --- Retries ------------------------------------------------------------------------------------------


def test_retries_are_counted_after_the_first_attempt() -> None:
    assert [RetryPolicy(max_retries=2).allows(attempt) for attempt in (1, 2, 3)] == [True, True, False]
    assert not RetryPolicy(max_retries=0).allows(1)
    assert RetryPolicy(max_retries=None).allows(10_000)


def test_the_back_off_doubles_up_to_its_bound() -> None:
    policy = RetryPolicy(backoff=2.0, backoff_max=10.0, jitter=False)
    assert [policy.delay_after(attempt) for attempt in (1, 2, 3, 4, 5000)] == [2.0, 4.0, 8.0, 10.0, 10.0]
    assert RetryPolicy(delay=7.0).delay_after(9) == 7.0


def test_jitter_draws_from_half_the_bound_up() -> None:
    policy = RetryPolicy(backoff=8.0)
    drawn = [policy.delay_after(1) for _ in range(200)]
    assert all(4.0 <= delay <= 8.0 for delay in drawn)
    assert len(set(drawn)) > 1


# --- Options ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("check", "option", "meant"),
    [(check_task, "time_limt", "time_limit"), (check_call, "coutdown", "countdown"), (check_task, "bnd", "bind")],
)
def test_an_unknown_option_is_refused_with_the_nearest_name(check: Any, option: str, meant: str) -> None:
    with pytest.raises(UnknownOption, match=f"{option}.*Did you mean '{meant}'"):
        check({option: 1})


@pytest.mark.parametrize(
    "option",
    [
        {"priority": 10}, {"priority": True}, {"priority": "high"}, {"queue": ""}, {"queue": 3}, {"max_retries": -1},
        {"max_retries": 2**63}, {"max_retries": 1.5}, {"time_limit": -1}, {"time_limit": "1"}, {"time_limit": math.nan},
        {"headers": [1]}, {"headers": {"x": len}}, {"headers": {1j: 1}},
    ],
    ids=str,
)  # fmt: skip
def test_an_option_of_the_wrong_kind_is_refused(option: dict[str, Any]) -> None:
    for check in (check_task, check_call):
        with pytest.raises((TypeError, ValueError), match=next(iter(option))):
            check(option)


@pytest.mark.parametrize(
    "option",
    [
        {"countdown": "1"}, {"countdown": math.inf}, {"eta": datetime(2026, 1, 1)}, {"eta": "tomorrow"},
        {"expires": datetime(2026, 1, 1)}, {"expires": "1"}, {"countdown": 1, "eta": datetime(2026, 1, 1, tzinfo=UTC)},
    ],
    ids=str,
)  # fmt: skip
def test_a_call_with_an_ambiguous_time_is_refused(option: dict[str, Any]) -> None:
    with pytest.raises((TypeError, ValueError)):
        check_call(option)


def test_durations_become_seconds() -> None:
    found = check_task({"time_limit": timedelta(minutes=1), "expires": timedelta(hours=1), "soft_time_limit": None})
    assert found == {"time_limit": 60.0, "expires": 3600.0, "soft_time_limit": None}


def test_exceptions_to_retry_for_may_be_one_or_many() -> None:
    assert check_task({"autoretry_for": OSError})["autoretry_for"] == (OSError,)
    assert check_task({"autoretry_for": [OSError, KeyError]})["autoretry_for"] == (OSError, KeyError)
    with pytest.raises(TypeError, match="autoretry_for must be exception classes"):
        check_task({"autoretry_for": ["OSError"]})


@pytest.mark.parametrize(
    ("limit", "expected"), [("10/s", 10.0), ("30/m", 0.5), ("36 / h", 0.01), (5, 5.0), ("2.5", 2.5)]
)
def test_a_rate_is_read(limit: Any, expected: float) -> None:
    assert rate(limit) == expected


@pytest.mark.parametrize("limit", ["", "10/y", "-1/s", "0/s", "fast", 0, math.inf])
def test_a_rate_that_is_none_is_refused(limit: Any) -> None:
    with pytest.raises(ValueError, match="rate_limit must be"):
        check_task({"rate_limit": limit})


def test_headers_are_not_arguments_and_travel_as_plain_data() -> None:
    assert check_call({"headers": {"a": (1, 2)}})["headers"] == {"a": [1, 2]}
    plain = {"a": [1, 2.5, None, True, {"b": "ü"}], "c": 2**63}
    assert check_call({"headers": plain})["headers"] == plain


@pytest.mark.parametrize(
    "value",
    [
        object(), math.nan, math.inf, datetime(2026, 1, 1, tzinfo=UTC), date(2026, 1, 1), b"x", {1}, {3: 4},
        Decimal(1), 2**70, "\ud800",
    ],
)  # fmt: skip
def test_headers_that_would_arrive_as_something_else_are_refused_with_their_place(value: Any) -> None:
    with pytest.raises(EncodeError, match="headers"):
        check_call({"headers": {"a": value}})
    with pytest.raises(EncodeError, match=r"headers (must|can)|'b'"):
        check_call({"headers": {"a": [{"b": value}]}})


@pytest.mark.parametrize("name", ["task_id", "queue"])
def test_a_name_that_cannot_be_written_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=rf"{name} must be text that can be encoded as UTF-8, not '\\ud800'"):
        check_call({name: "\ud800"})
    with pytest.raises(ValueError, match=rf"{name} must not contain a NUL character: 'a\\x00b'"):
        check_call({name: "a\0b"})


@pytest.mark.parametrize("name", ["task_id", "queue"])
def test_a_name_that_workers_would_refuse_is_refused(name: str) -> None:
    check_call({name: "x" * LONGEST_NAME})
    with pytest.raises(ValueError, match=f"{name} must have at most 1,000 characters, not 1,001"):
        check_call({name: "x" * (LONGEST_NAME + 1)})


def test_headers_that_workers_would_refuse_are_refused() -> None:
    headers: dict[str, Any] = {}
    for _ in range(DEEPEST - 1):
        headers = {"a": headers}
    check_call({"headers": headers})
    with pytest.raises(EncodeError, match="headers are nested deeper than 50 levels"):
        check_call({"headers": {"a": headers}})


def test_headers_that_contain_themselves_or_too_long_an_integer_are_refused() -> None:
    with pytest.raises(EncodeError, match="headers can hold integers of up to 64 bits"):
        check_call({"headers": {"a": [2**70]}})
    headers: dict[str, Any] = {}
    headers["a"] = headers
    with pytest.raises(EncodeError, match="headers must be plain data"):
        check_call({"headers": headers})


# --- Times, ids, names --------------------------------------------------------------------------------


def test_instants_are_aware() -> None:
    when = datetime(2026, 1, 1, 12, tzinfo=UTC)
    assert aware(instant(when)) == when
    with pytest.raises(TypeError, match="aware datetime"):
        instant(datetime(2026, 1, 1))
    with pytest.raises(TypeError, match="seconds"):
        seconds(True)


def test_ids_sort_in_their_order_though_the_clock_is_set_back_a_little(monkeypatch: pytest.MonkeyPatch) -> None:
    now = time.time_ns()
    made = []
    for second in (0, 1, -8, 0.5, -1, 2):
        monkeypatch.setattr("celeriac.model.message.time.time_ns", lambda at=second: now + int(at * 1e9))
        made += [new_id() for _ in range(100)]
    assert made == sorted(made)



def test_ids_are_unique_and_sort_by_age() -> None:
    made = [new_id() for _ in range(1000)] + new_ids(500) + [new_id() for _ in range(500)]
    assert len(set(made)) == 2000
    stamps = [id[:13] for id in made]
    assert stamps == sorted(stamps)
    assert {id[14] for id in made} == {"7"}
    assert {len(id) for id in made} == {36}


def test_the_counter_in_ids_runs_over_and_on(monkeypatch: pytest.MonkeyPatch) -> None:
    for start in (0x3FFD, 0x3FFFFFD, 0x4000000 - 0x4000 - 3):  # the low bits run over; and all of them
        monkeypatch.setattr("celeriac.model.message._counter", count(start))
        made = new_ids(6)
        counted = [int(id[15:18], 16) << 14 | int(id[19:23], 16) & 0x3FFF for id in made]
        assert counted == [(start + number) % 0x4000000 for number in range(6)]
        assert {id[19] for id in made} <= set("89ab")


def test_forked_processes_make_other_ids() -> None:
    new_id()  # so that there is something prepared for a child to inherit
    reading, writing = os.pipe()
    for _ in range(4):
        if not os.fork():
            os.write(writing, "".join(new_id() + "\n" for _ in range(50)).encode())
            os._exit(0)
    for _ in range(4):
        os.wait()
    os.close(writing)
    with os.fdopen(reading) as lines:
        ids = lines.read().split()
    assert len(ids) == 200
    assert len({id[:23] for id in ids}) == 200, "the time and the counter alone tell them apart"


def test_a_name_that_resembles_nothing_is_not_guessed() -> None:
    assert nearest("zzz", ["mail"]) == ""


# --- Signals ------------------------------------------------------------------------------------------


def test_a_signal_is_sent_to_those_who_connected_for_its_sender() -> None:
    signal, heard, me = Signal("s", "x"), [], object()
    assert not signal
    signal.connect(lambda sender, **more: heard.append(("all", more["x"])))
    only = signal.connect(lambda sender, **more: heard.append(("only", more["x"])), sender=me)
    signal.send("another", x=1)
    signal.send(me, x=2)
    signal.disconnect(only)
    signal.send(me, x=3)
    assert heard == [("all", 1), ("all", 2), ("only", 2), ("all", 3)]
    assert "1 receivers" in repr(signal)


def test_a_receiver_cannot_end_the_sending_process_but_ctrl_c_can() -> None:
    signal = Signal("s", "x")
    signal.connect(lambda sender, **more: sys.exit(more["x"]))
    signal.send(None, x=3)

    def interrupted(sender: Any, **more: Any) -> None:
        raise KeyboardInterrupt

    signal.connect(interrupted)
    with pytest.raises(KeyboardInterrupt):
        signal.send(None, x=3)


def test_a_receiver_that_raises_is_logged_and_the_others_are_called(caplog: pytest.LogCaptureFixture) -> None:
    signal, heard = Signal("s", "x"), []

    def broken(sender: Any, **more: Any) -> None:
        raise ZeroDivisionError

    signal.connect(broken)
    signal.connect(lambda sender, **more: heard.append(more))
    with caplog.at_level(logging.ERROR):
        signal.send(None, x=1)
    assert heard == [{"x": 1, "signal": signal}]
    assert "A receiver of the signal s failed" in caplog.text
    with pytest.raises(TypeError):
        signal.connect("no function")  # type: ignore[type-var]
