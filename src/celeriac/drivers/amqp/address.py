"""Addresses of AMQP servers, as read from URLs.

    amqp://[user[:password]@]host[:5672][,host[:port]…][/vhost]        amqps://… the same over TLS, port 5671

Several hosts are the nodes of one cluster, tried in turn. TLS options: `ssl_ca_certs`, `ssl_certfile`, `ssl_keyfile`,
`ssl_cert_reqs=none` and `ssl_check_hostname=false`.
"""

from __future__ import annotations

import socket
import ssl
from urllib.parse import parse_qsl, unquote

import msgspec

from celeriac.drivers.hosts import parse_hosts
from celeriac.drivers.sockets import TLS_OPTIONS, check_credentials, prepare, tls_context
from celeriac.errors import ImproperlyConfigured

__all__ = ["Address"]

PORTS = {"amqp": 5672, "amqps": 5671}


class Address(msgspec.Struct, frozen=True, kw_only=True):
    """The hosts of a server, and the user and vhost to connect with."""

    hosts: tuple[tuple[str, int], ...]
    username: str = "guest"
    password: str = "guest"  # noqa: S105 - the default of every AMQP client
    vhost: str = "/"
    tls: bool = False
    options: dict[str, str] = {}

    @classmethod
    def of(cls, url: str) -> Address:
        """Read a URL. Raises `ImproperlyConfigured`.

        >>> Address.of("amqp://me:secret@a,b:5673/shop").hosts
        (('a', 5672), ('b', 5673))
        """
        try:
            check_credentials(url)
            scheme, _, rest = url.partition("://")
            rest, _, query = rest.partition("?")
            netloc, slash, path = rest.partition("/")
            credentials, _, hosts = netloc.rpartition("@")
            username, _, password = credentials.partition(":")
            options = dict(parse_qsl(query, strict_parsing=bool(query)))
            found = cls(
                hosts=parse_hosts(hosts, PORTS[scheme]), tls=scheme == "amqps",
                username=unquote(username) or "guest", password=unquote(password) if credentials else "guest",
                vhost=unquote(path) if slash and path else "/", options=options,
            )  # fmt: skip
        except (ValueError, KeyError) as error:
            raise ImproperlyConfigured(
                f"The AMQP URL cannot be read ({error}): write amqp://user:password@host:5672/vhost."
            ) from error
        unknown = sorted(set(options) - TLS_OPTIONS)
        if unknown:
            known = ", ".join(sorted(TLS_OPTIONS))
            raise ImproperlyConfigured(f"An AMQP URL has no option {unknown[0]!r}. Known: {known}.")
        return found

    def tls_context(self) -> ssl.SSLContext | None:
        """Return the TLS context; None without TLS. Raises `ImproperlyConfigured` for files that cannot be used."""
        return tls_context(self.options, "AMQP") if self.tls else None

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
        return f"<Address of AMQP: {self}>"  # without the password

    def __str__(self) -> str:
        return f"{', '.join(f'{host}:{port}' for host, port in self.hosts)} (vhost {self.vhost})"
