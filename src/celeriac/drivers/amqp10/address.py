"""Addresses of AMQP 1.0 servers: `amqp10://` URLs, and `amqps10://` for TLS.

A user and a password are sent by SASL PLAIN. Without them the client certificate of a TLS connection is offered
(EXTERNAL), and without that one nothing (ANONYMOUS).
"""

from __future__ import annotations

from celeriac.drivers.server_address import ServerAddress

__all__ = ["Address"]


class Address(ServerAddress, frozen=True, kw_only=True):
    """The hosts of a server, and the user and virtual host to connect with.

    >>> Address.of("amqp10://me:secret@a,b:5673/shop").hosts
    (('a', 5672), ('b', 5673))
    """

    protocol = "AMQP 1.0"
    schemes = {"amqp10": (5672, False), "amqps10": (5671, True)}
    example = "amqp10://user:password@host:5672/virtual-host"

    vhost: str = ""

    @property
    def mechanism(self) -> str:
        """The SASL mechanism that the URL asks for."""
        if self.username:
            return "PLAIN"
        return "EXTERNAL" if "ssl_certfile" in self.options else "ANONYMOUS"
