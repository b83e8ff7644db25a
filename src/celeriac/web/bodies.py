"""Bodies and queries: read within limits, decoded, and turned into the Struct that an endpoint takes.

Whatever is wrong becomes a `Problem` that names the place: a JSON pointer for a body, the parameter for a query.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterable, Iterator
from functools import cache
from typing import Any, Final, TypeVar, get_args, get_type_hints

import msgspec
from starlette.requests import Request

from celeriac.errors import nearest
from celeriac.model.gate import Unreadable, check_nesting
from celeriac.web.problems import Problem

__all__ = ["JSON", "NDJSON", "content_type", "converted", "decoded", "query_of", "read_body", "read_lines"]

T = TypeVar("T")
Query = TypeVar("Query", bound=msgspec.Struct)

JSON: Final = "application/json"
NDJSON: Final = "application/x-ndjson"
UNKNOWN_FIELD: Final = re.compile(r"unknown field `(.*?)`")
PLACE: Final = re.compile(r"^(.*?)(?: - at `(.*)`)?$", re.DOTALL)
STEP: Final = re.compile(r"\.([^.\[\]]+)|\[(\d+|\.\.\.)\]")


def content_type(request: Request) -> str:
    """Return the media type of the body, without parameters."""
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


async def read_body(request: Request, limit: int, seconds: float) -> bytes:
    """Return the body. Refuses one that is too large, before all of it is read, or that takes too long."""
    declared = request.headers.get("content-length", "")
    if declared.isdecimal() and (len(declared) > 18 or int(declared) > limit):
        raise _too_large(limit)
    parts: list[bytes] = []
    size = 0
    try:
        async with asyncio.timeout(seconds):
            async for part in request.stream():
                size += len(part)
                if size > limit:
                    raise _too_large(limit)
                parts.append(part)
    except TimeoutError:
        raise Problem("too-slow", f"The body did not arrive within {seconds:g} s.",
                      headers={"Connection": "close"}) from None  # fmt: skip
    return b"".join(parts)


def _too_large(limit: int) -> Problem:
    return Problem("too-large", f"The body is larger than {limit:,} bytes. Store the data where the task can read it, "
                   "and send its path or key.", limit=limit, headers={"Connection": "close"})  # fmt: skip


def decoded(data: bytes, where: str = "The body") -> Any:
    """Return plain data from JSON."""
    try:
        value = msgspec.json.decode(data)
        check_nesting([value], "values")
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise Problem("bad-json", f"{where} is not JSON: {error}.") from None
    except (RecursionError, Unreadable):
        raise Problem("bad-json", f"{where} is nested too deeply.") from None
    return value


def read_lines(data: bytes, limit: int) -> list[Any]:
    """Return plain data from lines of JSON; empty lines are left out."""
    lines = [(number, line) for number, line in enumerate(data.split(b"\n"), 1) if line.strip()]
    if len(lines) > limit:
        raise Problem("too-large", f"There are {len(lines):,} lines, and {limit:,} are the most.", limit=limit)
    return [decoded(line, f"Line {number}") for number, line in lines]


def converted(value: Any, kind: type[T], before: str = "") -> T:
    """Return the Struct of plain data. `before` is the pointer to that data."""
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        text, place = _place(str(error))
        unknown = UNKNOWN_FIELD.search(text)
        if unknown is not None:
            place = f"{place}/{_escaped(unknown[1])}"
            known = sorted(_field_names(kind))
            text = f"There is no field {unknown[1]!r}.{nearest(unknown[1], known)}"
            meant = nearest(unknown[1], known).partition("'")[2].rpartition("'")[0] or None
        else:
            text, meant = f"{text}.", None
        pointer = before + place
        raise Problem("bad-body", f"{pointer or 'The body'}: {text}", errors=[{"pointer": pointer, "detail": text}],
                      nearest=meant) from None  # fmt: skip


def query_of(request: Request, kind: type[Query]) -> Query:
    """Return the Struct of the parameters of a query."""
    given: dict[str, str] = {}
    names = _names(kind)
    for name, value in request.query_params.multi_items():
        if name not in names:
            raise Problem("bad-query", f"There is no parameter {name!r}.{nearest(name, names)}"
                          + (f" This address takes {', '.join(names)}." if names else ""), parameter=name)  # fmt: skip
        if name in given:
            raise Problem("bad-query", f"The parameter {name} is given twice.", parameter=name)
        given[name] = value
    try:
        return msgspec.convert(given, kind, strict=False)
    except msgspec.ValidationError as error:
        text, place = _place(str(error))
        name = place.removeprefix("/") or next(iter(set(names) - given.keys()), "")
        raise Problem("bad-query", f"{name}: {text}.", parameter=name) from None


@cache
def _names(kind: type[msgspec.Struct]) -> tuple[str, ...]:
    return tuple(field.encode_name for field in msgspec.structs.fields(kind))


def _place(text: str) -> tuple[str, str]:
    """Return msgspec's message, and the JSON pointer of the place that it names."""
    match = PLACE.match(text)
    assert match is not None
    steps = [name or index for name, index in STEP.findall(match[2] or "")]
    return match[1], "".join(f"/{_escaped(step)}" for step in steps)


def _escaped(step: str) -> str:
    return step.replace("~", "~0").replace("/", "~1")


def _field_names(kind: Any, seen: frozenset[Any] = frozenset()) -> Iterator[str]:
    """Yield the names of the fields of a Struct, and of those in it."""
    for part in (kind, *_parts(kind)):
        if isinstance(part, type) and issubclass(part, msgspec.Struct) and part not in seen:
            seen |= {part}
            hints = get_type_hints(part)
            for field in msgspec.structs.fields(part):
                yield field.encode_name
                yield from _field_names(hints[field.name], seen)


def _parts(hint: Any) -> Iterable[Any]:
    for part in get_args(hint):
        yield part
        yield from _parts(part)
