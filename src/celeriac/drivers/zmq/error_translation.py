"""Turns what the hub and ZeroMQ say into Celeriac's errors. Nothing else does."""

from __future__ import annotations

from typing import Final

from celeriac.drivers.zmq.address import Address
from celeriac.drivers.zmq.frames import VERSION
from celeriac.errors import (
    AccessRefused,
    BrokerError,
    BrokerMisconfigured,
    BrokerUnavailable,
    CeleriacError,
    ForeignDatabase,
    LeaseLost,
    NotSupported,
    Unstorable,
)

__all__ = ["KINDS", "error_of", "kind_of", "not_let_in", "silent", "version_error"]

KINDS: Final[dict[str, type[BrokerError]]] = {
    kind.__name__: kind
    for kind in (LeaseLost, NotSupported, Unstorable, ForeignDatabase, AccessRefused, BrokerMisconfigured,
                 BrokerUnavailable, BrokerError)
}  # fmt: skip
"""The errors that the hub may answer with, by name."""


def kind_of(error: Exception) -> str:
    """Return the name under which an error is sent."""
    return next((name for name, kind in KINDS.items() if isinstance(error, kind)), BrokerError.__name__)


def error_of(kind: str, text: str, server: str) -> CeleriacError:
    """Return the error that the hub has answered with."""
    if kind == LeaseLost.__name__:
        return LeaseLost()
    return KINDS.get(kind, BrokerError)(f"The hub at {server}: {text}")


def silent(server: Address, timeout: float, is_open: bool) -> BrokerUnavailable:
    """Return the error for a hub that has not answered in time."""
    text = f"The hub at {server} did not answer within {timeout:g} s (`broker_publish_timeout`)"
    if is_open:
        return BrokerUnavailable(f"{text}.")
    keys = ("compare `server_key` with the key that it shows when it starts" if server.server_key else
            "it may have keys, and this URL has none: `celeriac hub keys NAME` makes one")  # fmt: skip
    return BrokerUnavailable(f"{text}, and there is no connection to it. Is it running (`celeriac hub`)? If it is, "
                             f"{keys}.")  # fmt: skip


def not_let_in(server: str) -> AccessRefused:
    """Return the error for a hub that does not know the client's key."""
    return AccessRefused(f"The hub at {server} does not let this client in: it does not know its key. Put its .key "
                         "file into the folder `clients` of the hub's keys (`celeriac hub keys NAME`).")  # fmt: skip


def version_error(server: str, version: int) -> BrokerMisconfigured:
    """Return the error for a hub that speaks another version of the protocol."""
    older = "hub" if version < VERSION else "client"
    return BrokerMisconfigured(f"The hub at {server} speaks version {version} of the protocol, and this client version "
                               f"{VERSION}: upgrade the {older} (pip install -U 'celeriac[zmq]').")  # fmt: skip
