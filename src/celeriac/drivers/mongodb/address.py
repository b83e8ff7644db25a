"""The address of a MongoDB: its URL, as PyMongo reads it, and how it is shown to people.

    mongodb://[user:password@]host[:27017][,host[:port]…]/[database][?options]
    mongodb+srv://[user:password@]name/[database][?options]      the hosts are in DNS

The options are those of MongoDB's drivers: `replicaSet`, `authSource`, `tls`, `tlsCAFile` …
"""

from __future__ import annotations

import msgspec
from bson.errors import BSONError
from pymongo.errors import PyMongoError
from pymongo.uri_parser import parse_uri

from celeriac.drivers.sockets import check_credentials
from celeriac.errors import ImproperlyConfigured

__all__ = ["Address"]

SRV = "mongodb+srv://"
PLAIN = "mongodb://"
DATABASE = "celeriac"


class Address(msgspec.Struct, frozen=True):
    """Where a database is."""

    url: str  # with the password
    hosts: str
    database: str

    @classmethod
    def of(cls, url: str) -> Address:
        """Parse a URL. Raises `ImproperlyConfigured`.

        >>> Address.of("mongodb://user:secret@one,two:27018/results")
        <Address of MongoDB: one:27017,two:27018/results>
        """
        try:
            check_credentials(url)
            # The hosts of a name in DNS are looked up by the client: that blocks, and may be tried again.
            parts = parse_uri(PLAIN + url.removeprefix(SRV).removeprefix(PLAIN), validate=True, warn=False)
            if parts["collection"]:
                raise ValueError("the name of a database has no dot")
        except (ValueError, PyMongoError, BSONError) as error:
            raise ImproperlyConfigured(f"The MongoDB URL cannot be read ({error}): write "
                                       "mongodb://host:27017/celeriac.") from error  # fmt: skip
        hosts = [host if url.startswith(SRV) else f"{host}:{port}" for host, port in parts["nodelist"]]
        return cls(url, ",".join(hosts), parts["database"] or DATABASE)

    def __str__(self) -> str:
        return self.hosts

    def __repr__(self) -> str:
        return f"<Address of MongoDB: {self.hosts}/{self.database}>"  # without the password
