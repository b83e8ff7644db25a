"""Redis's errors become ours here, and nowhere else."""

from __future__ import annotations

import ssl
from typing import Final

import hiredis

from celeriac.drivers.redis.address import Address
from celeriac.errors import BrokerError, BrokerMisconfigured, BrokerUnavailable, ImproperlyConfigured

__all__ = ["BUSY", "InDoubt", "NotRedis", "code_of", "is_our_limit", "refused", "silent", "unsuitable"]


class InDoubt(BrokerUnavailable):
    """The connection was lost after the request was sent: it may have been carried out, or a part of it."""


class NotRedis(ConnectionError):
    """What came is no answer of a Redis."""


BUSY: Final = frozenset({"LOADING", "BUSY", "MASTERDOWN", "TRYAGAIN", "CLUSTERDOWN"})
"""What passes by itself: worth asking again until the time-out."""

STEPS: Final = {
    "OOM": "it has reached `maxmemory`. Nothing was stored; give it more memory, or let workers catch up",
    "FULL": "it has as many connections as its `maxclients` allows. Raise that, or let others close theirs",
    "READONLY": "it is a replica. Name the master in the URL",
    "MISCONF": "it cannot write its data to disk. Make room there, or see its log",
    "NOREPLICAS": "too few of its replicas can be reached",
    "NOAUTH": "it wants a password: redis://:password@host",
    "WRONGPASS": "the user or the password is wrong",
    "NOPERM": "this user may not do that. It needs ~celeriac:* &celeriac:* +@all -@dangerous +info (with your prefix)",
    "MOVED": "it is a node of a Redis Cluster. Give `redis_prefix` a hash tag, as in '{celeriac}', and name the node "
    "that has it",
}
WORDINGS: Final = {"user executing the script can't": "NOPERM", "max number of clients": "FULL"}
"""What some error replies say, instead of their code."""

FOR_NOW: Final = frozenset({*BUSY, "FULL", "OOM", "READONLY", "MISCONF", "NOREPLICAS"})

NO_EVICTION: Final = "noeviction"
OLDEST: Final = (7, 0)


def code_of(reply: hiredis.ReplyError) -> str:
    """Return the first word of an error reply, which says its kind; that of the inner error, for a script's."""
    text = str(reply)
    for wording, code in WORDINGS.items():
        if wording in text:
            return code
    return text.partition(" ")[0]


def refused(reply: hiredis.ReplyError, address: Address) -> BrokerError:
    """Return the error that an error reply means."""
    code = code_of(reply)
    kind = BrokerUnavailable if code in FOR_NOW else BrokerError
    if code in STEPS:
        return kind(f"Redis at {address} refuses: {STEPS[code]} ({reply}).")
    return kind(f"Redis at {address}: {reply}")


def is_our_limit(error: OSError) -> bool:
    """Say whether we have waited for as long as we may; else the kernel has given the connection up (ETIMEDOUT)."""
    return isinstance(error, TimeoutError) and error.errno is None


def silent(error: BaseException, address: Address, timeout: float) -> BrokerUnavailable:
    """Return the error for a server that cannot be reached, does not answer, or is not to be trusted."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return BrokerMisconfigured(f"Redis at {address} shows a certificate that cannot be trusted: "
                                   f"{error.verify_message}. Name the authority that signed it: "
                                   "rediss://…?ssl_ca_certs=/path/to/ca.crt")  # fmt: skip
    if isinstance(error, NotRedis):
        return BrokerMisconfigured(f"What is at {address} does not answer as Redis does ({error}). Name the port of a "
                                   "Redis; if it wants TLS, write rediss://.")  # fmt: skip
    if isinstance(error, TimeoutError):
        return BrokerUnavailable(f"Redis at {address} did not answer within {timeout:g} s (`broker_publish_timeout`).")
    return BrokerUnavailable(f"Redis at {address} cannot be reached: {error}. Is it running? `{address.ping}`")


def unsuitable(info: bytes, address: Address) -> ImproperlyConfigured | None:
    """Return why a server with this INFO must not be used, or None."""
    facts = dict(line.split(":", 1) for line in info.decode(errors="replace").splitlines() if ":" in line)
    policy = facts.get("maxmemory_policy", NO_EVICTION)
    if policy != NO_EVICTION:
        return ImproperlyConfigured(
            f"Redis at {address} has `maxmemory-policy {policy}`: when its memory is full it would throw away messages "
            "or results without a word. Set it: redis-cli CONFIG SET maxmemory-policy noeviction (and in redis.conf)."
        )
    version = facts.get("redis_version", "")
    numbers = tuple(int(part) for part in version.split(".")[:2] if part.isdigit())
    if numbers and numbers < OLDEST:
        return ImproperlyConfigured(f"Redis at {address} is version {version}; Celeriac needs 7.0 or later, or Valkey.")
    return None
