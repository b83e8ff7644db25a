"""Arguments: checked at the call, rebuilt to their annotations in the child."""

from __future__ import annotations

import enum
import re
from collections import namedtuple
from collections.abc import Callable, Hashable, Iterable, Iterator
from dataclasses import InitVar, dataclass, field
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, NotRequired, Protocol, TypedDict, TypeVar
from uuid import UUID

import msgspec
import pydantic
import pytest

from celeriac import Celeriac, Task
from celeriac.errors import ArgumentsError, DecodeError

if TYPE_CHECKING:
    from elsewhere import Session  # type: ignore[import-not-found]

T = TypeVar("T")


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


@dataclass
class Scaled:
    value: int
    scale: InitVar[int] = 1
    note: str = ""
    made: list[Line] = field(init=False, default_factory=list)

    def __post_init__(self, scale: int) -> None:
        self.value *= scale


@dataclass
class Box(Generic[T]):
    item: T


@dataclass
class Attachment:
    path: Path
    sender: Person


class Renamed(msgspec.Struct, rename="camel"):
    first_name: str
    point: Point | msgspec.UnsetType = msgspec.UNSET


class Row(msgspec.Struct, array_like=True):
    id: int
    of: Renamed


class TaggedRow(msgspec.Struct, array_like=True, tag=True):
    id: int


class Colour(enum.Enum):
    RED = "red"


class Corner(enum.Enum):
    TOP = (0, (1, 2))
    LOW = (1, (0, 0))


class Mixed(enum.Enum):
    ONE = 1
    HALF = 0.5
    NONE = None


class Rights(enum.Flag):
    READ = 1
    WRITE = 2


class Bits(enum.IntFlag):
    A = 1
    B = 2


class Level(enum.IntEnum):
    LOW = 1


class Mode(enum.StrEnum):
    FAST = "fast"


class Town(NamedTuple):
    name: str
    at: tuple[float, float]
    colour: Colour = Colour.RED


class Key(str):
    __slots__ = ()


Pair = namedtuple("Pair", "x y")


class Trip(TypedDict):
    towns: list[Town]
    paid: NotRequired[Line]
    by: Person
    colours: dict[Colour, set[Level]]


class Branch(TypedDict):
    pair: tuple[int, int]
    inner: list[Branch]


class Sized(Protocol):
    def size(self) -> int: ...


@dataclass
class Painted:
    colour: Colour
    rights: Rights
    town: Town | None = None


class Aliased(pydantic.BaseModel):
    id: int = pydantic.Field(alias="theId")


class Guarded(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="forbid")
    id: int
    secret: str = pydantic.Field(default="", exclude=True)

    @pydantic.computed_field  # type: ignore[prop-decorator]
    @property
    def double(self) -> int:
        return self.id * 2


