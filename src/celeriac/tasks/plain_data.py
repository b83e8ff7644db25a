r"""An outcome as plain data, for a web page or a log: `AsyncResult.to_dict` calls this.

The data goes to people who must not learn how the worker's machine is laid out. So the text of an exception keeps of
each absolute path only the last part: `/srv/shop/stock.csv` becomes `…/stock.csv`. What a task returns or reports is
its own business, and stays as it is.
"""

from __future__ import annotations

import re
from typing import Any

import msgspec

from celeriac import states
from celeriac.errors import EncodeError, TaskRevoked
from celeriac.model.failure import Failure
from celeriac.model.outcome import Outcome
from celeriac.model.records import fields

__all__ = ["error_data", "plain", "without_paths"]

# In quotes a path may contain spaces. Elsewhere it does not begin within a relative path or after the host of a URL.
PATH = re.compile(
    r"""(?<=['"])/[^'"\n]*/(?=[^'"/\n]) | (?:(?<![\w/.~'"])|(?<=://)/*)/(?:[^\s/'"]+/)+(?=[^\s/'"])""", re.VERBOSE
)


def without_paths(text: str) -> str:
    """Return text without the folders of absolute paths.

    >>> without_paths("[Errno 2] No such file or directory: '/srv/my shop/stock.csv'")
    "[Errno 2] No such file or directory: '…/stock.csv'"
    >>> without_paths("cannot import name 'x' from 'shop' (/srv/shop.py); see https://shop/a/b or ./a/b")
    "cannot import name 'x' from 'shop' (…/shop.py); see https://shop/a/b or ./a/b"
    """
    return PATH.sub("…/", text)


def error_data(outcome: Outcome, traceback: bool) -> dict[str, Any] | None:
    """Return the exception of an outcome: its type, its message and, if asked for, its traceback. None without one."""
    failure = outcome.failure
    if failure is None and outcome.state == states.REVOKED:
        failure = Failure.of(TaskRevoked())
    if failure is None:
        return None
    kind = failure.type if failure.module == "builtins" else f"{failure.module}.{failure.type}"
    data = {"type": kind, "message": without_paths(failure.message)}
    return {**data, "traceback": without_paths(failure.traceback)} if traceback else data


def plain(value: Any) -> Any:
    """Return a value as JSON has it: datetimes, UUIDs and decimals as text, records as dicts, sets as lists.

    Raises `EncodeError` for a value that has no such form, which only other serialisers than JSON can return.

    >>> from datetime import date
    >>> plain({"until": date(2026, 1, 31), 3: {1}})
    {'until': '2026-01-31', '3': [1]}
    """
    try:
        return msgspec.json.decode(msgspec.json.encode(value, enc_hook=_opened))
    except (TypeError, ValueError, RecursionError) as error:
        raise EncodeError(f"The value of the task is not plain data: {error}. "
                          "Read `result.result`, and turn it into plain data.") from error  # fmt: skip


def _opened(value: Any) -> Any:
    data = fields(value)
    if data is None:
        raise TypeError(f"{type(value).__module__}.{type(value).__qualname__} has no form in JSON")
    return data
