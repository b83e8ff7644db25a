"""The address of a Redis server: parses its URL, opens sockets, and has the first commands for a new connection.

    redis://[[user]:password@]host[:6379][/db]      rediss:// the same over TLS      unix://[user:password@]/path?db=0
    redis+sentinel://[[user]:password@]host[:26379][,host[:port]…]/service[/db]     Sentinels, which know the master

TLS takes `ssl_ca_certs`, `ssl_certfile`, `ssl_keyfile`, `ssl_cert_reqs=none` and `ssl_check_hostname=false`, as
redis-py does.
"""

from __future__ import annotations

import socket
import ssl
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

import msgspec

from celeriac.drivers.sockets import TLS_OPTIONS, check_credentials, number, port_number, prepare, tls_context
from celeriac.errors import ImproperlyConfigured

__all__ = ["Address"]

PORT = 6379
SENTINEL_PORT = 26379
OPTIONS = TLS_OPTIONS | {"db"}


class Address(msgspec.Struct, frozen=True, kw_only=True):
    """A server's address and credentials."""

    host: str = "localhost"
    port: int = PORT
    path: str = ""  # of a Unix socket, instead of host and port
    db: int = 0
    username: str = ""
    password: str = ""
    tls: bool = False
    options: dict[str, str] = {}
    sentinels: tuple[tuple[str, int], ...] = ()  # host and port of each Sentinel, which is asked for the server's
    service: str = ""  # the Sentinels' name for the server

    @classmethod
    def of(cls, url: str) -> Address:
        """Parse a URL. Raises `ImproperlyConfigured`.

        >>> Address.of("redis://:secret@db.example/2").db
        2
        """
        try:
            check_credentials(url)
            parts = urlsplit(url)
            options = dict(parse_qsl(parts.query, strict_parsing=bool(parts.query)))
            path = unquote(parts.path)
            if parts.scheme == "redis+sentinel":
                return cls._of_sentinels(parts.netloc, path)
            db = options.get("db") or ("" if parts.scheme == "unix" else path.strip("/")) or "0"
            found = cls(
                host=parts.hostname or "localhost",
                port=PORT if parts.port is None else port_number(str(parts.port)),
                db=number(db, "database"), tls=parts.scheme == "rediss",
                path=path if parts.scheme == "unix" else "", username=unquote(parts.username or ""),
                password=unquote(parts.password or ""), options=options,
            )  # fmt: skip
        except ValueError as error:
            raise ImproperlyConfigured(f"The Redis URL cannot be read ({error}): write redis://host:6379/0.") from error
        unknown = sorted(set(options) - OPTIONS)
        if unknown:
            known = ", ".join(sorted(OPTIONS))
            raise ImproperlyConfigured(f"A Redis URL has no option {unknown[0]!r}. Its options are {known}.")
        if parts.scheme == "unix" and not found.path:
            raise ImproperlyConfigured("The Redis URL has no path of a Unix socket: write unix:///run/redis.sock?db=0.")
        return found

    @classmethod
    def _of_sentinels(cls, netloc: str, path: str) -> Address:
        credentials, _, hosts = netloc.rpartition("@")
        username, _, password = credentials.partition(":")
        service, _, db = path.strip("/").partition("/")
        if not service:
            raise ValueError("no service: write redis+sentinel://host:26379/service/0")
        pairs = [host.partition(":") for host in hosts.split(",")]
        return cls(
            sentinels=tuple((host, port_number(port or str(SENTINEL_PORT))) for host, _, port in pairs),
            service=service,
            db=number(db or "0", "database"), username=unquote(username), password=unquote(password),
        )  # fmt: skip

    def at(self, host: str, port: int) -> Address:
        """Return the address of the server at the host and port that a Sentinel has named."""
        return msgspec.structs.replace(self, host=host, port=port, sentinels=())

    def __repr__(self) -> str:
        return f"<Address of Redis: {self}>"  # without the password

    def __str__(self) -> str:
        if self.sentinels:
            return f"{self.service} of {', '.join(f'{host}:{port}' for host, port in self.sentinels)}"
        return self.path or f"{self.host}:{self.port}"

    @property
    def ping(self) -> str:
        """The command line that checks whether the server is running."""
        host, port = self.sentinels[0] if self.sentinels else (self.host, self.port)
        where = f"-s {self.path}" if self.path else f"-h {host} -p {port}"
        return f"redis-cli {where}{' --tls' if self.tls else ''} ping"

    def greeting(self) -> list[tuple[Any, ...]]:
        """Return the first commands of a connection. It is unusable unless all succeed."""
        commands: list[tuple[Any, ...]] = []
        if self.password:
            commands.append(("AUTH", self.username, self.password) if self.username else ("AUTH", self.password))
        if self.db:
            commands.append(("SELECT", self.db))
        return commands

    def tls_context(self) -> ssl.SSLContext | None:
        """Return the TLS settings, or None without TLS. Raises `ImproperlyConfigured` for unusable certificates."""
        return tls_context(self.options, "Redis") if self.tls else None

    def connect(self, timeout: float) -> socket.socket:
        """Return a connected socket. Raises `OSError`, `TimeoutError` after so many seconds."""
        if self.path:
            plain = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            try:
                plain.settimeout(timeout)
                plain.connect(self.path)
            except BaseException:
                plain.close()
                raise
            return plain
        plain = socket.create_connection((self.host, self.port), timeout)
        try:
            prepare(plain)
            context = self.tls_context()
            return plain if context is None else context.wrap_socket(plain, server_hostname=self.host)
        except BaseException:
            plain.close()
            raise
