"""Values to bytes and back."""

from __future__ import annotations

import enum
import math
import pickle
from collections import namedtuple
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID

import msgspec
import pydantic
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from celeriac.errors import DecodeError, EncodeError, ImproperlyConfigured
from celeriac.model import serialization
from celeriac.model.serialization import (
    _LIFTINGS,
    decode,
    dumps,
    dumps_call,
    dumps_calls,
    loads,
    prepend,
    register_serializer,
    serializer,
)

text = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
zones = st.sampled_from([UTC, timezone(timedelta(hours=5, minutes=30)), None])
hashables = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | text | st.binary(max_size=8) | st.uuids()
    | st.decimals(allow_nan=False) | st.datetimes(timezones=zones) | st.dates() | st.times() | st.timedeltas(),
    lambda inner: st.lists(inner, max_size=3).map(tuple) | st.frozensets(inner, max_size=3),
    max_leaves=5,
)  # fmt: skip
scalars = hashables.filter(lambda value: not isinstance(value, tuple))
keys = st.sampled_from(["$uuid", "$dict", "$", "$set", "plain", ""]) | hashables
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(keys, inner, max_size=4)
    | st.sets(hashables, max_size=3),
    max_leaves=12,
)  # fmt: skip


@settings(max_examples=150)
@given(values)
def test_what_is_dumped_is_loaded_as_it_was(value: Any) -> None:
    loaded = loads(dumps(value))
    assert loaded == value
    assert type(loaded) is type(value)


@settings(max_examples=60)
@given(st.lists(values, max_size=3), st.dictionaries(text, values, max_size=3))
def test_a_calls_body_is_its_arguments(args: list[Any], kwargs: dict[str, Any]) -> None:
    assert loads(dumps_call(tuple(args), kwargs)) == [args, kwargs]


plain = text | st.integers(-(2**63), 2**63) | st.booleans() | st.none()
calls = st.tuples(st.lists(values, max_size=3).map(tuple), st.dictionaries(text, values, max_size=2))
plain_calls = st.tuples(st.lists(plain, max_size=3).map(tuple), st.just({}))


@settings(max_examples=60)
@given(st.lists(plain_calls, max_size=5) | st.lists(calls | plain_calls, max_size=5))
def test_many_calls_have_the_bodies_of_each(calls: list[tuple[tuple[Any, ...], dict[str, Any]]]) -> None:
    assert dumps_calls(calls) == [dumps_call(args, kwargs) for args, kwargs in calls]


def test_of_many_calls_the_one_that_cannot_be_serialised_is_named() -> None:
    with pytest.raises(EncodeError, match=r"udcff"):
        dumps_calls([((1,), {}), (("a\nb",), {}), (("\udcff",), {})])


@settings(max_examples=60)
@given(values, st.lists(values, max_size=3))
def test_a_value_is_put_before_the_arguments_of_a_body(value: Any, args: list[Any]) -> None:
    assert loads(prepend(dumps(value), dumps_call(tuple(args), {"k": 1}))) == [[value, *args], {"k": 1}]


@settings(max_examples=150)
@given(
    st.binary(max_size=40) | st.sampled_from([b'{"$uuid":"x"}', b'{"$set":[[{}]]}', b'{"$dict":3}', b'{"$bytes":1}'])
)
def test_bytes_that_are_not_ours_are_a_decode_error_or_a_value(data: bytes) -> None:
    try:
        value = loads(data)
    except DecodeError:
        return
    assert loads(dumps(value)) == value


@pytest.mark.parametrize("tag", _LIFTINGS)
@pytest.mark.parametrize("junk", [b"5", b"-1.5", b"null", b"true", b'"x"', b"[1]", b"[[1]]", b"[[1,2,3]]", b"{}"])
def test_a_tag_with_a_value_of_another_type_is_a_decode_error_or_a_value(tag: str, junk: bytes) -> None:
    data = b'[{"%b":%b}]' % (tag.encode(), junk)
    try:
        value = loads(data)
    except DecodeError:
        return
    assert loads(dumps(value)) == value


@pytest.mark.parametrize("value", [2**63, 2**64, -(2**64), 10**100])
def test_integers_have_no_limit(value: int) -> None:
    assert loads(dumps([value, {"a": value}, {value}, {value: 1}])) == [value, {"a": value}, {value}, {value: 1}]
    assert loads(dumps_call((value,), {"a": value})) == [[value], {"a": value}]
    assert list(map(loads, dumps_calls([((value,), {}), ((1,), {})]))) == [[[value], {}], [[1], {}]]


def test_subclasses_of_float_are_numbers() -> None:
    class Metres(float):
        def __repr__(self) -> str:
            return f"{float(self)} m"

    assert loads(dumps([Metres(1.5), {"a": Metres(2)}, {Metres(3)}])) == [1.5, {"a": 2.0}, {3.0}]
    assert loads(dumps([Metres("inf"), -Metres("inf")])) == [math.inf, -math.inf]
    assert math.isnan(loads(dumps(Metres("nan"))))


@pytest.mark.parametrize("value", [math.inf, -math.inf])
def test_infinity_is_a_number(value: float) -> None:
    assert loads(dumps([value, {"a": value}])) == [value, {"a": value}]


def test_nan_is_nan() -> None:
    assert math.isnan(loads(dumps(math.nan)))
    assert loads(dumps(Decimal("NaN"))).is_nan()


def test_tuples_come_back_as_lists_and_enums_as_values() -> None:
    class Colour(enum.Enum):
        RED = "red"

    Point = namedtuple("Point", "x y")
    assert loads(dumps(((1, 2), Point(3, 4), Colour.RED, enum.IntEnum("N", "A").A))) == [[1, 2], [3, 4], "red", 1]


