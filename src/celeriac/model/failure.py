"""A failure: an exception as data, which can be sent and stored.

A child makes one when an attempt raises, and the supervisor for attempts that it ends itself. The `Outcome` carries it,
and so do the messages of error callbacks. `result.py` turns it back into an exception.
"""

from __future__ import annotations

import builtins
import sys
import traceback
from contextlib import suppress
from typing import Any

import msgspec
from msgspec.structs import replace

from celeriac.errors import CeleriacError, EncodeError, RemoteError
from celeriac.model.serialization import dumps, loads

__all__ = ["Failure"]

TRACEBACK_LIMIT = 16_000  # characters; the middle of a longer one is cut
MESSAGE_LIMIT = 4_000  # characters
PARTS_LIMIT = 64_000  # bytes; an exception with larger arguments is not rebuilt
MEMBERS_LIMIT = 200  # exceptions in an ExceptionGroup, including those of groups in it; a larger group is not rebuilt
LEVELS_LIMIT = 20  # of groups in groups


class Failure(msgspec.Struct, frozen=True, omit_defaults=True):
    """An exception as data. `Failure.of` does not fail, whatever was raised."""

    module: str
    type: str
    message: str
    args: bytes | None = None  # arguments for its class, encoded; None if it cannot be rebuilt
    traceback: str = ""
    state: bytes | None = None  # its attributes, encoded; None if it has none
    members: list[Failure] = []  # of an ExceptionGroup, without tracebacks: that of the group shows them

    @classmethod
    def of(cls, error: BaseException) -> Failure:
        """Return the failure of an exception, even of one with a broken `__str__` or unserialisable arguments."""
        kind = type(error)
        try:
            message = _message_of(error)
        except BaseException:  # noqa: BLE001 - a __str__ of the user's
            message = "(the exception's __str__ failed)"
        args = state = None
        members: list[Failure] = []
        with suppress(BaseException):  # raised by objects of the user's
            if isinstance(error, ExceptionGroup):
                args, state = _group_parts_of(error)
                members = [replace(cls.of(member), traceback="") for member in error.exceptions]
            else:
                args, state = _parts_of(error)
        return cls(_printable(str(kind.__module__)), kind.__qualname__, message, args, _traceback_of(error), state,
                   members)  # fmt: skip

    def shortened(self, size: int) -> Failure:
        """Return the failure without its traceback, and without parts larger than this many bytes."""
        args = self.args if self.args is not None and len(self.args) <= size else None
        members = [member.shortened(size) for member in self.members]
        if len(msgspec.msgpack.encode(members)) > size:
            members = []
        return Failure(self.module, self.type, self.message[:size], args, members=members)

    def exception(self, levels: int = LEVELS_LIMIT) -> BaseException:
        """Return an exception of the original class if that can be rebuilt, else a `RemoteError`.

        A `BaseException` (`SystemExit`, `KeyboardInterrupt`, `CancelledError`) becomes a `RemoteError` too: it must not
        end the process that reads the result.
        """
        kind = self._class()
        if kind is not None and self.args is not None:
            try:
                args = _untagged(loads(self.args))
                if self.members and levels:
                    args = [*args, [member.exception(levels - 1) for member in self.members]]
                rebuilt = kind(*args)
                if self.state is not None:
                    _restore(rebuilt, _untagged(loads(self.state)))
                if _message_of(rebuilt) == self.message:
                    if isinstance(rebuilt, CeleriacError):
                        rebuilt.of_another = True
                    return rebuilt
            except (Exception, SystemExit):  # noqa: BLE001 - a constructor of the user's that needs other arguments
                pass
        name = self.type if self.module == "builtins" else f"{self.module}.{self.type}"
        return RemoteError(name, self.message, self.traceback)

    def _class(self) -> builtins.type[Exception] | None:
        # Only classes of modules that are imported already, and by looking into their dicts: reading a result must not
        # import a module that the sender names, nor run code of one (`__getattr__` of a lazy module).
        found: Any = sys.modules.get(self.module)
        for part in self.type.split("."):
            found = getattr(found, "__dict__", {}).get(part)
        return found if isinstance(found, type) and issubclass(found, Exception) else None


def _group_parts_of(group: ExceptionGroup[Any]) -> tuple[bytes, bytes | None]:
    """Return the message of a group as its arguments, and its attributes; raise if the group is too large."""
    waiting: list[tuple[BaseException, int]] = [(group, 0)]
    for count, (error, level) in enumerate(waiting):  # which grows
        if count > MEMBERS_LIMIT or level > LEVELS_LIMIT:
            raise EncodeError
        if isinstance(error, ExceptionGroup):
            waiting += [(member, level + 1) for member in error.exceptions]
    return _encoded([group.message]), _state_of(vars(group))


def _parts_of(error: BaseException) -> tuple[bytes, bytes | None]:
    """Return an exception's arguments and attributes as `__reduce__` gives them; raise if an argument would be lost.

    Attributes that cannot be encoded, such as a response or a connection, are left out: the exception's class matters
    more. Notes are left out too: they are in the traceback.
    """
    reduced = error.__reduce__()
    if isinstance(reduced, str) or reduced[0] is not type(error):
        reduced = (type(error), error.args, vars(error))
    _, args, *rest = reduced
    return _encoded(list(args)), _state_of(rest[0] or {} if rest else {})


def _state_of(attributes: dict[str, Any]) -> bytes | None:
    state = {}
    for name, value in attributes.items():
        if not name.startswith("__"):
            with suppress(Exception):  # raised by objects of the user's
                _encoded(value)
                state[name] = value
    return _encoded(state) if state else None


def _restore(error: BaseException, state: dict[str, Any]) -> None:
    """Set an exception's attributes. One that the constructor set to an equal value stays: an enum equals its value."""
    made = vars(error)
    error.__setstate__({
        name: value
        for name, value in state.items()
        if not name.startswith("__") and not (name in made and made[name] == value)
    })  # fmt: skip


def _encoded(value: Any) -> bytes:
    """Encode a value; raise if it is too large, or does not come back equal."""
    data = dumps(_tagged(value))
    if len(data) > PARTS_LIMIT or _untagged(loads(data)) != value:
        raise EncodeError
    return data


def _tagged(value: Any) -> Any:
    """Return a value with each tuple in a dict of one key, since JSON has no tuples."""
    if type(value) is tuple:
        return {"$tuple": [_tagged(item) for item in value]}
    if type(value) is list:
        return [_tagged(item) for item in value]
    return {key: _tagged(item) for key, item in value.items()} if type(value) is dict else value


def _untagged(value: Any) -> Any:
    if type(value) is list:
        return [_untagged(item) for item in value]
    if type(value) is not dict:
        return value
    if value.keys() == {"$tuple"}:
        return tuple(_untagged(value["$tuple"]))
    return {key: _untagged(item) for key, item in value.items()}


def _message_of(error: BaseException) -> str:
    return _printable(str(error)[:MESSAGE_LIMIT])


def _printable(text: str) -> str:
    """Return text that can be encoded as UTF-8: lone surrogates, as in some file names, are escaped."""
    return text.encode("utf-8", "backslashreplace").decode()


def _traceback_of(error: BaseException) -> str:
    try:
        text = _printable("".join(traceback.format_exception(error)))
    except BaseException:  # noqa: BLE001 - a __str__ or __repr__ of the user's
        return ""
    if len(text) <= TRACEBACK_LIMIT:
        return text
    half = TRACEBACK_LIMIT // 2
    return f"{text[:half]}\n… {len(text) - TRACEBACK_LIMIT} characters left out …\n{text[-half:]}"
