"""What a new connection is checked for, whatever the transport: that it is let in, and that the server is suitable."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from typing import Any

from celeriac.drivers.redis.address import Address
from celeriac.drivers.redis.calls import first_error, pack
from celeriac.drivers.redis.error_translation import BUSY, code_of, refused, unsuitable

__all__ = ["Opening", "raise_for"]

INFO = pack(("INFO",))


class Opening:
    """The check of new connections to one server. Once the server has been found suitable, it is not asked again."""

    def __init__(self, address: Address, prefix: str) -> None:
        self._address = address
        self._proved = False
        self._trial = pack(("PUBLISH", f"{prefix}:bell:", b""))  # nobody subscribes to that; it needs the usual rights

    def check(self, greetings: Sequence[Any]) -> Generator[bytes, Any, None]:
        """Yield the commands that check a connection, and receive their replies. Raises `BrokerError`, …"""
        raise_for(greetings, self._address)
        if not self._proved and self._is_suitable((yield INFO)):
            raise_for([(yield self._trial)], self._address)
            self._proved = True

    def _is_suitable(self, info: Any) -> bool:
        """Return False if a busy server does not say yet. Raises if it is not suitable."""
        if isinstance(info, bytes):
            unfit = unsuitable(info, self._address)
            if unfit is not None:
                raise unfit
        elif code_of(info) in BUSY:
            return False
        elif code_of(info) != "NOPERM":  # this user may not call INFO, and the check is left out
            raise refused(info, self._address)
        return True


def raise_for(replies: Sequence[Any], address: Address) -> None:
    """Raise the error that the first error reply means, if there is one."""
    trouble = first_error(replies)
    if trouble is not None:
        raise refused(trouble, address)
