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
from importlib.resources import files
from typing import Final

__all__ = ["SCRIPTS", "Script"]

SHARED: Final = ("common.lua", "deliver.lua", "workflows.lua")


class Script:
    """A script and its SHA1."""

    def __init__(self, name: str, body: str, shared: str) -> None:
        self.name = name
        self.source = _needed(body, shared) + body
        self.sha = hashlib.sha1(self.source.encode(), usedforsecurity=False).hexdigest()

    def __repr__(self) -> str:
        return f"<Script {self.name}>"


def _needed(body: str, shared: str) -> str:
    """Return the shared paragraphs that a script uses: every call of a script creates its functions anew."""
    needed: list[str] = []
    text = _uncommented(body)
    for paragraph in reversed(shared.split("\n\n")):
        names = re.findall(r"^local (?:function )?(\w+)", paragraph, re.MULTILINE)
        if any(re.search(rf"\b{name}\b", text) for name in names):
            needed.insert(0, paragraph + "\n")
            text += _uncommented(paragraph)
    return "".join(needed)


def _uncommented(lua: str) -> str:
    return re.sub(r"--.*", "", lua)


def _scripts() -> dict[str, Script]:
    texts = {file.name: file.read_text("utf-8") for file in files("celeriac.drivers.redis").joinpath("lua").iterdir()}
    shared = "\n\n".join(texts.pop(name).strip() for name in SHARED)
    return {name.removesuffix(".lua"): Script(name, body, shared) for name, body in texts.items()}


SCRIPTS: Final = _scripts()
