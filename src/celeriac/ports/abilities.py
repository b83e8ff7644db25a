"""Abilities that some servers lack. Brokers and backends list them in `lacks`; docs/brokers.md has a table of them.

A caller that depends on an ability checks `can`, or gets `NotSupported` from the operation.
"""

from __future__ import annotations

from enum import Enum

from celeriac.model.codec import PLAIN_CODEC, Codec

__all__ = ["BACKEND_ABILITIES", "BROKER_ABILITIES", "Ability", "Port"]


class Ability(Enum):
    """An ability that an adapter may lack. The value describes it, as the table in docs/brokers.md shows it."""

    KNOW_IDS = "finds a message by its id; publishing an id twice stores it once"
    SEE_SCHEDULED = "lists, counts, purges and moves scheduled messages, or runs them now; a revoked one ends at once"
    CLOCK_LEASES = "ends a lease by the clock when it is not renewed (otherwise: with its connection)"
    JOIN_OUTCOMES = "stores an outcome and acknowledges its message in one step, with the backend on the same server"

    KEEP_OUTCOMES = "keeps outcomes for every caller that has the id (otherwise: sends each to its caller)"
    KEEP_WORKFLOWS = "keeps workflows (otherwise: plain chains alone)"
    LIST_RECENT = "lists the outcomes stored last"
    NOTIFY = "notifies all waiting callers (otherwise: workers tell those in other processes through the broker)"


BROKER_ABILITIES = (Ability.KNOW_IDS, Ability.SEE_SCHEDULED, Ability.CLOCK_LEASES, Ability.JOIN_OUTCOMES)
BACKEND_ABILITIES = (Ability.KEEP_OUTCOMES, Ability.KEEP_WORKFLOWS, Ability.LIST_RECENT, Ability.NOTIFY)


class Port:
    """Base of `Broker` and `Backend`: says what its server cannot do, and how values become bytes."""

    codec: Codec = PLAIN_CODEC
    """Encodes and decodes what is stored and sent: the one that `connect` was given."""

    lacks: frozenset[Ability] = frozenset()
    """What this server cannot do. Operations that need it raise `NotSupported`."""

    reads_block: bool = False
    """Whether its coroutines read without giving the event loop to others. Front ends run those in threads."""

    def can(self, ability: Ability) -> bool:
        """Return whether the server has an ability."""
        return ability not in self.lacks
