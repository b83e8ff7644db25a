"""How a call is carried out, whatever the transport: what is sent, what is sent again, and which error is raised.

Usually a call is one exchange on an open connection. `Call.steps` deals with whatever else happens: a generator that
yields what has to be done (`Step`), and receives the replies or the `OSError` of that. `Server.do_all` drives it with a
blocking connection, `Server.ado_all` with the connection of the event loop.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Sequence
from enum import Enum
from functools import cache
from typing import Any, Final

import hiredis

from celeriac.drivers.redis.address import Address
from celeriac.drivers.redis.error_translation import BUSY, InDoubt, code_of, is_our_limit, refused, silent
from celeriac.drivers.redis.scripts import SCRIPTS
from celeriac.errors import BrokerError

__all__ = ["PAUSE", "Call", "Command", "Step", "all_scripts", "first_error", "pack"]

Command = tuple[Any, ...]

PAUSE: Final = 0.05  # seconds before a busy server is asked again

pack: Callable[[Command], bytes] = hiredis.pack_command


@cache
def all_scripts() -> tuple[bytes, int]:
    """Return the commands that load every script, and their number."""
    scripts = SCRIPTS.all()
    return b"".join(pack(("SCRIPT", "LOAD", script.source)) for script in scripts), len(scripts)


class Step(Enum):
    """What the driver of a call has to do next."""

    SEND = "send"  # send `Call.packed` on an open connection, or on a new one; set `connected` and `fresh`
    LOAD = "load"  # send `all_scripts` on the same connection
    PAUSE = "pause"  # wait for `PAUSE` seconds
    FORGET = "forget"  # the server has closed a connection: close the idle ones, too
    CLOSE = "close"  # close this connection: the server is not fit for commands


class Call:
    """Commands that are sent in one round trip."""

    def __init__(self, packed: bytes, count: int, again: bool, address: Address, timeout: float) -> None:
        self.packed = packed
        self.count = count
        self.connected = False  # there was a connection to send them on, so that they may have been carried out
        self.fresh = False  # … which was opened for this call
        self.address = address
        self._deadline: float | None = None  # monotonic; set when the call first takes longer than one exchange
        self._again = again
        self._timeout = timeout

    def left(self) -> float:
        """Return how many seconds are left for connecting, at least 0.01."""
        now = time.monotonic()
        if self._deadline is None:
            self._deadline = now + self._timeout
        return max(0.01, self._deadline - now)

    def steps(self, result: list[Any] | OSError | None) -> Generator[Step, Any, list[Any]]:
        """Carry out the call; return the replies. Raises as `Server.do_all` does.

        `result` is that of a first exchange on a connection that was open; None if there was no such connection.
        """
        tries = 2
        self.connected = result is not None
        while True:
            if result is None:
                try:
                    result = yield Step.SEND
                except OSError as error:
                    result = error
            if isinstance(result, OSError):
                if isinstance(result, BrokerError):
                    raise result
                if not self.connected or is_our_limit(result):
                    raise silent(result, self.address, self._timeout) from result
                yield Step.FORGET
                tries = 0 if self.fresh else tries - 1
                if not self._again or tries <= 0:
                    raise self._doubt(result) from result
            elif result is not None:
                trouble = first_error(result)
                if trouble is None:
                    return result
                if not self._again and self._some_succeeded(result):
                    raise self._doubt(trouble)
                yield from self._after(trouble)
            result = None

    def _after(self, trouble: hiredis.ReplyError) -> Generator[Step, Any, None]:
        """Do what makes it worth sending the commands again. Raises if nothing does."""
        code = code_of(trouble)
        if code == "NOSCRIPT":
            try:
                loaded = yield Step.LOAD
            except OSError as error:
                raise self._silent(error) from error
            failure = first_error(loaded)
            if failure is not None:
                raise refused(failure, self.address)
        elif code in BUSY and self.left() > PAUSE:
            yield Step.PAUSE
        else:
            yield Step.CLOSE  # of a former master that is a replica now, perhaps
            raise refused(trouble, self.address)

    def _some_succeeded(self, replies: Sequence[Any]) -> bool:
        return len(replies) > 1 and not all(isinstance(reply, hiredis.ReplyError) for reply in replies)

    def _silent(self, error: OSError) -> BrokerError:
        return error if isinstance(error, BrokerError) else silent(error, self.address, self._timeout)

    def _doubt(self, error: Exception) -> InDoubt:
        return InDoubt(f"The connection to Redis at {self.address} was lost before its reply came ({error}).")


def first_error(replies: Sequence[Any]) -> hiredis.ReplyError | None:
    """Return the first error reply, or None."""
    for reply in replies:
        if isinstance(reply, hiredis.ReplyError):
            return reply
    return None
