"""Failure signatures: 16 hexadecimal digits, the same for failures of the same cause, as far as a program can tell.

A signature is made of the task, the class of the exception and the last frames of the app's own code (module and
function, no line numbers, so that edits elsewhere do not change it); of its causes likewise. A failure without a
traceback (its process was killed, a time limit) has its message instead, without numbers, ids, quotes and addresses.
Children make it when an attempt fails (`failure.py`); the history, mails and logs group failures by it.
"""

from __future__ import annotations

import os
import re
from collections import deque
from collections.abc import Iterator
from functools import lru_cache
from hashlib import blake2b
from pathlib import Path
from types import TracebackType
from typing import Any, Final

__all__ = ["PACKAGE", "frames_of", "message_signature", "signature_of"]

PACKAGE: Final = f"{Path(__file__).parent.parent}{os.sep}"  # the folder of Celeriac's own files
LIBRARY: Final = f"{Path(os.__file__).parent}{os.sep}"  # Python's own files, and usually `site-packages`
INSTALLED: Final = (f"{os.sep}site-packages{os.sep}", f"{os.sep}dist-packages{os.sep}")

FRAMES: Final = 5
CAUSES: Final = 4  # exceptions in a chain of causes that count
MEMBERS: Final = 8  # exceptions of an ExceptionGroup that count
LONGEST: Final = 1_000  # characters of a message that count

QUOTED: Final = re.compile(r"'[^'\n]*'|\"[^\"\n]*\"|`[^`\n]*`")
FRAME: Final = re.compile(r'^ +(?:\| +)*File "([^"\n]+)", line \d+, in (.+)$', re.MULTILINE)
VARYING: Final = re.compile(
    r"0x[0-9a-fA-F]+"
    r"|\b[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}\b"
    r"|\b(?=[a-fA-F]*[0-9])[0-9a-fA-F]{8,}\b"
    r"|[0-9]+(?:[.,:][0-9]+)*"
)


def signature_of(task: str, error: BaseException) -> str:
    """Return the signature of an exception that ended an attempt of a task."""
    parts = [task]
    for one in _chain(error):
        parts.append(_name(type(one)))
        frames = list(_frames(one.__traceback__))
        parts += frames or [_plain(str(one))]
        if isinstance(one, BaseExceptionGroup):
            parts += sorted({_name(type(member)) for member in one.exceptions[:MEMBERS]})
    return _digest(parts)


def message_signature(task: str, kind: str, message: str) -> str:
    """Return the signature of a failure that has no traceback.

    >>> message_signature("t", "E", "killed 3 times") == message_signature("t", "E", "killed 12 times")
    True
    """
    return _digest([task, kind, _plain(message)])


def frames_of(traceback: str) -> list[str]:
    """Return the last frames of a formatted traceback that are of the app's own code, the outermost first."""
    found = FRAME.findall(traceback)
    own = [frame for frame in found if _where(frame[0]) == "app"] or found
    return [f"{os.path.basename(file)}: {function}" for file, function in own[-FRAMES:]]


def _chain(error: BaseException) -> Iterator[BaseException]:
    seen: set[int] = set()
    one: BaseException | None = error
    while one is not None and id(one) not in seen and len(seen) < CAUSES:
        seen.add(id(one))
        yield one
        one = one.__cause__ or (None if one.__suppress_context__ else one.__context__)


def _frames(traceback: TracebackType | None) -> Iterator[str]:
    """Yield the last frames of the app's own code; of any code but Celeriac's, if there are none."""
    own: deque[str] = deque(maxlen=FRAMES)
    others: deque[str] = deque(maxlen=FRAMES)
    first: str | None = None
    while traceback is not None:
        frame = traceback.tb_frame
        code = frame.f_code
        where = _where(code.co_filename)
        if where != "celeriac":
            module = str(frame.f_globals.get("__name__", ""))
            package = module.partition(".")[0]
            if first is None:  # of the task's function: the app may be an installed package, too
                first = package
            name = f"{module}.{code.co_qualname}"
            frames = own if where == "app" or package == first else others
            if not frames or frames[-1] != name:  # however deep a recursion was
                frames.append(name)
        traceback = traceback.tb_next
    return iter(own or others)


@lru_cache(maxsize=4096)
def _where(file: str) -> str:
    if file.startswith(PACKAGE):
        return "celeriac"
    return "library" if file.startswith((LIBRARY, "<frozen")) or any(part in file for part in INSTALLED) else "app"


def _name(kind: type[Any]) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"


def _plain(text: str) -> str:
    return VARYING.sub("N", QUOTED.sub("Q", text[:LONGEST]))


def _digest(parts: list[str]) -> str:
    return blake2b("\0".join(parts).encode(errors="backslashreplace"), digest_size=8).hexdigest()
