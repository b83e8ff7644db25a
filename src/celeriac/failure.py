"""A failure: an exception in a form that travels.

Made in a child (or by the supervisor) when an attempt raises; carried by its `Outcome`, and by the messages of error
callbacks; rebuilt as an exception by whoever asks for the result.
"""

from __future__ import annotations

import builtins
import sys
import traceback
from typing import Any

import msgspec

from celeriac.errors import CeleriacError, RemoteError
from celeriac.serialization import dumps, loads

__all__ = ["Failure"]

TRACEBACK_LIMIT = 16_000  # characters; the middle of a longer one is cut
MESSAGE_LIMIT = 4_000  # characters


class Failure(msgspec.Struct, frozen=True, omit_defaults=True):
    """An exception in a form that travels: it cannot fail to be made, whatever was raised."""

    module: str
    type: str
    message: str
    args: bytes | None = None  # the exception's `args`, encoded; None where they cannot be
    traceback: str = ""

    @classmethod
    def of(cls, error: BaseException) -> Failure:
        """Describe an exception; one with a broken `__str__` or unserialisable arguments too."""
        kind = type(error)
        try:
            message = _message_of(error)
        except BaseException:  # noqa: BLE001 - the user's own __str__
            message = "(the exception's __str__ failed)"
        args: bytes | None
        try:
            args = dumps(list(error.__reduce__()[1] if isinstance(error, OSError) else error.args))
        except BaseException:  # noqa: BLE001 - the user's own objects
            args = None
        if args is not None and len(args) > TRACEBACK_LIMIT:
            args = None
        return cls(_printable(str(kind.__module__)), kind.__qualname__, message, args, _traceback_of(error))

    def exception(self) -> BaseException:
        """Return the exception as its own class where that can be rebuilt, else a `RemoteError`.

        What is no `Exception` (`SystemExit`, `KeyboardInterrupt`, `CancelledError`) comes as a `RemoteError` too:
        the end of a task must not end whoever asks for its result.
        """
        kind = self._class()
        if kind is not None and self.args is not None:
            try:
                rebuilt = kind(*loads(self.args))
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
