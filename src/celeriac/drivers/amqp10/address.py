"""Addresses of AMQP 1.0 servers, as read from URLs.

    amqp10://[user:password@]host[:5672][,host[:port]…][/virtual-host]        amqps10://… the same over TLS, port 5671

Several hosts are tried in turn. A user and a password are sent by SASL PLAIN. Without them the client certificate of a
TLS connection is offered (EXTERNAL), and without that one nothing (ANONYMOUS). TLS options: `ssl_ca_certs`,
`ssl_certfile`, `ssl_keyfile`, `ssl_cert_reqs=none` and `ssl_check_hostname=false`.
"""

from __future__ import annotations

import ssl
from urllib.parse import parse_qsl, unquote

import msgspec

from celeriac.drivers.hosts import parse_hosts
from celeriac.drivers.sockets import TLS_OPTIONS, check_credentials, tls_context
from celeriac.errors import ImproperlyConfigured

__all__ = ["Address"]

PORTS = {"amqp10": 5672, "amqps10": 5671}


class Address(msgspec.Struct, frozen=True, kw_only=True):
    """The hosts of a server, and the user and virtual host to connect with."""

    hosts: tuple[tuple[str, int], ...]
    username: str = ""
    password: str = ""
    virtual_host: str = ""
    tls: bool = False
    options: dict[str, str] = {}

    @classmethod
    def of(cls, url: str) -> Address:
        """Read a URL. Raises `ImproperlyConfigured`.

        >>> Address.of("amqp10://me:secret@a,b:5673/shop").hosts
        (('a', 5672), ('b', 5673))
        """
        try:
            check_credentials(url)
            scheme, _, rest = url.partition("://")
            rest, _, query = rest.partition("?")
            netloc, _, path = rest.partition("/")
            credentials, _, hosts = netloc.rpartition("@")
            username, _, password = credentials.partition(":")
            options = dict(parse_qsl(query, strict_parsing=bool(query)))
            found = cls(
                hosts=parse_hosts(hosts, PORTS[scheme]), tls=scheme == "amqps10",
                username=unquote(username), password=unquote(password), virtual_host=unquote(path), options=options,
            )  # fmt: skip
        except (ValueError, KeyError) as error:
            raise ImproperlyConfigured(
                f"The AMQP 1.0 URL cannot be read ({error}): write amqp10://user:password@host:5672/virtual-host."
            ) from error
        if unknown := sorted(set(options) - TLS_OPTIONS):
            known = ", ".join(sorted(TLS_OPTIONS))
            raise ImproperlyConfigured(f"An AMQP 1.0 URL has no option {unknown[0]!r}. Known: {known}.")
        return found

    @property
    def mechanism(self) -> str:
        """The SASL mechanism that the URL asks for."""
        if self.username:
            return "PLAIN"
        return "EXTERNAL" if "ssl_certfile" in self.options else "ANONYMOUS"

    def tls_context(self) -> ssl.SSLContext | None:
        """Return the TLS context; None without TLS. Raises `ImproperlyConfigured` for files that cannot be used."""
        return tls_context(self.options, "AMQP 1.0") if self.tls else None

    def __repr__(self) -> str:
        return f"<Address of AMQP 1.0: {self}>"  # without the password

    def __str__(self) -> str:
        hosts = ", ".join(f"{host}:{port}" for host, port in self.hosts)
        return f"{hosts} (virtual host {self.virtual_host})" if self.virtual_host else hosts
