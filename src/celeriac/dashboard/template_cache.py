"""Compiled templates, kept in the user's cache folder: `celeriac web` starts without compiling all of them again.

Jinja2 asks for the code of a template (`templating.py`), and gives what it has compiled. The folder is
`$XDG_CACHE_HOME/celeriac/templates` (`~/.cache/…`; on Windows in `%LOCALAPPDATA%`). It is code that is run, so that one
which others may write to is not used. Where there is none, or the disk is read-only, templates are compiled each time.
"""

from __future__ import annotations

import logging
import os
import stat
import sys
import tempfile
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import Final

import jinja2
from jinja2.bccache import Bucket, BytecodeCache

from celeriac.__about__ import VERSION

__all__ = ["TemplateCache"]

log = logging.getLogger("celeriac.web")

DIGEST: Final = 32  # bytes, before the code
OWNER: Final = 0o700


class TemplateCache(BytecodeCache):
    """Keeps the code of templates. `sources` are files that change what templates are compiled to."""

    def __init__(self, *sources: str | None) -> None:
        self._sources = sources

    @cached_property
    def _folder(self) -> Path | None:
        try:
            return _own_folder()
        except (OSError, RuntimeError) as error:  # no home, a read-only disk, a file in its place
            log.debug("Compiled templates are not kept: %s", error)
            return None

    @cached_property
    def _release(self) -> bytes:
        """What compiled templates depend on besides their text."""
        digest = sha256(f"{VERSION} {jinja2.__version__} {sys.implementation.cache_tag}".encode())
        for path in self._sources:
            digest.update(Path(path).read_bytes() if path is not None and os.path.isfile(path) else b"")
        return digest.digest()

    def get_cache_key(self, name: str, filename: str | None = None) -> str:
        """Return the name of the file that keeps a template."""
        return sha256(f"{name}|{filename}".encode()).hexdigest()

    def get_source_checksum(self, source: str) -> str:
        """Return what tells whether a template was compiled from this, by this release."""
        return sha256(self._release + source.encode()).hexdigest()

    def load_bytecode(self, bucket: Bucket) -> None:
        """Give a template its code, if that is kept, and whole."""
        if self._folder is None:
            return
        try:
            kept = (self._folder / bucket.key).read_bytes()
        except OSError:
            return
        code = kept[DIGEST:]
        if sha256(code).digest() == kept[:DIGEST]:
            bucket.bytecode_from_string(code)

    def dump_bytecode(self, bucket: Bucket) -> None:
        """Keep the code of a template. Nothing is kept any more once that fails: a disk may be full."""
        if self._folder is None:
            return
        code = bucket.bytecode_to_string()
        try:
            handle, path = tempfile.mkstemp(dir=self._folder)
            try:
                with open(handle, "wb") as file:
                    file.write(sha256(code).digest() + code)
                os.replace(path, self._folder / bucket.key)  # others read the old one, or the new one
            except BaseException:
                os.unlink(path)
                raise
        except OSError as error:
            log.debug("Compiled templates are not kept: %s", error)
            self._folder = None


def _own_folder() -> Path:
    """Return the folder, which is made if it is not there. Raises `OSError` if others may write to it."""
    windows = os.environ.get("LOCALAPPDATA") if sys.platform == "win32" else None
    given = windows or os.environ.get("XDG_CACHE_HOME")
    folder = (Path(given) if given else Path.home() / ".cache") / "celeriac" / "templates"
    if not folder.is_absolute():
        raise FileNotFoundError(f"{folder} is not absolute")
    folder.parent.mkdir(OWNER, parents=True, exist_ok=True)
    folder.mkdir(OWNER, exist_ok=True)
    if sys.platform != "win32":
        for part in (folder, folder.parent):
            found = part.stat()
            if found.st_uid != os.geteuid() or stat.S_IMODE(found.st_mode) & (stat.S_IWGRP | stat.S_IWOTH):
                raise PermissionError(f"{part} is not this user's alone")
    return folder
