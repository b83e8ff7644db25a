"""The files that pages load: style, script, icon. Their addresses have a hash, so that browsers keep them for ever."""

from __future__ import annotations

from functools import cache
from hashlib import sha256
from importlib.resources import files
from typing import Final, NamedTuple

__all__ = ["Asset", "asset_named", "asset_path"]

KINDS: Final = {"css": "text/css", "js": "text/javascript", "svg": "image/svg+xml"}


class Asset(NamedTuple):
    """A file, and its media type."""

    body: bytes
    kind: str


@cache
def _all() -> dict[str, tuple[str, Asset]]:
    """Return all files by their names, each with the name that has the hash."""
    found = {}
    for file in files("celeriac.dashboard").joinpath("assets").iterdir():
        stem, _, ending = file.name.rpartition(".")
        if ending in KINDS:
            body = file.read_bytes()
            found[file.name] = (f"{stem}.{sha256(body).hexdigest()[:12]}.{ending}", Asset(body, KINDS[ending]))
    return found


def asset_path(name: str) -> str:
    """Return the path of a file, by the name that it has here."""
    return f"/assets/{_all()[name][0]}"


def asset_named(hashed: str) -> Asset | None:
    """Return the file at a path; None if there is none, or another version."""
    return next((asset for name, asset in _all().values() if name == hashed), None)
