"""Translates the errors of Redis and of the network into Celeriac's. Nothing else does."""

from __future__ import annotations

from typing import Final

import hiredis

from celeriac.drivers.redis.address import Address
from celeriac.drivers.sockets import distrust
from celeriac.errors import AccessRefused, BrokerError, BrokerMisconfigured, BrokerUnavailable, ImproperlyConfigured

__all__ = ["BUSY", "InDoubt", "NotRedis", "code_of", "is_our_limit", "refused", "silent", "unsuitable"]


class InDoubt(BrokerUnavailable):
    """The connection was lost after the request was sent: all or part of it may have been carried out."""


class NotRedis(ConnectionError):
    """The server sent a reply that is not in Redis's protocol."""


BUSY: Final = frozenset({"LOADING", "BUSY", "MASTERDOWN", "TRYAGAIN", "CLUSTERDOWN"})
"""Codes of temporary errors: the request is sent again until the time-out."""

STEPS: Final = {
    "OOM": "it has reached `maxmemory`. Nothing was stored; give it more memory, or wait for workers to catch up",
    "FULL": "it has as many connections as `maxclients` allows. Raise `maxclients`, or close other connections",
    "READONLY": "it is a replica. Name the master in the URL",
    "MISCONF": "it cannot write its data to disk. Free some disk space, or see its log",
    "NOREPLICAS": "too few of its replicas can be reached",
    "NOAUTH": "it wants a password: write redis://:password@host",
    "WRONGPASS": "the user or the password is wrong",
    "NOPERM": "this user may not do that. Grant it what its role needs (docs/security.md), or everything: "
    "~celeriac:* &celeriac:* +@all -@dangerous +info (with your prefix)",
    "MOVED": "this node of the Redis Cluster does not have the keys. Give `redis_prefix` a hash tag ('{celeriac}'), "
    "and name the node that has its slot in the URL",
}
WORDINGS: Final = {"user executing the script can't": "NOPERM", "max number of clients": "FULL"}
"""Error replies that are recognised by their text, for lack of a code."""

FOR_NOW: Final = frozenset({*BUSY, "FULL", "OOM", "READONLY", "MISCONF", "NOREPLICAS"})

REFUSALS: Final = frozenset({"NOAUTH", "WRONGPASS", "NOPERM"})

NO_EVICTION: Final = "noeviction"
OLDEST: Final = (7, 0)


def code_of(reply: hiredis.ReplyError) -> str:
    """Return the code of an error reply, its first word; for the error of a script, that of the command that failed."""
    text = str(reply)
    for wording, code in WORDINGS.items():
        if wording in text:
            return code
    return text.partition(" ")[0]


def refused(reply: hiredis.ReplyError, address: Address) -> BrokerError:
    """Return Celeriac's error for an error reply."""
    code = code_of(reply)
    kind = BrokerUnavailable if code in FOR_NOW else AccessRefused if code in REFUSALS else BrokerError
    if code in STEPS:
        return kind(f"Redis at {address} refused a command: {STEPS[code]} ({reply}).")
    return kind(f"Redis at {address} replied with an error: {reply}")


def is_our_limit(error: OSError) -> bool:
    """Return whether Celeriac's time-out ended the wait; otherwise the kernel gave up the connection (ETIMEDOUT)."""
    return isinstance(error, TimeoutError) and error.errno is None


def silent(error: BaseException, address: Address, timeout: float) -> BrokerUnavailable:
    """Return the error for a server that cannot be reached, does not reply, or cannot be trusted."""
    if distrusted := distrust(error, f"Redis at {address}", "rediss://"):
        return BrokerMisconfigured(distrusted)
    if isinstance(error, NotRedis):
        return BrokerMisconfigured(f"The server at {address} does not speak Redis's protocol ({error}). Name the port "
                                   "of a Redis server; if it expects TLS, write rediss://.")  # fmt: skip
    if isinstance(error, TimeoutError):
        return BrokerUnavailable(f"Redis at {address} did not answer within {timeout:g} s (`broker_publish_timeout`).")
    return BrokerUnavailable(f"Redis at {address} cannot be reached: {error}. Is it running? `{address.ping}`")


def unsuitable(info: bytes, address: Address) -> ImproperlyConfigured | None:
    """Return the error for a server that must not be used, judged by its INFO; None if it may be."""
    facts = dict(line.split(":", 1) for line in info.decode(errors="replace").splitlines() if ":" in line)
    policy = facts.get("maxmemory_policy", NO_EVICTION)
    if policy != NO_EVICTION:
        return ImproperlyConfigured(
            f"Redis at {address} has `maxmemory-policy {policy}`: when its memory is full, it would delete messages or "
            "results without notice. Run `redis-cli CONFIG SET maxmemory-policy noeviction`, and set it in redis.conf."
        )
    version = facts.get("redis_version", "")
    numbers = tuple(int(part) for part in version.split(".")[:2] if part.isdecimal() and len(part) < 9)
    if numbers and numbers < OLDEST:
        return ImproperlyConfigured(f"Redis at {address} is version {version}; Celeriac needs 7.0 or later, or Valkey.")
    return None
