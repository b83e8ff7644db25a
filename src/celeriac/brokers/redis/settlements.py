"""Encodes settlements as arguments of the scripts `acknowledge` and `settle`. Called by the lease."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from celeriac.brokers.redis.envelope import blob, due, due_again
from celeriac.drivers.redis import outcomes
from celeriac.model.codec import Codec
from celeriac.ports.broker import Action, Settlement

__all__ = ["alike", "each"]

ACKNOWLEDGE = Action.ACKNOWLEDGE


def alike(settlements: Sequence[Settlement], lease: str, codec: Codec) -> list[Any] | None:
    """Return the arguments of `acknowledge`, the fastest script; None if a settlement is not simple enough for it."""
    # This is called for each batch: several short loops are faster than one that does everything.
    if [item for item in settlements if item.action is not ACKNOWLEDGE or item.follow_ups or item.leaves_pending]:
        return None
    deliveries = [item.delivery for item in settlements]
    queue, prefix = deliveries[0].message.queue, len(lease) + 1
    ids = [delivery.message.id for delivery in deliveries]
    if [one for one in deliveries if one.message.queue != queue] or len(set(ids)) < len(ids):
        return None
    proofs = [delivery.token[prefix:] if delivery.token.startswith(lease) else "" for delivery in deliveries]
    ends = [item.outcome for item in settlements]
    values = [b"" if end is None else outcomes.addressed(end, codec) for end in ends]
    places = ["" if end is None or end.place is None else outcomes.place(end.place) for end in ends]
    return [queue, len(ids), *ids, *proofs, *values, *(places if any(places) else ())]


def each(settlements: Sequence[Settlement], lease: str, codec: Codec) -> list[Any]:
    """Return the arguments of `settle`: the number of settlements, the settlements, ends of nodes, follow-ups."""
    parts: list[Any] = [len(settlements)]
    for settlement in settlements:
        parts += _item(settlement, lease, codec)
    ending = [(number, item) for number, item in enumerate(settlements, start=1) if item.ends_node]
    parts.append(len(ending))
    for number, item in ending:
        if item.outcome is not None:
            parts += (number, *outcomes.place_parts(item.outcome, item.leaves_pending))
    for number, settlement in enumerate(settlements, start=1):
        for message in settlement.follow_ups:
            parts += (number, message.queue, message.id, blob(message, codec), due(message))
    return parts


def _item(settlement: Settlement, lease: str, codec: Codec) -> tuple[Any, ...]:
    delivery, outcome, action = settlement.delivery, settlement.outcome, settlement.action
    message = delivery.message
    holder, _, proof = delivery.token.partition(":")
    if holder != lease:
        proof = ""
    if outcome is None:
        value, channel = b"", 0
    else:
        value, channel = outcomes.encode(outcome, codec), outcomes.channel_of(outcome.id)
    item = (message.queue, message.id, proof, action.value, value, channel)
    if action is Action.ACKNOWLEDGE:
        return item
    if action is Action.BURY:
        return (*item, settlement.reason)
    back = settlement.message or message
    return (*item, back.queue, blob(back, codec), due_again(back, settlement.delay), settlement.deliveries)
