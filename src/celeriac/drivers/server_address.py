"""Addresses of message servers (AMQP 0-9-1, AMQP 1.0, STOMP), as read from URLs.

    scheme://[user[:password]@]host[:port][,host[:port]…][/virtual-host]

Several hosts are the nodes of one server (a cluster, a standby), tried in turn. TLS options: `ssl_ca_certs`,
`ssl_certfile`, `ssl_keyfile`, `ssl_cert_reqs=none` and `ssl_check_hostname=false`. Each driver derives an `Address`,
which has its schemes, ports and defaults.
"""

from __future__ import annotations

import socket
import ssl
from collections.abc import Mapping
from typing import ClassVar, Self
from urllib.parse import parse_qsl, unquote

import msgspec

from celeriac.drivers.hosts import Host, parse_hosts
from celeriac.drivers.sockets import TLS_OPTIONS, check_credentials, prepare, tls_context
from celeriac.errors import ImproperlyConfigured

__all__ = ["ServerAddress"]


class ServerAddress(msgspec.Struct, frozen=True, kw_only=True):
    """The hosts of a server, and the user and virtual host to connect with."""

    protocol: ClassVar[str]
    schemes: ClassVar[Mapping[str, tuple[int, bool]]]  # the usual port of each, and whether it means TLS
    example: ClassVar[str]  # of a URL, for errors

    hosts: tuple[Host, ...]
    username: str = ""
    password: str = ""
    vhost: str = "/"
    tls: bool = False
    options: dict[str, str] = {}

    @classmethod
    def of(cls, url: str) -> Self:
        """Read a URL. Raises `ImproperlyConfigured`."""
        try:
            check_credentials(url)
            scheme, _, rest = url.partition("://")
            rest, _, query = rest.partition("?")
            netloc, _, path = rest.partition("/")
            credentials, _, hosts = netloc.rpartition("@")
            username, _, password = map(unquote, credentials.partition(":"))
            given = {"username": username, "vhost": unquote(path)}
            given = {name: value for name, value in given.items() if value}
            if credentials:
                given["password"] = password
            cls.check(given)
            port, tls = cls.schemes[scheme]
            options = dict(parse_qsl(query, strict_parsing=bool(query)))
            made = cls(hosts=parse_hosts(hosts, port), tls=tls, options=options, **given)
        except (ValueError, KeyError) as error:
            raise ImproperlyConfigured(
                f"The {cls.protocol} URL cannot be read ({error}): write {cls.example}."
            ) from error
        if unknown := sorted(set(made.options) - TLS_OPTIONS):
            known = ", ".join(sorted(TLS_OPTIONS))
            raise ImproperlyConfigured(f"The {cls.protocol} URL has no option {unknown[0]!r}. Known: {known}.")
        return made

    @classmethod
    def check(cls, given: Mapping[str, str]) -> None:
        """Raise `ValueError` for a user, a password or a virtual host that the protocol cannot carry."""

    def tls_context(self) -> ssl.SSLContext | None:
        """Return the TLS context; None without TLS. Raises `ImproperlyConfigured` for files that cannot be used."""
        return tls_context(self.options, self.protocol) if self.tls else None

    def connect(self, host: str, port: int, timeout: float) -> socket.socket:
        """Return a connected socket. Raises `OSError` after the time-out (seconds)."""
        plain = socket.create_connection((host, port), timeout)
        try:
            prepare(plain)
            context = self.tls_context()
            return plain if context is None else context.wrap_socket(plain, server_hostname=host)
        except BaseException:
            plain.close()
            raise

    def __repr__(self) -> str:
        return f"<Address of {self.protocol}: {self}>"  # without the password

    def __str__(self) -> str:
        where = ", ".join(f"{host}:{port}" for host, port in self.hosts)
        return where if self.vhost in ("", "/") else f"{where} (virtual host {self.vhost})"
