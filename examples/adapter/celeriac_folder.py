"""A result backend in a folder, for Linux and macOS: `result_backend = "folder:///var/lib/shop/results"`.

Each key is a file; its time of modification is the instant when it expires. Expired files are ignored, not deleted.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Annotated, Any

from celeriac.backends.key_value_workflows import KeyValueWorkflows
from celeriac.errors import BackendError
from celeriac.model.clock import Clock

__all__ = ["FolderBackend", "Settings", "connect"]

NEVER = 253_402_300_799.0  # the end of the year 9999


class Settings:
    """The settings of `folder://`, checked like all others: `app.conf.folder_fsync`."""

    folder_fsync: Annotated[bool, "sync each file to the disk (slower)"] = False


class FolderBackend(KeyValueWorkflows):
    """Outcomes and workflows in files, shared by all processes of a machine."""

    def __init__(self, folder: Path, clock: Clock, result_expires: float | None, codec: Any, fsync: bool) -> None:
        super().__init__(clock, result_expires, codec)
        self.folder = folder
        self.fsync = fsync

    def get_many(self, keys: Sequence[str]) -> dict[str, bytes]:
        with self._locked(fcntl.LOCK_SH):
            return {key: value for key in keys if (value := self._read(key)) is not None}

    def set(self, key: str, value: bytes, expires: float | None) -> None:
        with self._locked():
            self._write(key, value, expires)

    def add(self, key: str, value: bytes, expires: float | None) -> bool:
        return self.compare_and_set(key, value, None, expires)

    def delete_many(self, keys: Sequence[str]) -> None:
        with self._locked():
            for key in keys:
                (self.folder / key).unlink(missing_ok=True)

    def get_token(self, key: str) -> tuple[bytes, Any] | None:
        value = self.get_many([key]).get(key)
        return (value, value) if value is not None else None

    def compare_and_set(self, key: str, value: bytes, token: Any, expires: float | None) -> bool:
        with self._locked():
            same: bool = self._read(key) == token
            if same:
                self._write(key, value, expires)
            return same

    def close(self) -> None:
        """Do nothing: files are closed after each call."""

    @contextmanager
    def _locked(self, kind: int = fcntl.LOCK_EX) -> Iterator[None]:
        try:
            with (self.folder / "lock").open("ab") as lock:
                fcntl.flock(lock, kind)
                yield
        except OSError as error:
            raise BackendError(f"The folder {self.folder} cannot be used: {error}. Does it exist?") from error

    def _read(self, key: str) -> bytes | None:
        with suppress(FileNotFoundError):
            if (self.folder / key).stat().st_mtime > self.clock.now():
                return (self.folder / key).read_bytes()
        return None

    def _write(self, key: str, value: bytes, expires: float | None) -> None:
        new, until = self.folder / "new", NEVER if expires is None else self.clock.now() + expires
        with new.open("wb") as file:
            file.write(value)
            file.flush()
            os.utime(new, (until, until))
            if self.fsync:
                os.fsync(file.fileno())
        new.replace(self.folder / key)

    def __repr__(self) -> str:
        return f"<FolderBackend {self.folder}>"


def connect(url: str, *, clock: Clock, timeout: float, **settings: Any) -> FolderBackend:
    """Return the backend of a `folder://` URL."""
    return FolderBackend(Path(url.removeprefix("folder://")), clock, **settings)