def test_records_travel_as_plain_objects() -> None:
    @dataclass
    class Data:
        when: date

    class Struct(msgspec.Struct):
        ids: set[int]

    class Model(pydantic.BaseModel):
        price: Decimal

    found = loads(dumps([Data(date(2026, 1, 1)), Struct({1}), Model(price=Decimal("1.10"))]))
    assert found == [{"when": date(2026, 1, 1)}, {"ids": {1}}, {"price": Decimal("1.10")}]


SETS: dict[str, list[Any]] = {
    "texts": [f"x{number:02}" for number in range(30)],
    "numbers": [-5_000_000_000_000, *range(30), 2**70],
    "several kinds": [1, "a", None, 2.5, True, date(2026, 1, 2), (1, "b"), math.inf, UUID(int=7)][2:],
    "sets": [frozenset({f"x{number}", f"y{number}"}) for number in range(30)],
}


@pytest.mark.parametrize("members", SETS.values(), ids=SETS)
@pytest.mark.parametrize("kind", [set, frozenset])
def test_equal_sets_are_equal_bytes(members: list[Any], kind: Any) -> None:
    """The order of a set's members differs between processes, and what is declared in each must be the same."""
    class Pretended(kind):  # type: ignore[misc]
        def __iter__(self) -> Any:
            return reversed(members)

    one, other = dumps(kind(members)), dumps(Pretended(members))
    assert one == other
    assert loads(one) == kind(members)


def test_paths_and_urls_travel_as_text() -> None:
    assert loads(dumps([Path("/x"), {"a": pydantic.HttpUrl("https://x.y/")}])) == ["/x", {"a": "https://x.y/"}]


def test_records_travel_as_they_are_written() -> None:
    class Struct(msgspec.Struct, rename="camel", tag="s"):
        first_name: str
        unset: int | msgspec.UnsetType = msgspec.UNSET

    class Row(msgspec.Struct, array_like=True, tag="r"):
        ids: set[int]

    assert loads(dumps([Struct("a"), Row({1}), pydantic.RootModel[list[int]]([1])])) == [
        {"type": "s", "firstName": "a"}, ["r", {1}], [1],
    ]  # fmt: skip


def test_the_error_names_the_part_of_a_row() -> None:
    class Row(msgspec.Struct, array_like=True, frozen=True):
        part: Any

    with pytest.raises(EncodeError, match=r"builtins\.object at \['a'\]\[0\]"):
        dumps({"a": Row(object())})
    with pytest.raises(EncodeError, match="as a dict key or in a set"):
        dumps({Row(1)})


def test_subclasses_of_plain_types_come_back_plain() -> None:
    class Text(str):
        pass

    class Number(int):
        pass

    class Span(timedelta):
        pass

    assert loads(dumps([Text("a"), Number(3), {Text("k"): True}, Span(1)])) == ["a", 3, {"k": True}, timedelta(1)]
    assert loads(dumps([time(1, 2), bytearray(b"x")])) == [time(1, 2), b"x"]


def test_the_error_names_the_part_that_cannot_be_serialised() -> None:
    @dataclass
    class Order:
        lines: list[Any]

    with pytest.raises(EncodeError, match=r"^The value cannot .* \(builtins\.object at \['a'\]\[1\]\.lines\[0\]\)\. P"):
        dumps({"a": [0, Order([object()])]})


@pytest.mark.parametrize("value", [object(), len, int, {object(): 1}, {1: object()}, [print], "\udcff", {"\udcff": 1}])
def test_what_cannot_be_serialised_is_refused_with_the_next_step(value: Any) -> None:
    with pytest.raises(EncodeError, match=r"Pass plain data"):
        dumps(value)
    with pytest.raises(EncodeError, match=r"Pass plain data"):
        dumps_call((value,), {})


def test_a_record_that_could_not_be_a_key_again_is_refused() -> None:
    @dataclass(frozen=True)
    class Point:
        x: int

    for value in ({Point(1)}, {Point(1): 2}, {(1, Point(1))}):
        with pytest.raises(EncodeError, match="as a dict key or in a set"):
            dumps(value)


def test_a_value_that_contains_itself_is_refused() -> None:
    value: list[Any] = []
    value.append(value)
    with pytest.raises(EncodeError, match="contains itself"):
        dumps(value)


def test_pickle_is_refused_unless_it_is_accepted() -> None:
    data = serializer("pickle").dumps({"a": UUID(int=1)})
    with pytest.raises(DecodeError, match="accept_content"):
        decode("application/x-python-pickle", data, ["json"])
    assert decode("application/x-python-pickle", data, ["pickle"]) == {"a": UUID(int=1)}


def test_a_pickle_that_cannot_be_read_is_a_decode_error() -> None:
    for data in (b"junk", pickle.dumps(datetime.now(UTC))[:-3]):
        with pytest.raises(DecodeError, match="Cannot unpickle"):
            decode("application/x-python-pickle", data, ["pickle"])
    with pytest.raises(EncodeError, match="Cannot pickle"):
        serializer("pickle").dumps(lambda: 1)


def test_an_unknown_content_type_and_an_unknown_name_are_refused() -> None:
    with pytest.raises(DecodeError, match="application/x-yaml"):
        decode("application/x-yaml", b"", ["json"])
    with pytest.raises(ImproperlyConfigured, match="Did you mean 'json'"):
        serializer("jsno")


def test_a_serializer_of_ones_own_is_used_by_name_and_content_type(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serialization, "_by_name", dict(serialization._by_name))
    monkeypatch.setattr(serialization, "_by_content_type", dict(serialization._by_content_type))
    register_serializer("repr", "text/x-repr", lambda value: repr(value).encode(), lambda data: data.decode())
    assert decode("text/x-repr", serializer("repr").dumps([1]), ["repr"]) == "[1]"
