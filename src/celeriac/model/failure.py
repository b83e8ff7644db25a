"""A failure: an exception as data, which can be sent and stored.

A child makes one when an attempt raises, and the supervisor for attempts that it ends itself. The `Outcome` carries it,
and so do the messages of error callbacks. `result.py` turns it back into an exception.
"""

from __future__ import annotations

import builtins
import sys
import traceback
from collections.abc import Mapping
from contextlib import suppress
from types import GetSetDescriptorType, MemberDescriptorType, ModuleType, TracebackType
from typing import TYPE_CHECKING, Any, cast

import msgspec
from msgspec.structs import replace

from celeriac.errors import CeleriacError, EncodeError, RemoteError
from celeriac.lazy import LazyModule
from celeriac.model.serialization import dumps, loads

if TYPE_CHECKING:
    from celeriac.model import failure_signature
else:
    failure_signature = LazyModule("celeriac.model.failure_signature")

__all__ = ["MESSAGE_LIMIT", "TRACEBACK_LIMIT", "Failure"]

TRACEBACK_LIMIT = 16_000  # characters; the middle of a longer one is cut
MESSAGE_LIMIT = 4_000  # characters
CLASS_LIMIT = 400  # characters of the names of a class and of its module; with longer ones it is not rebuilt
PARTS_LIMIT = 64_000  # bytes; an exception with larger arguments is not rebuilt
MEMBERS_LIMIT = 200  # exceptions in an ExceptionGroup, including those of groups in it; a larger group is not rebuilt
LEVELS_LIMIT = 20  # of groups in groups

OWN = frozenset(kind for kind in vars(builtins).values() if isinstance(kind, type) and issubclass(kind, BaseException))
"""Python's own exception classes."""

NAMES: Mapping[str, Any] = vars(type)
"""What gives the names of a class, and is not changed by the class."""

NAMESPACES: dict[type, Any] = {kind: vars(kind)["__dict__"] for kind in (ModuleType, type)}
"""By kind: what gives the dict of a module, or of a class."""


class Failure(msgspec.Struct, frozen=True, omit_defaults=True):
    """An exception as data. `Failure.of` does not fail, whatever was raised."""

    module: str
    type: str
    message: str
    args: bytes | None = None  # arguments for its class, encoded; None if it cannot be rebuilt
    traceback: str = ""
    state: bytes | None = None  # its attributes, encoded; None if it has none
    members: list[Failure] = []  # of an ExceptionGroup, without tracebacks: that of the group shows them
    signature: str = ""  # the same for failures of the same cause (`failure_signature.py`); empty if none was made

    @classmethod
    def of(cls, error: BaseException, task: str = "") -> Failure:
        """Return the failure of an exception, even of one with a broken `__str__` or unserialisable arguments.

        It has a signature if the task is given.
        """
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
        signature = ""
        if task:
            with suppress(BaseException):
                signature = failure_signature.signature_of(task, error)
        module, name = _names_of(type(error))
        return cls(module, name, message, args, _traceback_of(error), state, members, signature)

    def shortened(self, size: int) -> Failure:
        """Return the failure without its traceback, and without parts larger than this many bytes."""
        args = self.args if self.args is not None and len(self.args) <= size else None
        members = [member.shortened(size) for member in self.members]
        if len(msgspec.msgpack.encode(members)) > size:
            members = []
        return Failure(self.module, self.type, self.message[:size], args, members=members, signature=self.signature)

    def exception(self, levels: int = LEVELS_LIMIT) -> BaseException:
        """Return an exception of the original class if that can be rebuilt, else a `RemoteError`.

        No code of the class makes it (docs/decisions/0010-exceptions.md). A `BaseException` (`SystemExit`,
        `KeyboardInterrupt`, `CancelledError`) becomes a `RemoteError` too: it must not end the process that reads the
        result.
        """
        kind = self._class()
        if kind is not None and self.args is not None:
            try:
                args = _untagged(loads(self.args))
                if self.members and levels:
                    args = [*args, [member.exception(levels - 1) for member in self.members]]
                rebuilt = _made(kind, args)
                if self.state is not None:
                    _restore(rebuilt, _untagged(loads(self.state)))
                if _message_of(rebuilt) == self.message:
                    if isinstance(rebuilt, CeleriacError):
                        rebuilt.of_another = True
                    return rebuilt
            except (Exception, SystemExit):  # noqa: BLE001 - raised by the `__str__` of a class that misses something
                pass
        name = self.type if self.module == "builtins" else f"{self.module}.{self.type}"
        return RemoteError(name, self.message, self.traceback)

    def _class(self) -> builtins.type[Exception] | None:
        # Only classes of modules that are imported already, and by looking into their dicts: reading a result must not
        # import a module that the sender names, nor run code of one (`__getattr__` or a property of a lazy module).
        found: Any = sys.modules.get(self.module)
        for part in self.type.split("."):
            namespace = _namespace(found)
            if namespace is None:
                return None
            found = namespace.get(part)
        return found if issubclass(type(found), type) and issubclass(found, Exception) else None


