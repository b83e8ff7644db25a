"""Addresses of STOMP servers: `stomp://` URLs, and `stomps://` for TLS."""

from __future__ import annotations

from collections.abc import Mapping

from celeriac.drivers.server_address import ServerAddress

__all__ = ["Address"]


class Address(ServerAddress, frozen=True, kw_only=True):
    """The hosts of a server, and the user and virtual host to connect with.

    >>> Address.of("stomp://me:secret@a,b:61614/shop").hosts
    (('a', 61613), ('b', 61614))
    """

    protocol = "STOMP"
    schemes = {"stomp": (61613, False), "stomps": (61612, True)}
    example = "stomp://user:password@host:61613/virtual-host"

    @classmethod
    def check(cls, given: Mapping[str, str]) -> None:
        """Refuse line breaks: the first frame escapes nothing."""
        if any("\n" in part or "\r" in part for part in given.values()):
            raise ValueError("a user, a password or a virtual host has a line break")
