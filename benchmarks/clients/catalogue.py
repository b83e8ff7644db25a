"""The clients and the measures of each server. A client is named by its file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from benchmarks.clients.base import ACK_EVERY, BODY, PREFETCH, WINDOW

__all__ = ["CONSUME", "SERVERS", "Server"]

CONSUME = "consume"  # the only measure that needs messages in the queue


@dataclass(frozen=True)
class Server:
    """The clients to compare, and the titles of the measures by the methods that run them."""

    clients: Sequence[str]
    measures: Mapping[str, str]
    note: str


SERVERS = {
    "amqp": Server(
        clients=("pika_blocking", "pika_select", "py_amqp", "amqpstorm_client", "aiormq_client", "pamqp_socket",
                 "celeriac_amqp", "celeriac_amqp_asyncio"),
        measures={
            "publish_each": "a confirm each",
            "publish_transient": "a confirm each, transient",
            "publish_pipelined": f"{WINDOW} confirms in flight",
            CONSUME: f"consumed, acknowledged by {ACK_EVERY}",
        },
        note=f"Messages of {len(BODY)} bytes, durable except where stated, in one durable classic queue. In flight: "
             f"{WINDOW} are sent, then all {WINDOW} confirms awaited. Consumers have a prefetch of {PREFETCH}.",
    ),
    "redis": Server(
        clients=("redis_py", "redis_py_asyncio", "hiredis_socket", "celeriac_redis", "celeriac_redis_asyncio"),
        measures={"call_each": "one script call each", "call_pipelined": f"pipelined, {WINDOW} calls"},
        note=f"EVALSHA of a script with one LPUSH of {len(BODY)} bytes.",
    ),
}  # fmt: skip
