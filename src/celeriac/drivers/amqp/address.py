"""Addresses of AMQP 0-9-1 servers: `amqp://` URLs, and `amqps://` for TLS."""

from __future__ import annotations

from celeriac.drivers.server_address import ServerAddress

__all__ = ["Address"]


class Address(ServerAddress, frozen=True, kw_only=True):
    """The nodes of a server, and the user and vhost to connect with.

    >>> Address.of("amqp://me:secret@a,b:5673/shop").hosts
    (('a', 5672), ('b', 5673))
    """

    protocol = "AMQP"
    schemes = {"amqp": (5672, False), "amqps": (5671, True)}
    example = "amqp://user:password@host:5672/vhost"

    username: str = "guest"
    password: str = "guest"  # noqa: S105 - the default of every AMQP client
