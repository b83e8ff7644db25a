"""Arguments: checked at the call, rebuilt to their annotations in the child."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

import msgspec
import pydantic
import pytest

from celeriac import Celeriac, Task
from celeriac.errors import ArgumentsError, DecodeError


@dataclass
class Line:
    name: str
    price: Decimal


@dataclass
class Order:
    id: UUID
    lines: list[Line]
    at: datetime
    tags: set[str]
    after: timedelta | None = None


class Point(msgspec.Struct, tag=True):
    x: int
    y: int


class Person(pydantic.BaseModel):
    name: str
    age: int
    born: datetime | None = None


ORDER = Order(UUID(int=5), [Line("a", Decimal("1.10"))], datetime(2026, 1, 1, tzinfo=UTC), {"x"}, timedelta(1))


def task_of(app: Celeriac, function: Any, **options: Any) -> Task[Any, Any]:
    made: Task[Any, Any] = app.task(name="t", **options)(function)
    return made


@pytest.mark.parametrize(
    ("args", "kwargs"),
    [((), {}), ((1,), {}), ((1, 2, 3), {}), ((1, 2), {"y": 3}), ((1,), {"z": 2}), ((1, 2), {"nope": 1})],
)
def test_a_call_that_the_function_would_refuse_is_refused_at_once(app: Celeriac, args: Any, kwargs: Any) -> None:
    def add(x: int, y: int) -> int:
        return x + y

    task = task_of(app, add)
    for call in (task.delay, lambda *a, **k: task.apply_async(a, k), lambda *a, **k: task.s(*a, **k).apply_async()):
        with pytest.raises(ArgumentsError, match=r"t\(x.*, y.*\).* cannot be called so"):
            call(*args, **kwargs)


@pytest.mark.parametrize(
    ("args", "kwargs"),
    [((1,), {"k": 1}), ((1, 2), {"k": 1}), ((1, 2, 3, 4), {"k": 1, "more": 2}), ((), {"x": 1, "k": 2})],
)
def test_a_call_that_the_function_takes_is_let_through(app: Celeriac, args: Any, kwargs: Any) -> None:
    def take(x: int, y: int = 0, *rest: int, k: int, **more: int) -> None: ...

    task_of(app, take).arguments.check(args, kwargs)
    with pytest.raises(ArgumentsError):
        task_of(app, take).arguments.check(args, {})


def test_positional_only_arguments_are_checked(app: Celeriac) -> None:
    def take(x: int, /, y: int = 1) -> None: ...

    arguments = task_of(app, take).arguments
    arguments.check((1,), {"y": 2})
    with pytest.raises(ArgumentsError):
        arguments.check((), {"x": 1})


def test_arguments_are_not_checked_where_the_task_says_so(app: Celeriac) -> None:
    task = task_of(app, lambda x: x, typing=False)
    assert task.delay(1, 2, 3).id


def test_a_bound_task_is_called_without_its_self(app: Celeriac) -> None:
    def add(self: Any, x: int) -> int:
        return x + self.request.retries

    task = task_of(app, add, bind=True)
    assert task.apply((1,)).get() == 1
    with pytest.raises(ArgumentsError, match=r"t\(x"):
        task.delay()
    with pytest.raises(ArgumentsError, match="takes no `self`"):
        app.task(name="none", bind=True)(lambda: 1)


@pytest.mark.parametrize(
    ("hint", "value"),
    [
        (Order, ORDER), (Point, Point(1, 2)), (Person, Person(name="a", age=3)), (list[Order], [ORDER]),
        (dict[str, Person], {"k": Person(name="b", age=1)}), (Point | None, Point(3, 4)), (Point | None, None),
        (tuple[Line, ...], (Line("a", Decimal(1)),)), (list[Person], [Person(name="c", age=2)]),
    ],
    ids=str,
)  # fmt: skip
def test_records_are_rebuilt_to_their_annotations_on_both_ways(app: Celeriac, hint: Any, value: Any) -> None:
    def echo(x: Any, *rest: Any, k: Any = None) -> Any:
        assert x == value
        assert type(x) is type(value)
        assert k is None or k == value
        return x

    echo.__annotations__ = {"x": hint, "k": hint, "return": hint}
    task = task_of(app, echo)
    assert task.apply((value,), {"k": value}).get() == value
    assert task.apply((value, 1, 2)).get() == value


def test_unannotated_records_arrive_as_plain_data(app: Celeriac) -> None:
    task = task_of(app, lambda x: x)
    assert task.apply((Point(1, 2),)).get() == {"type": "Point", "x": 1, "y": 2}


@pytest.mark.parametrize(("hint", "value"), [(Order, {"id": 3}), (Person, {"name": "x", "age": "old"}), (Point, 3)])
def test_an_argument_that_cannot_be_rebuilt_fails_the_task_with_its_name(app: Celeriac, hint: Any, value: Any) -> None:
    def take(person: Any) -> None:
        raise AssertionError

    take.__annotations__ = {"person": hint}
    with pytest.raises(DecodeError, match=re.escape("The argument 'person' of t cannot be rebuilt")):
        task_of(app, take).apply((value,)).get()


def test_annotations_that_exist_for_a_type_checker_alone_do_no_harm(app: Celeriac) -> None:
    def take(x: Any) -> Any:
        return x

    take.__annotations__ = {"x": "NotImported"}
    assert task_of(app, take).apply((1,)).get() == 1