class Strict(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(strict=True)
    colour: Colour
    pair: tuple[int, int]
    many: set[int]
    at: datetime


class Site(pydantic.BaseModel):
    url: pydantic.HttpUrl
    path: Path


class Hidden(pydantic.BaseModel):
    secret: str = pydantic.Field(exclude=True)


class Numbers(pydantic.RootModel[list[int]]):
    pass


class Names(pydantic.RootModel[dict[str, Person]]):
    pass


@pydantic.dataclasses.dataclass
class Dated:
    id: int
    on: date


STRICT = Strict(colour=Colour.RED, pair=(1, 2), many={3}, at=datetime(2026, 1, 1, tzinfo=UTC))
PERSON = Person(name="c", age=2)
D = Decimal("1.10")
TOWN = Town("Ulm", (48.4, 10.0))
BRANCH: Branch = {"pair": (3, 4), "inner": []}
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
        with pytest.raises(ArgumentsError, match=r"do not fit t\(x.*, y.*\).*: "):
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


def test_arguments_are_not_checked_if_the_task_turns_that_off(app: Celeriac) -> None:
    task = task_of(app, lambda x: x, typing=False)
    assert task.delay(1, 2, 3).id


def test_a_bound_task_is_called_without_its_self(app: Celeriac) -> None:
    def add(self: Any, x: int) -> int:
        return x + self.request.retries

    task = task_of(app, add, bind=True)
    assert task.apply((1,)).get() == 1
    with pytest.raises(ArgumentsError, match=r"t\(x"):
        task.delay()
    with pytest.raises(ArgumentsError, match="add `self`"):
        app.task(name="none", bind=True)(lambda: 1)


@pytest.mark.parametrize(
    ("hint", "value"),
    [
        (Order, ORDER), (Point, Point(1, 2)), (Person, Person(name="a", age=3)), (list[Order], [ORDER]),
        (dict[str, Person], {"k": Person(name="b", age=1)}), (Point | None, Point(3, 4)), (Point | None, None),
        (tuple[Line, ...], (Line("a", Decimal(1)),)), (list[Person], [Person(name="c", age=2)]),
        (Iterable[Line], [Line("a", Decimal(1))]), (Iterable[Person], [Person(name="c", age=2)]),
        (Scaled, Scaled(2, 3)), (list[Scaled], [Scaled(2)]), (Box[int], Box(1)), (Box[Line], Box(ORDER.lines[0])),
        (Renamed, Renamed("a")), (Renamed, Renamed("a", Point(1, 2))), (Row, Row(1, Renamed("a"))),
        (TaggedRow, TaggedRow(1)), (Path, Path("/x")), (dict[str, Path], {"a": Path("/x")}),
        (Attachment, Attachment(Path("/x"), Person(name="c", age=2))),
        (Person | str, Person(name="c", age=2)), (Person | str, "c"), (Person | Line, Line("a", Decimal(1))),
        (Person | Guarded, Guarded(id=1)), (Person | list[Person], [Person(name="c", age=2)]),
        (Aliased, Aliased(theId=3)), (Guarded, Guarded(id=1)), (Strict, STRICT), (list[Strict], [STRICT]),
        (Site, Site(url="https://x.y/", path=Path("/x"))), (Numbers, Numbers([1])),  # type: ignore[arg-type]
        (Names, Names({"c": Person(name="c", age=2)})), (Dated, Dated(1, date(2026, 1, 1))),
        (Colour, Colour.RED), (Colour | None, None), (list[Colour], [Colour.RED]), (Level, Level.LOW),
        (Mode, Mode.FAST), (dict[Colour, Level], {Colour.RED: Level.LOW}), (set[Colour], {Colour.RED}),
        (Mixed, Mixed.HALF), (Mixed, Mixed.NONE), (Corner, Corner.LOW), (list[Corner], [Corner.TOP]),
        (Rights, Rights.READ | Rights.WRITE),
        (Bits, Bits.A | Bits.B), (Bits, Bits(0)), (tuple, (1, "a")), (tuple[int, str], (1, "a")),
        (tuple[()], ()), (tuple[tuple[int, ...], ...], ((1, 2), ())),
        (list[tuple[datetime, Decimal]], [(STRICT.at, D)]),
        (dict[tuple[int, int], tuple[int, int]], {(1, 2): (3, 4)}), (frozenset[tuple[int, int]], frozenset({(1, 2)})),
        (tuple[int, int] | None, (1, 2)), (tuple[Key, Any], (Key("a"), 1)), (tuple[Hashable, ...], (1, "a")),
        (tuple[Sized, int], ("a", 1)), (Town, TOWN), (list[Town], [TOWN]), (Pair, Pair(1, [2])),
        (Trip, {"towns": [TOWN], "paid": Line("a", D), "by": PERSON, "colours": {Colour.RED: {Level.LOW}}}),
        (Trip, {"towns": [], "by": PERSON, "colours": {}}), (Branch, {"pair": (1, 2), "inner": [BRANCH]}),
        (Painted, Painted(Colour.RED, Rights.WRITE, TOWN)), (tuple[Line, Colour], (Line("a", D), Colour.RED)),
        (tuple[Person, Colour], (PERSON, Colour.RED)), (Person | tuple[int, int], (1, 2)),
        (list[Dated], [Dated(1, date(2026, 1, 1))]), (pydantic.HttpUrl, pydantic.HttpUrl("https://x.y/")),
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


@pytest.mark.parametrize(("hint", "value"), [(Order, {"id": 3}), (Person, {"name": "x", "age": "old"}), (Point, 3),
                                              (Colour, "blue"), (tuple[int, int], [1]), (Rights, 8), (Corner, [3])])
def test_an_argument_that_cannot_be_rebuilt_fails_the_task_with_its_name(app: Celeriac, hint: Any, value: Any) -> None:
    def take(person: Any) -> None:
        raise AssertionError

    take.__annotations__ = {"person": hint}
    with pytest.raises(DecodeError, match=re.escape("The argument 'person' of t cannot be rebuilt")):
        task_of(app, take).apply((value,)).get()


def test_an_argument_that_could_never_be_rebuilt_is_refused_at_the_first_call(app: Celeriac) -> None:
    def either(x: Line | Order) -> None: ...
    def deep(x: list[Box[Line | Order]]) -> None: ...
    def hidden(x: Hidden) -> None: ...

    for function, reason in ((either, "more than one dataclass"), (deep, "more than one"), (hidden, "a default")):
        with pytest.raises(ArgumentsError, match=rf"The argument 'x' of .* cannot be rebuilt .*{reason}"):
            app.task(function).delay(1)


def test_an_argument_that_could_never_be_rebuilt_may_be_left_out(app: Celeriac) -> None:
    def take(x: Line | Order | None = None, make: Callable[[], Line] | None = None) -> bool:
        return x is None and make is None

    task = task_of(app, take)
    assert task.apply().get() is True
    with pytest.raises(DecodeError, match=r"The argument 'x' of t cannot be rebuilt: .*more than one dataclass"):
        task.apply(({},)).get()


def test_none_is_taken_where_it_is_the_default(app: Celeriac) -> None:
    def take(x: Line = None) -> bool:  # type: ignore[assignment]
        return x is None

    assert task_of(app, take).apply((None,)).get() is True


@pytest.mark.parametrize(
    ("hint", "value", "found"),
    [
        (Line | Order, Line("a", Decimal(1)), {"name": "a", "price": Decimal(1)}), (Order, None, None),
        (Person, None, None), (Order, {"id": 3}, {"id": 3}), (Person, [1], [1]), (Hidden, {}, {}),
        (Iterator[Line], [Line("a", Decimal(1))], [{"name": "a", "price": Decimal(1)}]), (Point | Person, 3, 3),
        (Colour, "blue", "blue"), (tuple[int, int], (1, 2, 3), [1, 2, 3]), (Trip, {"by": PERSON}, {"by": vars(PERSON)}),
    ],
    ids=str,
)  # fmt: skip
def test_a_result_that_does_not_fit_its_annotation_is_plain_data(
    app: Celeriac, hint: Any, value: Any, found: Any
) -> None:
    def give() -> Any:
        return value

    give.__annotations__ = {"return": hint}
    assert task_of(app, give).apply().get() == found


def test_what_a_model_excludes_does_not_travel(app: Celeriac) -> None:
    def take(x: Guarded) -> str:
        return x.secret

    assert task_of(app, take).apply((Guarded(id=1, secret="s"),)).get() == ""


def test_a_model_is_taken_by_its_aliases_too(app: Celeriac) -> None:
    def take(x: Aliased) -> int:
        return x.id

    assert task_of(app, take).apply(({"theId": 3},)).get() == 3


def test_what_a_strict_model_refuses_is_refused(app: Celeriac) -> None:
    def take(x: Strict) -> None: ...

    with pytest.raises(DecodeError, match="valid integer"):
        task_of(app, take).apply(({"colour": "red", "pair": ["1", 2], "many": [], "at": STRICT.at},)).get()


def test_a_path_that_may_be_text_is_text(app: Celeriac) -> None:
    def take(path: str | Path) -> str | Path:
        return path

    assert task_of(app, take).apply((Path("/x"),)).get() == "/x"


@pytest.mark.parametrize(
    ("hint", "value", "found"),
    [
        (str | Mode, Mode.FAST, "fast"), (list[int] | tuple[int, ...], (1, 2), [1, 2]), (Any, Colour.RED, "red"),
        (dict[str, Any], TOWN._asdict(), {"name": "Ulm", "at": [48.4, 10.0], "colour": "red"}),
    ],
    ids=str,
)  # fmt: skip
def test_what_json_cannot_tell_apart_stays_plain_data(app: Celeriac, hint: Any, value: Any, found: Any) -> None:
    def echo(x: Any) -> Any:
        assert x == found
        return x

    echo.__annotations__ = {"x": hint, "return": hint}
    assert task_of(app, echo).apply((value,)).get() == found


def test_variable_arguments_of_plain_types_are_not_checked(app: Celeriac) -> None:
    def take(*numbers: int) -> list[int]:
        return list(numbers)

    assert task_of(app, take).apply((1, True, "x")).get() == [1, True, "x"]


def test_variable_arguments_are_rebuilt_each(app: Celeriac) -> None:
    def take(*lines: Line, **more: Line) -> list[bool]:
        return [isinstance(line, Line) for line in (*lines, *more.values())]

    a = Line("a", Decimal(1))
    assert task_of(app, take).apply((a, a), {"k": a}).get() == [True] * 3


def test_an_object_that_can_be_called_has_no_annotations(app: Celeriac) -> None:
    class Take:
        __name__ = __qualname__ = "take"

        def __call__(self, x: Line) -> Line:
            return x

    assert task_of(app, Take()).apply((1,)).get() == 1


def test_one_name_for_a_type_checker_alone_leaves_the_others_to_be_rebuilt(app: Celeriac) -> None:
    def take(line: Line, session: Session | None = None, *more: Line) -> Line:
        assert isinstance(line, Line)
        assert isinstance(more[0], Line)
        return line

    a = Line("a", Decimal(1))
    assert task_of(app, take).apply((a, None, a)).get() == a


def test_annotations_that_exist_for_a_type_checker_alone_do_no_harm(app: Celeriac) -> None:
    def take(x: Any) -> Any:
        return x

    take.__annotations__ = {"x": "NotImported"}
    assert task_of(app, take).apply((1,)).get() == 1
