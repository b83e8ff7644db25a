"""The Lua scripts: each is a file in `lua/` that begins with its ARGV (after the prefix, ARGV[1]) and its reply.

Every script is one atomic step. KEYS[1] is the key `queues`; the other keys are built from the prefix and the names of
queues (see `keys`). In all scripts `now` is seconds since the epoch, or '' for the server's own clock, so that skewed
clocks of workers' machines do not matter. The scripts that workers need to empty a full server must work there: Redis
refuses a command that needs memory only if it is the first write of a script, so these scripts begin with a write that
needs none (`begin_writing`).

`common.lua`, `deliver.lua` and `workflows.lua` hold shared functions, in paragraphs separated by blank lines. A
paragraph uses only those above it.
"""

from __future__ import annotations

import hashlib
import re
from functools import cache
from pathlib import Path
from typing import Final, NamedTuple

__all__ = ["SCRIPTS", "Script", "Scripts"]

FOLDER: Final = Path(__file__).with_name("lua")
SHARED: Final = ("common.lua", "deliver.lua", "workflows.lua")


class Script:
    """A script and its SHA1."""

    def __init__(self, name: str, source: str) -> None:
        self.name = name
        self.source = source
        self.sha = hashlib.sha1(source.encode(), usedforsecurity=False).hexdigest()

    def __repr__(self) -> str:
        return f"<Script {self.name}>"


class Scripts(dict[str, Script]):
    """The scripts by name. Each is put together when it is first looked up: most processes need a few of them."""

    def __missing__(self, name: str) -> Script:
        body = _text(f"{name}.lua")
        script = self[name] = Script(name, _needed(body) + body)
        return script

    def all(self) -> list[Script]:
        """Return every script there is."""
        found = [file.name for file in FOLDER.iterdir() if file.name not in SHARED]
        return [self[name.removesuffix(".lua")] for name in sorted(found)]


class _Paragraph(NamedTuple):
    text: str
    defines: frozenset[str]
    uses: frozenset[str]


@cache
def _shared() -> list[_Paragraph]:
    """Return the shared paragraphs, the last first."""
    found = []
    for name in SHARED:
        for text in _text(name).strip().split("\n\n"):
            defines = re.findall(r"^local (?:function )?(\w+)", text, re.MULTILINE)
            found.append(_Paragraph(text, frozenset(defines), _words(text)))
    return found[::-1]


def _needed(body: str) -> str:
    """Return the shared paragraphs that a script uses: every call of a script creates its functions anew."""
    needed: list[str] = []
    words = _words(body)
    for paragraph in _shared():
        if not words.isdisjoint(paragraph.defines):
            needed.append(paragraph.text + "\n")
            words |= paragraph.uses
    return "".join(reversed(needed))


def _words(lua: str) -> frozenset[str]:
    """Return the names in a piece of Lua, those in comments excepted."""
    return frozenset(re.findall(r"\w+", re.sub(r"--.*", "", lua)))


def _text(name: str) -> str:
    return FOLDER.joinpath(name).read_text("utf-8")


SCRIPTS: Final = Scripts()
