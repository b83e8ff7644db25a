"""Where callbacks may go: the entries of `web_callback_hosts`, and URLs and addresses that are checked against them.

    hooks.example.com            https on port 443
    hooks.example.com:8443       https on this port
    *.example.com                any host below it
    *                            any host
    http://hooks.internal:8080   without TLS
    10.1.0.0/16                  addresses that are not public: as the host of a URL, and where names lead

The HTTP API checks a URL when it takes a call, and the worker does before it sends (`http/delivery.py`), together with
the addresses that the name leads to at that moment. A URL is written in many ways, and parsers disagree about them: so
only one form is accepted, and `Target` has its parts.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from contextlib import suppress
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Final, NamedTuple

from celeriac.errors import AddressRefused

__all__ = ["Address", "CallbackHosts", "Target", "is_public"]

Address = IPv4Address | IPv6Address

PORTS: Final = {"https": 443, "http": 80}
LONGEST: Final = 2048  # characters of a URL
NAME: Final = r"(?:[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?\.)*[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?"
NUMBER: Final = re.compile(r"(?:0x[0-9a-f]*|[0-9]+)")  # a host whose last label is one is an address, in some form
URL: Final = re.compile(
    rf"(?P<scheme>https?)://(?P<host>\[[0-9a-f:.]{{2,45}}\]|{NAME})(?::(?P<port>[0-9]{{1,5}}))?"
    r"(?P<path>/[!$&-;=@-Z_a-z~%]*)?(?P<query>\?[!$&-;=?@-Z_a-z~%/]*)?",
    re.IGNORECASE | re.ASCII,
)
ENTRY: Final = re.compile(
    rf"(?:(?P<scheme>https?)://)?(?P<host>\*|(?:\*\.)?{NAME}|\[[0-9a-f:.]+\])(?::(?P<port>[0-9]{{1,5}}))?",
    re.IGNORECASE | re.ASCII,
)
UNICAST: Final = ip_network("2000::/3")  # all that IANA has given out of IPv6
NAT64: Final = ip_network("64:ff9b::/96")  # the IPv4 address is in its last 32 bits


class Target(NamedTuple):
    """A URL in parts."""

    scheme: str
    host: str  # a name, or an address without brackets
    port: int
    path: str  # with the query

    @classmethod
    def of(cls, url: str) -> Target:
        """Return the parts of a URL. Raises `AddressRefused` for one in another form than that of `URL`."""
        found = URL.fullmatch(url) if len(url) <= LONGEST else None
        if found is None:
            raise AddressRefused(
                f"A callback's URL is https://host/path, of at most {LONGEST:,} characters: without user and password, "
                "without a fragment, and with characters beyond ASCII escaped (a host as xn--…)."
            )
        scheme, host = found["scheme"].lower(), found["host"].lower().strip("[]")
        port = int(found["port"] or PORTS[scheme])
        if not 0 < port <= 65535:
            raise AddressRefused(f"A port is a number from 1 to 65535, not {port}.")
        if NUMBER.fullmatch(host.rpartition(".")[2]) or ":" in host:
            try:
                host = str(ip_address(host))
            except ValueError:
                raise AddressRefused(f"{found['host']} is not the host of a callback: an IPv4 address is written as "
                                     "four decimal numbers.") from None  # fmt: skip
        return cls(scheme, host, port, (found["path"] or "/") + (found["query"] or ""))

    @property
    def address(self) -> Address | None:
        """The host, if it is an address."""
        try:
            return ip_address(self.host)
        except ValueError:
            return None

    @property
    def authority(self) -> str:
        """The host and, unless it is the usual one, the port: as the header Host has it."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == PORTS[self.scheme] else f"{host}:{self.port}"


class _Host(NamedTuple):
    """An entry that is a host."""

    scheme: str
    host: str
    port: int

    def covers(self, target: Target) -> bool:
        if (self.scheme, self.port) != (target.scheme, target.port):
            return False
        if self.host == "*":
            return True
        if self.host.startswith("*."):
            return target.host.endswith(self.host[1:]) and target.address is None
        return target.host == self.host


class CallbackHosts:
    """The entries of `web_callback_hosts`. Raises `ValueError` for one that is none."""

    def __init__(self, entries: Iterable[str]) -> None:
        self._hosts: list[_Host] = []
        self._networks: list[IPv4Network | IPv6Network] = []
        for entry in entries:
            self._add(entry.strip())

    def _add(self, entry: str) -> None:
        try:
            self._networks.append(ip_network(entry, strict=False))
            return
        except ValueError:
            found = ENTRY.fullmatch(entry)
        if found is None:
            raise ValueError(f"hosts (hooks.example.com, *.example.com, http://hooks.internal:8080) and networks "
                             f"(10.1.0.0/16), not {entry!r}.")  # fmt: skip
        scheme, host = (found["scheme"] or "https").lower(), found["host"].lower().strip("[]")
        self._hosts.append(_Host(scheme, host, int(found["port"] or PORTS[scheme])))
        with suppress(ValueError):  # a name
            self._networks.append(ip_network(host))

    def __bool__(self) -> bool:
        return bool(self._hosts or self._networks)

    def check(self, url: str) -> Target:
        """Return the parts of a URL to which callbacks may go. Raises `AddressRefused`."""
        target = Target.of(url)
        address = target.address
        listed = any(host.covers(target) for host in self._hosts)
        if address is not None and not listed:
            listed = self._has(address) and target.port == PORTS[target.scheme]
        if not listed:
            raise AddressRefused(f"Callbacks do not go to {target.scheme}://{target.authority}: the setting "
                                 "`web_callback_hosts` lists the hosts that they go to.")  # fmt: skip
        if address is not None:
            self.check_address(target, address)
        return target

    def check_address(self, target: Target, address: Address) -> None:
        """Raise `AddressRefused` for an address that is neither public nor listed."""
        if not is_public(address) and not self._has(address):
            raise AddressRefused(f"{target.host} leads to {address}, which is not a public address. To allow it, list "
                                 "it in the setting `web_callback_hosts`.")  # fmt: skip

    def _has(self, address: Address) -> bool:
        inner = _embedded(address) or address
        return any(inner in network for network in self._networks)


def is_public(address: Address) -> bool:
    """Return whether an address is one of the internet: neither private, local, nor of this machine.

    >>> [is_public(ip_address(text)) for text in ("93.184.215.14", "127.0.0.1", "::ffff:10.0.0.1", "64:ff9b::7f00:1")]
    [True, False, False, False]
    """
    inner = _embedded(address)
    if inner is not None:
        return is_public(inner)
    if address.version == 6 and address not in UNICAST:
        return False
    return address.is_global and not (address.is_multicast or address.is_reserved or address.is_unspecified)


def _embedded(address: Address) -> IPv4Address | None:
    """Return the IPv4 address that an IPv6 address stands for, if it does."""
    if isinstance(address, IPv4Address):
        return None
    if address in NAT64:
        return IPv4Address(int(address) & 0xFFFFFFFF)
    if address.teredo is not None:
        return address.teredo[1]
    return address.ipv4_mapped or address.sixtofour