def _names_of(kind: builtins.type) -> tuple[str, str]:
    """Return the names of a class's module and of the class, whatever its own class says of them."""
    module: Any = NAMES["__module__"].__get__(kind)
    name: Any = NAMES["__qualname__"].__get__(kind)
    return _printable(module if isinstance(module, str) else "None")[:CLASS_LIMIT], _printable(name)[-CLASS_LIMIT:]


def _namespace(holder: Any) -> Mapping[str, Any] | None:
    """Return the dict of a module or a class, whatever `__dict__` their own classes may define; else None."""
    for kind, namespace in NAMESPACES.items():
        if issubclass(type(holder), kind):
            found: Mapping[str, Any] = namespace.__get__(holder)
            return found
    return None


def _base(kind: type[BaseException]) -> type[BaseException]:
    """Return the nearest of Python's own exception classes that a class is derived from, or is."""
    return next(base for base in kind.__mro__ if base in OWN)


def _made(kind: type[Exception], args: list[Any]) -> Exception:
    """Return an exception with these arguments, made by Python's own classes alone.

    So a class may have any constructor, and no sender of a result can call one.
    """
    base = _base(kind)
    error: Exception = base.__new__(kind, *args)
    base.__init__(error, *args)
    return error


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
    """Return an exception's arguments and attributes as its base among Python's own classes tells them.

    Raises if an argument would be lost. Attributes that cannot be encoded, such as a response or a connection, are None
    for the reader: the exception's class matters more. Notes are left out: they are in the traceback.
    """
    _, args, *rest = cast(tuple[Any, ...], _base(type(error)).__reduce__(error))
    return _encoded(list(args)), _state_of(rest[0] or {} if rest else {})


def _state_of(attributes: dict[str, Any]) -> bytes | None:
    """Return attributes, encoded; those that cannot be encoded, such as a connection, are None for the reader."""
    state: dict[str, Any] = {}
    for name, value in attributes.items():
        if not name.startswith("__"):
            state[name] = None
            with suppress(Exception):  # raised by objects of the user's
                _encoded(value)
                state[name] = value
    return _encoded(state) if state else None


def _restore(error: BaseException, state: dict[str, Any]) -> None:
    """Set an exception's attributes, without calling any setter of its class: only those of Python's own classes."""
    base = _base(type(error))
    for name, value in state.items():
        if name.startswith("__"):
            continue
        own = getattr(base, name, None)
        if own is None:
            vars(error)[name] = value
        elif isinstance(own, GetSetDescriptorType | MemberDescriptorType):  # not a method
            own.__set__(error, value)


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


def _users_part(whole: TracebackType | None) -> TracebackType | None:
    """Return a traceback without the frames at its top that are Celeriac's; all of it if it has no others."""
    part = whole
    while part is not None and part.tb_frame.f_code.co_filename.startswith(failure_signature.PACKAGE):
        part = part.tb_next
    return part or whole


def _traceback_of(error: BaseException) -> str:
    try:
        text = _printable("".join(traceback.format_exception(type(error), error, _users_part(error.__traceback__))))
    except BaseException:  # noqa: BLE001 - a __str__ or __repr__ of the user's
        return ""
    if len(text) <= TRACEBACK_LIMIT:
        return text
    half = TRACEBACK_LIMIT // 2
    return f"{text[:half]}\n… {len(text) - TRACEBACK_LIMIT} characters left out …\n{text[-half:]}"
