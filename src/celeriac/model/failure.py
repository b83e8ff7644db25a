"""A failure: an exception in a form that travels.

Made in a child (or by the supervisor) when an attempt raises; carried by its `Outcome`, and by the messages of error
callbacks; rebuilt as an exception by whoever asks for the result.
"""

from __future__ import annotations

import builtins
import sys
import traceback
from contextlib import suppress
from typing import Any

import msgspec

from celeriac.errors import CeleriacError, EncodeError, RemoteError
from celeriac.model.serialization import dumps, loads

__all__ = ["Failure"]

TRACEBACK_LIMIT = 16_000  # characters; the middle of a longer one is cut
MESSAGE_LIMIT = 4_000  # characters
PARTS_LIMIT = 64_000  # bytes; what is made of more is not rebuilt


class Failure(msgspec.Struct, frozen=True, omit_defaults=True):
    """An exception in a form that travels: it cannot fail to be made, whatever was raised."""

    module: str
    type: str
    message: str
    args: bytes | None = None  # what its class is to be called with, encoded; None where it cannot be rebuilt
    traceback: str = ""
    state: bytes | None = None  # its attributes, encoded; None where there are none

    @classmethod
    def of(cls, error: BaseException) -> Failure:
        """Describe an exception; one with a broken `__str__` or unserialisable arguments too."""
        kind = type(error)
        try:
            message = _message_of(error)
        except BaseException:  # noqa: BLE001 - the user's own __str__
            message = "(the exception's __str__ failed)"
        args = state = None
        with suppress(BaseException):  # the user's own objects
            args, state = _parts_of(error)
        return cls(_printable(str(kind.__module__)), kind.__qualname__, message, args, _traceback_of(error), state)

    def exception(self) -> BaseException:
        """Return the exception as its own class where that can be rebuilt, else a `RemoteError`.

        What is no `Exception` (`SystemExit`, `KeyboardInterrupt`, `CancelledError`) comes as a `RemoteError` too:
        the end of a task must not end whoever asks for its result.
        """
        kind = self._class()
        if kind is not None and self.args is not None:
            try:
                rebuilt = kind(*_untagged(loads(self.args)))
                if self.state is not None:
                    _restore(rebuilt, _untagged(loads(self.state)))
                if _message_of(rebuilt) == self.message:
                    if isinstance(rebuilt, CeleriacError):
                        rebuilt.of_another = True
                    return rebuilt
            except (Exception, SystemExit):  # noqa: BLE001 - a constructor of the user's own that wants other arguments
                pass
        name = self.type if self.module == "builtins" else f"{self.module}.{self.type}"
        return RemoteError(name, self.message, self.traceback)

    def _class(self) -> builtins.type[Exception] | None:
        # Only what is imported already, or comes with Python and Celeriac: reading a result must not
        # import whatever module its sender names.
        found: Any = sys.modules.get(self.module)
        for part in self.type.split("."):
            found = getattr(found, part, None)
        return found if isinstance(found, type) and issubclass(found, Exception) else None


def _parts_of(error: BaseException) -> tuple[bytes, bytes | None]:
    """Return an exception's arguments and attributes, as it tells them to `pickle`; raise if an argument would be lost.

    Attributes that cannot be encoded, such as a response or a connection, are left out: its class says more than they.
    So are notes: they are in the traceback.
    """
    reduced = error.__reduce__()
    if isinstance(reduced, str) or reduced[0] is not type(error):
        reduced = (type(error), error.args, vars(error))
    _, args, *rest = reduced
    state = {}
    for name, value in (rest[0] or {}).items() if rest else ():
        if not name.startswith("__"):
            with suppress(Exception):  # the user's own objects
                _encoded(value)
                state[name] = value
    return _encoded(list(args)), _encoded(state) if state else None


def _restore(error: BaseException, state: dict[str, Any]) -> None:
    """Give an exception its attributes. What its class has made of its arguments stays: an enum equals its value."""
    made = vars(error)
    error.__setstate__({
        name: value
        for name, value in state.items()
        if not name.startswith("__") and not (name in made and made[name] == value)
    })  # fmt: skip


def _encoded(value: Any) -> bytes:
    """Encode a value from which an equal one can be decoded; raise for any other."""
    data = dumps(_tagged(value))
    if len(data) > PARTS_LIMIT or _untagged(loads(data)) != value:
        raise EncodeError
    return data


def _tagged(value: Any) -> Any:
    """Put every tuple into a dict of one key, since JSON has none."""
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
    """Return text that can be encoded: lone surrogates, as in the names of some files, are spelt out."""
    return text.encode("utf-8", "backslashreplace").decode()


def _traceback_of(error: BaseException) -> str:
    try:
        text = _printable("".join(traceback.format_exception(error)))
    except BaseException:  # noqa: BLE001 - an exception whose parts cannot be printed
        return ""
    if len(text) <= TRACEBACK_LIMIT:
        return text
    half = TRACEBACK_LIMIT // 2
    return f"{text[:half]}\n… {len(text) - TRACEBACK_LIMIT} characters left out …\n{text[-half:]}"
