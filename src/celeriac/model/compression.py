"""Compression of return values (`result_compression`).

A child compresses what its task returns, and the outcome names the method, so that readers need no setting. What is
decompressed is bounded, because a few kilobytes can be made to expand to gigabytes.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any, Final

from celeriac.errors import DecodeError, ImproperlyConfigured, nearest

__all__ = ["COMPRESSED_FROM", "compressor", "decompress", "method"]

COMPRESSED_FROM: Final = 1024  # bytes; smaller values would hardly shrink
DICTIONARY_BYTES: Final = 1 << 26  # of LZMA: what decompressing may take besides its result

METHODS: Final = {"zlib": "zlib", "gzip": "zlib", "bzip2": "bzip2", "bzip": "bzip2", "lzma": "lzma", "xz": "lzma"}
"""Celery's names for methods, and ours."""

Compress = Callable[[bytes], bytes]


def method(name: str) -> str:
    """Return the method that a name stands for. Raises `ImproperlyConfigured`."""
    found = METHODS.get(name)
    if found is None:
        known = ", ".join(METHODS)
        raise ImproperlyConfigured(f"No compression named {name!r}.{nearest(name, METHODS)} Known: {known}.")
    return found


def compressor(name: str) -> Compress:
    """Return the function of a method that compresses."""
    module = _module(name)
    if name == "zlib":
        return lambda data: bytes(module.compress(data, 1))
    if name == "bzip2":
        return lambda data: bytes(module.compress(data))
    return lambda data: bytes(module.compress(data, preset=1))


def decompress(name: str, data: bytes, limit: int) -> bytes:
    """Return what was compressed. Raises `DecodeError` for more than `limit` bytes, and for damaged ones."""
    if name not in METHODS.values():
        raise DecodeError(f"A value is compressed with {name[:100]!r}, which this version does not know.")
    module = _module(name)
    try:
        found, ended = _expanded(module, name, data, limit)
    except Exception as error:  # noqa: BLE001 - each module has its own
        raise DecodeError(f"A value that is compressed with {name} is damaged: {error}.") from None
    if len(found) > limit:
        raise DecodeError(f"A compressed value expands to more than {limit:,} bytes, which is `result_max_bytes` here. "
                          "If it is not an attack, raise the setting.")  # fmt: skip
    if not ended:
        raise DecodeError(f"A value that is compressed with {name} is damaged: its end is missing.")
    return found


def _expanded(module: Any, name: str, data: bytes, limit: int) -> tuple[bytes, bool]:
    """Return the first `limit` bytes and one more, and whether they are all."""
    if name == "zlib":
        reader = module.decompressobj()
        return reader.decompress(data, limit + 1), reader.eof
    reader = module.BZ2Decompressor() if name == "bzip2" else module.LZMADecompressor(memlimit=DICTIONARY_BYTES)
    return reader.decompress(data, limit + 1), reader.eof


def _module(name: str) -> Any:
    """Return the module of a method. It is imported when it is needed: some builds of Python lack one."""
    try:
        return importlib.import_module("bz2" if name == "bzip2" else name)
    except ModuleNotFoundError as error:
        raise ImproperlyConfigured(f"This Python was built without {error.name}, which {name} needs. "
                                   "Set `result_compression` to 'zlib'.") from error  # fmt: skip
