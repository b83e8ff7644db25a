"""Addresses of STOMP servers, as read from URLs.

    stomp://[user[:password]@]host[:61613][,host[:port]…][/virtual-host]        stomps://… the same over TLS, port 61612

Several hosts are the nodes of one server (a cluster, a standby), tried in turn. TLS options: `ssl_ca_certs`,
`ssl_certfile`, `ssl_keyfile`, `ssl_cert_reqs=none` and `ssl_check_hostname=false`.
"""

from __future__ import annotations

import socket
import ssl
from urllib.parse import parse_qsl, unquote

import msgspec

from celeriac.drivers.hosts import Host, parse_hosts
from celeriac.drivers.sockets import TLS_OPTIONS, check_credentials, prepare, tls_context
from celeriac.errors import ImproperlyConfigured

__all__ = ["Address"]

PORTS = {"stomp": 61613, "stomps": 61612}


class Address(msgspec.Struct, frozen=True, kw_only=True):
    """The hosts of a server, and the user and virtual host to connect with."""

    hosts: tuple[Host, ...]
    username: str | None = None
    password: str | None = None
    vhost: str = "/"
    tls: bool = False
    options: dict[str, str] = {}

    @classmethod
    def of(cls, url: str) -> Address:
        """Read a URL. Raises `ImproperlyConfigured`.

        >>> Address.of("stomp://me:secret@a,b:61614/shop").hosts
        (('a', 61613), ('b', 61614))
        """
        try:
            check_credentials(url)
            scheme, _, rest = url.partition("://")
            rest, _, query = rest.partition("?")
            netloc, _, path = rest.partition("/")
            credentials, _, hosts = netloc.rpartition("@")
            username, _, password = (unquote(part) for part in credentials.partition(":"))
            found = cls(
                hosts=parse_hosts(hosts, PORTS[scheme]), tls=scheme == "stomps", username=username or None,
                password=password if credentials else None, vhost=unquote(path) or "/",
                options=dict(parse_qsl(query, strict_parsing=bool(query))),
            )  # fmt: skip
            for part in (found.username, found.password, found.vhost):
                if part is not None and ("\n" in part or "\r" in part):
                    raise ValueError("a user, a password or a virtual host has a line break")
        except (ValueError, KeyError) as error:
            raise ImproperlyConfigured(
                f"The STOMP URL cannot be read ({error}): write stomp://user:password@host:61613/virtual-host."
            ) from error
        unknown = sorted(set(found.options) - TLS_OPTIONS)
        if unknown:
            known = ", ".join(sorted(TLS_OPTIONS))
            raise ImproperlyConfigured(f"A STOMP URL has no option {unknown[0]!r}. Known: {known}.")
        return found

    def tls_context(self) -> ssl.SSLContext | None:
        """Return the TLS context; None without TLS. Raises `ImproperlyConfigured` for files that cannot be used."""
        return tls_context(self.options, "STOMP") if self.tls else None

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
        return f"<Address of STOMP: {self}>"  # without the password

    def __str__(self) -> str:
        where = ", ".join(f"{host}:{port}" for host, port in self.hosts)
        return where if self.vhost == "/" else f"{where} (virtual host {self.vhost})"
