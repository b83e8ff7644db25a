"""What every broker must do: one suite for the ports `Broker`, `Lease` and `Operations`.

A subclass is collected with a fixture `ports` (see `tests/test_brokers.py`); the suite says nothing of any adapter.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
from msgspec.structs import replace

from celeriac import states
from celeriac.errors import LeaseLost, NotSupported
from celeriac.model.message import COROUTINE, PLAIN, Message, new_id
from celeriac.model.outcome import Outcome
from celeriac.ports.abilities import Ability
from celeriac.ports.backend import Backend
from celeriac.ports.broker import Action, Broker, Claim, Delivery, Lease, Settlement
from celeriac.ports.operations import Dead, WorkerInfo
from celeriac.ports.workflows import WorkflowStore
from tests.clock import FakeClock
from tests.hostile import MESSAGES
from tests.patience import FOR_EVER, PATIENCE

LEASE_SECONDS = 15.0
MAX_DELIVERIES = 3
PROMPTLY = PATIENCE  # far below the waits that are cut short, and far above what a slow machine needs
LONG = FOR_EVER


@dataclass
class Ports:
    """A broker under test, and a backend that it joins (or another, where it joins none)."""

    broker: Broker
    backend: Backend
    clock: FakeClock
    again: Callable[[], Broker]  # the same broker, as another process would open it
    lost: Callable[[Lease], Awaitable[None]] | None = None  # how a worker dies; None: its lease runs out by the clock
    spoil: Callable[[Message, bytes], None] | None = None  # puts bytes in a message's place that cannot be read
    lists_unfinished: bool = True  # whether the backend can list workflows that have not ended
    leases: list[Lease] = field(default_factory=list)

    async def lease(self, name: str = "worker", max_deliveries: int = MAX_DELIVERIES) -> Lease:
        return await self.broker.lease(WorkerInfo(name=name), LEASE_SECONDS, max_deliveries)

    @property
    def workflows(self) -> WorkflowStore:
        """The backend, if it keeps workflows."""
        assert isinstance(self.backend, WorkflowStore)
        return self.backend

    def can(self, ability: Ability) -> bool:
        return self.broker.can(ability) and self.backend.can(ability)

    def outcome(self, state: str = states.SUCCESS, **fields: Any) -> Outcome:
        id = fields.pop("id", None) or new_id()
        return Outcome(id=id, task="t", state=state, reply_to=self.backend.reply_to, **fields)

    async def store(self, *outcomes: Outcome) -> list[bool]:
        """Store, and wait until all has come where it is looked for."""
        done = await self.backend.store(outcomes)
        if not self.can(Ability.KEEP_OUTCOMES):
            marker = self.outcome()
            await self.backend.store([marker])
            assert await self.backend.afetch([marker.id], wait=LONG) == {marker.id: marker}
            self.backend.forget([marker.id])
        return done

    async def lose(self, lease: Lease) -> None:
        """Let a worker die. Where leases end by the clock, all that are not renewed do."""
        if self.lost is not None:
            await self.lost(lease)
        else:
            self.clock.advance(LEASE_SECONDS + 1)


def message(queue: str = "default", **fields: Any) -> Message:
    return Message(id=fields.pop("id", None) or new_id(), task="t", queue=queue, **fields)


def claim(delivery: Delivery) -> Claim:
    return Claim(delivery.token, delivery.message.queue, delivery.message.id)


def ids(found: Sequence[Any]) -> list[str]:
    return [item.message.id if hasattr(item, "message") else item.id for item in found]


async def receive(lease: Lease, plain: int = 10, coroutine: int = 10, wait: float = 0.0,
                  queues: Sequence[str] = ("default",)) -> list[Delivery]:  # fmt: skip
    return await lease.receive(queues, {PLAIN: plain, COROUTINE: coroutine}, wait)


async def one(lease: Lease) -> Delivery:
    [delivery] = await receive(lease, 1, 1, wait=PROMPTLY)
    return delivery


async def several(lease: Lease, count: int, queues: Sequence[str] = ("default",)) -> list[Delivery]:
    """Receive until so many messages have come: a receive may give a part of what is there."""
    found: list[Delivery] = []
    while len(found) < count and (more := await receive(lease, wait=PROMPTLY, queues=queues)):
        found += more
    return found


JUNK = b"junk"


def spoil(ports: Ports, item: Message, junk: bytes = JUNK) -> None:
    assert ports.spoil is not None
    ports.spoil(item, junk)


async def put_aside(ports: Ports, lease: Lease) -> list[Dead]:
    """Return the dead letters as soon as there are any; a worker that receives does not stop."""
    async with asyncio.timeout(PROMPTLY):
        while not (letters := await ports.broker.operations().dead("default", 10)):
            assert await receive(lease) == []
    return letters


async def taken_over(lease: Lease) -> list[Delivery]:
    """Return what a sweep takes over; receiving gives nothing of it."""
    assert await receive(lease) == []
    return await lease.sweep()


async def is_nowhere(ports: Ports, item: Message) -> bool:
    """Say whether a message is neither ready nor anywhere else, as far as the broker can tell."""
    operations = ports.broker.operations()
    if ports.can(Ability.KNOW_IDS):
        return await operations.find([item.id]) == {}
    return item.id not in ids(await operations.peek(item.queue, 100)) + ids(await operations.dead(item.queue, 100))


async def leases_end_with_their_file(broker: Broker, replace_file: Callable[[], object]) -> None:
    """Assert that no lease in a new file is taken for that of a worker that had the old one."""
    first, second = [await broker.lease(WorkerInfo(name=name), 600.0, 3) for name in ("first", "second")]
    replace_file()
    with pytest.raises(LeaseLost):
        await second.renew()
    again = await broker.lease(WorkerInfo(name="second"), 600.0, 3)
    with pytest.raises(LeaseLost):
        await first.renew()
    await first.end()
    await again.renew()


def success(of: Message) -> Outcome:
    return Outcome(id=of.id, task=of.task, state=states.SUCCESS, value=b"4")


class JunkConformance:
    """For brokers in which a message can be put that cannot be read. `ports` is a fixture."""

    @pytest.mark.parametrize("junk", MESSAGES.values(), ids=MESSAGES)
    async def test_what_cannot_be_read_is_put_aside_and_the_others_go_on(self, ports: Ports, junk: bytes) -> None:
        lease, operations = await ports.lease(), ports.broker.operations()
        messages = [message(), message(), message()]
        ports.broker.publish(messages)
        spoil(ports, messages[1], junk)
        taken = await several(lease, 2)
        assert ids(taken) == ids([messages[0], messages[2]])
        [letter] = await put_aside(ports, lease)
        assert (letter.message.task, letter.message.body, letter.message.queue) == ("(unreadable)", junk, "default")
        assert letter.reason.startswith("it cannot be read: ")
        assert await lease.settle([Settlement(delivery=delivery) for delivery in taken]) == [True, True]
        [counts] = await operations.queues()
        assert (counts.ready, counts.active, counts.dead) == (0, 0, 1)
        assert await operations.find([letter.message.id]) == {letter.message.id: ("dead", letter.message)}
        assert await operations.drop([letter.message.id]) == 1
        assert await operations.queues() == []

    async def test_what_cannot_be_read_does_not_hold_up_who_waits(self, ports: Ports) -> None:
        lease = await ports.lease()
        bad, good = message(), message()
        ports.broker.publish([bad, good])
        spoil(ports, bad)
        async with asyncio.timeout(PROMPTLY):
            assert ids(await receive(lease, 1, 1, wait=LONG)) == [good.id]

    async def test_what_cannot_be_read_of_what_a_dead_worker_held_is_put_aside(self, ports: Ports) -> None:
        dead = await ports.lease("dead")
        messages = [message(acks_late=False) for _ in range(3)]
        ports.broker.publish(messages)
        await receive(dead)
        spoil(ports, messages[1])
        await ports.lose(dead)
        heir = await ports.lease("heir")
        taken = await taken_over(heir)
        assert sorted(ids(taken)) == sorted(ids([messages[0], messages[2]]))
        assert len(await put_aside(ports, heir)) == 1
        assert await heir.settle([Settlement(delivery=delivery) for delivery in taken]) == [True, True]

    async def test_what_cannot_be_read_is_shown_and_a_dead_letter_of_it_is_sent_again(self, ports: Ports) -> None:
        operations = ports.broker.operations()
        messages = [message(), message(), message(due_at=ports.clock.now() + 60)]
        ports.broker.publish(messages)
        spoil(ports, messages[1])
        spoil(ports, messages[2])
        assert [found.task for found in await operations.peek("default", 10)] == ["t", "(unreadable)"]
        assert [found.task for found in await operations.scheduled(None, 10)] == ["(unreadable)"]
        lease = await ports.lease()
        assert ids(await receive(lease)) == [messages[0].id]
        letters = await put_aside(ports, lease)
        assert await operations.resend(ids(letters)) == 1
        assert [(found.message.task, found.message.body) for found in await receive(lease)] == [("(unreadable)", JUNK)]


class BrokerConformance:
    """The promises of the port."""

    # --- Publish --------------------------------------------------------------------------------------

    async def test_a_published_message_is_received_as_it_was(self, ports: Ports) -> None:
        sent = message(
            body=b'[[1],{"a":2}]', priority=7, lane=COROUTINE, headers={"h": [1]}, time_limit=3.5, group_id="g",
            acks_late=False, max_retries=0, expires_at=ports.clock.now() + 60,
        )  # fmt: skip
        ports.broker.publish([sent])
        delivery = await one(await ports.lease())
        assert delivery.message == sent
        assert (delivery.deliveries, delivery.revoked, delivery.lost) == (1, False, False)

    async def test_publishing_from_a_coroutine_is_the_same(self, ports: Ports) -> None:
        sent = [message(), message()]
        await ports.broker.apublish(sent)
        assert ids(await several(await ports.lease(), len(sent))) == ids(sent)

    async def test_publishing_a_message_again_changes_nothing(self, ports: Ports) -> None:
        sent = message()
        ports.broker.publish([sent, sent])
        ports.broker.publish([sent])
        lease = await ports.lease()
        got = await several(lease, 1 if ports.can(Ability.KNOW_IDS) else 3)
        if ports.can(Ability.KNOW_IDS):
            assert len(got) == 1
            ports.broker.publish([sent])  # it is active now
            assert await receive(lease) == []
        else:
            assert ids(got) == [sent.id] * 3  # and each can be settled
            assert await lease.settle([Settlement(delivery=delivery) for delivery in got]) == [True] * 3

    async def test_another_handle_on_the_same_broker_sees_the_messages(self, ports: Ports) -> None:
        sent = message(queue="fresh")
        lease = await ports.again().lease(WorkerInfo(name="elsewhere"), LEASE_SECONDS, MAX_DELIVERIES)
        assert await receive(lease, queues=["fresh"]) == []
        ports.broker.publish([sent])
        assert ids(await receive(lease, queues=["fresh"])) == [sent.id]

    async def test_closing_is_not_the_end(self, ports: Ports) -> None:
        ports.broker.publish([message()])
        ports.broker.close()
        ports.broker.publish([message()])
        assert len(await several(await ports.lease(), 2)) == 2

    def test_many_threads_publish_at_once(self, ports: Ports) -> None:
        def publish() -> None:
            for _ in range(20):
                ports.broker.publish([message()])

        threads = [threading.Thread(target=publish) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        [counts] = ports.broker.complete(ports.broker.operations().queues())
        assert counts.ready == 160

    # --- Receive --------------------------------------------------------------------------------------

    async def test_higher_priorities_come_first_and_older_messages_first_among_equals(self, ports: Ports) -> None:
        sent = [message(priority=priority) for priority in (5, 0, 9, 5, 9, 5)]
        ports.broker.publish(sent[:3])
        ports.broker.publish(sent[3:])
        expected = [sent[i].id for i in (2, 4, 0, 3, 5, 1)]
        assert ids(await ports.broker.operations().peek("default", 10)) == expected
        lease = await ports.lease()
        got: list[Delivery] = []
        while len(got) < len(sent) and (more := await receive(lease, 2 if len(got) < 2 else 10, wait=PROMPTLY)):
            got += more
        assert ids(got) == expected

    async def test_a_lane_is_never_given_more_than_its_slots(self, ports: Ports) -> None:
        ports.broker.publish([message() for _ in range(5)] + [message(lane=COROUTINE) for _ in range(5)])
        lease, free = await ports.lease(), {PLAIN: 1, COROUTINE: 3}
        while any(free.values()):
            got = await receive(lease, free[PLAIN], free[COROUTINE], wait=PROMPTLY)
            assert got  # a part at least
            for delivery in got:
                free[delivery.message.lane] -= 1
            assert min(free.values()) >= 0
        assert await receive(lease, 0, 0) == []

    async def test_a_lane_without_slots_does_not_keep_the_other_waiting(self, ports: Ports) -> None:
        ports.broker.publish([message(priority=9) for _ in range(3)])
        ports.broker.publish([message(lane=COROUTINE)])
        [delivery] = await receive(await ports.lease(), plain=0, coroutine=1)
        assert delivery.message.lane == COROUTINE

    async def test_only_the_queues_that_are_asked_for_are_received_from(self, ports: Ports) -> None:
        ports.broker.publish([message("a"), message("b"), message("c")])
        got = await several(await ports.lease(), 2, queues=["a", "c"])
        assert {delivery.message.queue for delivery in got} == {"a", "c"}

    async def test_no_queue_starves_when_there_are_more_messages_than_slots(self, ports: Ports) -> None:
        ports.broker.publish([message(queue) for _ in range(10) for queue in "ab"])
        lease = await ports.lease()
        order = ""
        async with asyncio.timeout(LONG):
            while len(order) < 12:
                got = await receive(lease, 1, 0, queues=["a", "b"], wait=1.0)
                order += "".join(delivery.message.queue for delivery in got)
                await lease.settle([Settlement(delivery=delivery) for delivery in got])
        assert min(order.count("a"), order.count("b")) >= 3, order

    async def test_a_message_is_held_by_one_worker_alone(self, ports: Ports) -> None:
        ports.broker.publish([message()])
        assert len(await receive(await ports.lease("a"))) == 1
        assert await receive(await ports.lease("b")) == []

    async def test_two_workers_share_a_queue_without_loss_or_double(self, ports: Ports) -> None:
        sent = [message() for _ in range(30)]
        ports.broker.publish(sent)
        got: list[str] = []

        async def work(lease: Lease) -> None:
            while len(got) < len(sent):
                deliveries = await receive(lease, 2, wait=0.1)
                got.extend(ids(deliveries))
                await lease.settle([Settlement(delivery=delivery) for delivery in deliveries])

        a, b = await ports.lease("a"), await ports.lease("b")
        async with asyncio.timeout(LONG):
            await asyncio.gather(work(a), work(b))
        assert await receive(a) + await receive(b) == []
        assert sorted(got) == sorted(ids(sent))

    async def test_receiving_from_nothing_ends_when_the_wait_does(self, ports: Ports) -> None:
        assert await receive(await ports.lease(), wait=0.01) == []

    async def test_a_publish_from_another_thread_wakes_who_receives(self, ports: Ports) -> None:
        waiting = asyncio.create_task(receive(await ports.lease(), wait=LONG))
        await asyncio.sleep(0.02)
        started = time.monotonic()
        sent = message()
        await asyncio.to_thread(ports.broker.publish, [sent])
        assert ids(await waiting) == [sent.id]
        assert time.monotonic() - started < PROMPTLY

    async def test_receiving_can_be_cancelled_and_takes_nothing_with_it(self, ports: Ports) -> None:
        lease = await ports.lease()
        waiting = asyncio.create_task(receive(lease, wait=LONG))
        await asyncio.sleep(0.02)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        ports.broker.publish([message()])
        assert len(await receive(lease)) == 1

    # --- Later ----------------------------------------------------------------------------------------

    async def test_a_message_is_not_received_before_it_is_due(self, ports: Ports) -> None:
        ports.broker.publish([message(due_at=ports.clock.now() + 60)])
        lease = await ports.lease()
        assert await receive(lease) == []
        ports.clock.advance(59)
        assert await receive(lease) == []
        ports.clock.advance(2)
        assert len(await receive(lease)) == 1

    async def test_a_message_that_was_due_long_ago_is_received_at_once(self, ports: Ports) -> None:
        ports.broker.publish([message(due_at=ports.clock.now() - 60)])
        assert len(await receive(await ports.lease())) == 1

    async def test_who_receives_wakes_when_a_message_becomes_due(self, ports: Ports) -> None:
        ports.broker.publish([message(due_at=ports.clock.now() + 0.05)])
        waiting = asyncio.create_task(receive(await ports.lease(), wait=LONG))
        await asyncio.sleep(0)
        ports.clock.advance(0.05)
        started = time.monotonic()
        assert len(await waiting) == 1
        assert time.monotonic() - started < PROMPTLY

    async def test_scheduled_messages_are_listed_soonest_first(self, ports: Ports) -> None:
        now = ports.clock.now()
        sent = [message("a", due_at=now + 30), message("b", due_at=now + 10), message("a", due_at=now + 20)]
        ports.broker.publish(sent)
        operations = ports.broker.operations()
        if not ports.can(Ability.SEE_SCHEDULED):
            with pytest.raises(NotSupported, match="SQLite and Redis can"):
                await operations.scheduled(None, 10)
            return
        assert ids(await operations.scheduled(None, 10)) == [sent[1].id, sent[2].id, sent[0].id]
        assert ids(await operations.scheduled("a", 1, offset=1)) == [sent[0].id]
        ports.clock.advance(15)
        assert ids(await operations.scheduled(None, 10)) == [sent[2].id, sent[0].id]
        assert ids(await operations.peek("b", 10)) == [sent[1].id]

    # --- Settle ---------------------------------------------------------------------------------------

    async def test_acknowledging_ends_a_message(self, ports: Ports) -> None:
        ports.broker.publish([message()])
        lease = await ports.lease()
        delivery = await one(lease)
        assert await lease.settle([Settlement(delivery=delivery)]) == [True]
        assert await is_nowhere(ports, delivery.message)
        await lease.end()
        assert await receive(await ports.lease("next")) == []

    async def test_a_returned_message_comes_again_as_it_was_returned(self, ports: Ports) -> None:
        ports.broker.publish([message()])
        lease = await ports.lease()
        delivery = await one(lease)
        retry = replace(delivery.message, attempt=2, due_at=ports.clock.now() + 10, priority=9, lane=COROUTINE,
                        body=b"[[9],{}]", headers={"a": 1})  # fmt: skip
        settlement = Settlement(delivery=delivery, action=Action.RETURN, message=retry, deliveries=0)
        assert await lease.settle([settlement]) == [True]
        assert await receive(lease) == []
        ports.clock.advance(11)
        again = await one(lease)
        assert (again.message, again.deliveries) == (retry, 1)

    async def test_the_count_of_deliveries_goes_on_from_what_the_return_says(self, ports: Ports) -> None:
        ports.broker.publish([message()])
        lease = await ports.lease()
        delivery = await one(lease)
        await lease.settle([Settlement(delivery=delivery, action=Action.RETURN, deliveries=delivery.deliveries)])
        assert (await one(lease)).deliveries == 2

    async def test_a_message_may_be_returned_to_another_queue(self, ports: Ports) -> None:
        ports.broker.publish([message()])
        lease = await ports.lease()
        delivery = await one(lease)
        moved = replace(delivery.message, queue="other")
        await lease.settle([Settlement(delivery=delivery, action=Action.RETURN, message=moved)])
        assert await receive(lease) == []
        assert ids(await receive(lease, queues=["other"])) == [moved.id]

    async def test_a_buried_message_is_a_dead_letter_with_its_reason(self, ports: Ports) -> None:
        ports.broker.publish([message()])
        lease = await ports.lease()
        delivery = await one(lease)
        await lease.settle([Settlement(delivery=delivery, action=Action.BURY, reason="it kills")])
        [letter] = await ports.broker.operations().dead(None, 10)
        assert (letter.message.id, letter.reason, letter.at) == (delivery.message.id, "it kills", ports.clock.now())
        assert await receive(lease) == []

    async def test_follow_ups_are_published_when_a_message_is_settled(self, ports: Ports) -> None:
        ports.broker.publish([message()])
        lease = await ports.lease()
        delivery = await one(lease)
        follow = message("later", lane=COROUTINE)
        await lease.settle([Settlement(delivery=delivery, follow_ups=[follow])])
        assert ids(await receive(lease, queues=["later"])) == [follow.id]

    async def test_settling_stores_the_outcome_in_a_joined_backend_and_in_no_other(self, ports: Ports) -> None:
        ports.broker.publish([message()])
        lease = await ports.lease()
        delivery = await one(lease)
        await lease.settle([Settlement(delivery=delivery, outcome=success(delivery.message))])
        found = await ports.backend.afetch([delivery.message.id])
        joined = ports.broker.joins(ports.backend)  # otherwise the caller of `settle` has stored it before
        assert joined == ports.can(Ability.JOIN_OUTCOMES)
        assert found == ({delivery.message.id: success(delivery.message)} if joined else {})

    async def test_nothing_follows_twice_from_what_has_ended_in_a_joined_backend(self, ports: Ports) -> None:
        if not ports.broker.joins(ports.backend):
            pytest.skip("this broker joins no backend")
        sent, lease = message(), await ports.lease()
        for times in (1, 0):  # delivered once more, when it has ended
            ports.broker.publish([sent])
            delivery = await one(lease)
            follow = message("later")
            await lease.settle([Settlement(delivery=delivery, outcome=success(sent), follow_ups=[follow])])
            assert ids(await receive(lease, queues=["later"])) == [follow.id][:times]

    async def test_settling_is_done_for_each_of_a_batch(self, ports: Ports) -> None:
        ports.broker.publish([message() for _ in range(4)])
        lease = await ports.lease()
        a, b, c, d = await several(lease, 4)
        await lease.settle([Settlement(delivery=b)])
        done = await lease.settle(
            [
                Settlement(delivery=a),
                Settlement(delivery=b),
                Settlement(delivery=c, action=Action.RETURN),
                Settlement(delivery=d, action=Action.BURY),
            ]
        )
        assert done == [True, False, True, True]

    # --- Stale tokens ---------------------------------------------------------------------------------

    async def refused(self, ports: Ports, lease: Lease, delivery: Delivery) -> None:
        """Prove that a delivery's token is stale, and that nothing is done for it."""
        follow = message("follow")
        settlement = Settlement(delivery=delivery, outcome=success(delivery.message), follow_ups=[follow])
        assert await lease.settle([settlement]) == [False]
        assert await lease.settle([Settlement(delivery=delivery, action=Action.RETURN)]) == [False]
        assert await lease.settle([Settlement(delivery=delivery, action=Action.BURY)]) == [False]
        assert await is_nowhere(ports, follow)
        assert await ports.backend.afetch([delivery.message.id]) == {}

    async def test_settling_twice_does_nothing_the_second_time(self, ports: Ports) -> None:
        ports.broker.publish([message()])
        lease = await ports.lease()
        delivery = await one(lease)
        await lease.settle([Settlement(delivery=delivery)])
        await self.refused(ports, lease, delivery)

    async def test_what_may_have_been_sent_before_says_so(self, ports: Ports) -> None:
        lease = await ports.lease()
        for again in (False, True, False):
            sent = message()
            await ports.broker.apublish([sent], again)
            delivery = await one(lease)
            assert (delivery.message.id, delivery.again or delivery.message.again) == (sent.id, again)
            await lease.settle([Settlement(delivery=delivery)])

    async def test_a_token_is_stale_when_the_lease_was_swept(self, ports: Ports) -> None:
        ports.broker.publish([message()])
        lease = await ports.lease()
        delivery = await one(lease)
        await ports.lose(lease)
        await (await ports.lease("other")).sweep()
        await self.refused(ports, lease, delivery)

    async def test_a_token_is_stale_when_another_worker_has_the_message(self, ports: Ports) -> None:
        ports.broker.publish([message()])
        lease, other = await ports.lease(), await ports.lease("other")
        delivery = await one(lease)
        await ports.lose(lease)
        await other.renew()
        await other.sweep()
        again = await one(other)
        await self.refused(ports, lease, delivery)
        assert await other.settle([Settlement(delivery=again)]) == [True]

    async def test_a_token_is_stale_when_the_same_worker_got_the_message_again(self, ports: Ports) -> None:
        ports.broker.publish([message()])
        lease = await ports.lease()
        first = await one(lease)
        await lease.settle([Settlement(delivery=first, action=Action.RETURN, deliveries=0)])
        second = await one(lease)
        await self.refused(ports, lease, first)
        assert await lease.settle([Settlement(delivery=second)]) == [True]

    async def test_a_token_is_stale_when_a_message_of_the_same_id_was_sent_anew(self, ports: Ports) -> None:
        sent = message()
        lease = await ports.lease()
        ports.broker.publish([sent])
        first = await one(lease)
        await lease.settle([Settlement(delivery=first)])
        ports.broker.publish([sent])
        second = await one(lease)
        await self.refused(ports, lease, first)
        assert await lease.settle([Settlement(delivery=second)]) == [True]

    async def test_a_token_is_good_for_the_lease_that_got_it_alone(self, ports: Ports) -> None:
        ports.broker.publish([message()])
        delivery = await one(await ports.lease())
        await self.refused(ports, await ports.lease("other"), replace(delivery, token=delivery.token + "0"))

    # --- Leases ---------------------------------------------------------------------------------------

    # --- Leases that other processes use ---------------------------------------------------------------

    async def adopt(self, ports: Ports, delivery: Delivery) -> Lease:
        """Return the lease of a delivery, as another process uses it; skip where a lease is a connection."""
        found = ports.again().adopt(delivery.token, LEASE_SECONDS)
        if found is None:
            assert not ports.can(Ability.CLOCK_LEASES)
            pytest.skip("a lease is a connection of the process that opened it")
        return found

    async def test_an_adopted_lease_has_the_name_and_the_deliveries_of_the_other(self, ports: Ports) -> None:
        ports.broker.publish([message("a", priority=7), message("b", acks_late=False), message("b")])
        lease = await ports.lease()
        found = await several(lease, 3, queues=["a", "b"])
        adopted = await self.adopt(ports, found[0])
        assert adopted.name == lease.name
        assert await adopted.held([claim(delivery) for delivery in found]) == {one.token: one for one in found}
        assert await lease.held([claim(found[0])]) == {found[0].token: found[0]}

    async def test_what_is_not_held_is_not_found_under_an_adopted_lease(self, ports: Ports) -> None:
        ports.broker.publish([message() for _ in range(3)])
        lease, other = await ports.lease(), await ports.lease("other")
        mine, settled = await one(lease), await one(lease)
        theirs = await one(other)
        adopted = await self.adopt(ports, mine)
        await lease.settle([Settlement(delivery=settled)])
        wrong = [
            claim(settled),
            claim(theirs),
            Claim(mine.token, "default", theirs.message.id),
            Claim(mine.token, "elsewhere", mine.message.id),
            Claim(settled.token, "default", mine.message.id),
            Claim(theirs.token, "default", mine.message.id),
        ]
        assert await adopted.held(wrong) == {}

    async def test_what_another_process_received_is_settled_once(self, ports: Ports) -> None:
        ports.broker.publish([message() for _ in range(2)])
        lease = await ports.lease()
        first, second = await several(lease, 2)
        adopted = await self.adopt(ports, first)
        back = Settlement(delivery=second, action=Action.RETURN, deliveries=1)
        assert await adopted.settle([Settlement(delivery=first, outcome=success(first.message)), back]) == [True, True]
        assert await lease.settle([Settlement(delivery=first), Settlement(delivery=second)]) == [False, False]
        again = await one(lease)
        assert (again.message.id, again.deliveries) == (second.message.id, 2)

    async def test_an_adopted_lease_is_renewed_for_all_and_lost_when_it_was_swept(self, ports: Ports) -> None:
        ports.broker.publish([message()])
        lease = await ports.lease()
        adopted = await self.adopt(ports, await one(lease))
        sweeper = await ports.lease("sweeper")
        for _ in range(3):
            ports.clock.advance(LEASE_SECONDS * 0.8)
            await adopted.renew()
            await sweeper.renew()
            assert await sweeper.sweep() == []
        assert await receive(sweeper) == []
        lease.leave()
        ports.clock.advance(LEASE_SECONDS + 1)
        await sweeper.renew()
        await sweeper.sweep()
        with pytest.raises(LeaseLost):
            await adopted.renew()
        assert len(await receive(sweeper)) == 1

    async def test_a_token_of_somebody_else_leads_to_nothing(self, ports: Ports) -> None:
        ports.broker.publish([message()])
        delivery = await one(await ports.lease())
        for token in ("", "x", "1", "1:2", "1:2:3", "1:-1:1:5:5", "a:b:c", ":" * 9, "9" * 40 + ":1:1:1:1",
                      "1:1:1:ffffffffffffffff:1", "0" * 18 + ":1:1", "é:1:1"):  # fmt: skip
            adopted = ports.broker.adopt(token, LEASE_SECONDS)
            if adopted is not None:
                assert await adopted.held([Claim(token, "default", delivery.message.id)]) == {}, token
                with pytest.raises(LeaseLost):
                    await adopted.renew()

    async def test_sweeping_gives_back_what_a_dead_worker_held(self, ports: Ports) -> None:
        ports.broker.publish([message(), message()])
        dead = await ports.lease("dead")
        held = await several(dead, 2)
        await ports.lose(dead)
        lease = await ports.lease("alive")
        assert await lease.sweep() == []
        again = await several(lease, 2)
        in_order = list if ports.can(Ability.CLOCK_LEASES) else sorted  # a server takes back in any order what is lost
        assert in_order(ids(again)) == in_order(ids(held))
        assert [delivery.deliveries for delivery in again] == [2, 2]

    async def test_sweeping_leaves_alone_whoever_renews(self, ports: Ports) -> None:
        ports.broker.publish([message()])
        busy, sweeper = await ports.lease("busy"), await ports.lease("sweeper")
        delivery = await one(busy)
        for _ in range(5):
            ports.clock.advance(LEASE_SECONDS - 1)
            await busy.renew()
            await sweeper.renew()
            assert await sweeper.sweep() == []
        assert await receive(sweeper) == []
        assert await busy.settle([Settlement(delivery=delivery)]) == [True]

    @pytest.mark.parametrize("renewed", [False, True], ids=["the sweeper sees it", "the sweeper has renewed after it"])
    @pytest.mark.parametrize("step", [0.9 * LEASE_SECONDS, 2 * LEASE_SECONDS, 86400.0])
    async def test_a_clock_that_is_set_forward_takes_nothing_from_whoever_renews(
        self, ports: Ports, step: float, renewed: bool
    ) -> None:
        if not ports.can(Ability.CLOCK_LEASES):
            pytest.skip("its leases end with connections")
        ports.broker.publish([message()])
        busy, sweeper = await ports.lease("busy"), await ports.lease("sweeper")
        delivery = await one(busy)
        await busy.renew()
        ports.clock.advance(LEASE_SECONDS / 4)
        await sweeper.renew()
        assert await sweeper.sweep() == []
        ports.clock.step(step)
        for _ in range(2):
            if renewed:
                await sweeper.renew()
            assert await sweeper.sweep() == []
        await busy.renew()
        assert await receive(sweeper) == []
        for _ in range(4):
            ports.clock.advance(LEASE_SECONDS / 2)
            await busy.renew()
            await sweeper.renew()
            assert await sweeper.sweep() == []
        assert await busy.settle([Settlement(delivery=delivery, action=Action.RETURN)]) == [True]
        await one(busy)
        ports.clock.advance(LEASE_SECONDS / 2)
        await sweeper.renew()
        ports.clock.advance(LEASE_SECONDS / 2 + 1)
        await sweeper.sweep()
        await one(sweeper)  # that of a dead worker is taken over in time again
        with pytest.raises(LeaseLost):
            await busy.renew()

    async def test_a_late_worker_whose_lease_nobody_swept_keeps_its_messages(self, ports: Ports) -> None:
        ports.broker.publish([message()])
        lease = await ports.lease()
        delivery = await one(lease)
        ports.clock.advance(10 * LEASE_SECONDS)
        await lease.renew()
        assert await lease.settle([Settlement(delivery=delivery)]) == [True]

    async def test_a_swept_lease_is_lost_for_renewing_and_receiving(self, ports: Ports) -> None:
        lease, other = await ports.lease(), await ports.lease("other")
        await ports.lose(lease)
        await other.renew()
        await other.sweep()
        with pytest.raises(LeaseLost):
            await lease.renew()
        ports.broker.publish([message()])
        with pytest.raises(LeaseLost):
            await receive(lease)

    async def test_a_message_that_may_run_once_is_taken_over_as_lost(self, ports: Ports) -> None:
        ports.broker.publish([message(acks_late=False)])
        dead = await ports.lease("dead")
        await one(dead)
        await ports.lose(dead)
        lease = await ports.lease("alive")
        [delivery] = await taken_over(lease)
        assert (delivery.lost, delivery.deliveries) == (True, 1)
        assert await receive(lease) == []
        assert await lease.settle([Settlement(delivery=delivery)]) == [True]
        assert await lease.sweep() == []

    async def test_a_message_that_was_lost_too_often_is_taken_over_as_lost(self, ports: Ports) -> None:
        ports.broker.publish([message()])
        for number in (1, 2, 3):
            lease = await ports.lease(f"worker {number}")
            assert await lease.sweep() == []
            assert (await one(lease)).deliveries == number
            await ports.lose(lease)
        last = await ports.lease("last")
        [delivery] = await taken_over(last)
        assert (delivery.lost, delivery.deliveries) == (True, 3)
        assert await last.settle([Settlement(delivery=delivery, action=Action.BURY, reason="kills")]) == [True]

    async def test_what_was_taken_over_by_a_worker_that_dies_too_is_taken_over_again(self, ports: Ports) -> None:
        ports.broker.publish([message(acks_late=False)])
        lease = await ports.lease("first")
        await one(lease)
        for name in ("second", "third"):
            await ports.lose(lease)
            lease = await ports.lease(name)
            [delivery] = await taken_over(lease)
            assert delivery.lost

    async def test_what_was_taken_over_is_not_run_when_the_worker_ends_before_settling_it(self, ports: Ports) -> None:
        ports.broker.publish([message(acks_late=False)])
        dead = await ports.lease("dead")
        await one(dead)
        await ports.lose(dead)
        lease, other = await ports.lease("stops"), await ports.lease("other")
        assert len(await taken_over(lease)) == 1
        await lease.end()
        [delivery] = await taken_over(other)
        assert delivery.lost

    async def test_ending_a_lease_gives_its_messages_back_uncounted(self, ports: Ports) -> None:
        ports.broker.publish([message(), message(acks_late=False)])
        lease = await ports.lease()
        held = await several(lease, 2)
        await lease.end()
        again = await several(await ports.lease("next"), 2)
        # A server may have pushed them again to the lease that ended, by subscriptions that ended one by one.
        in_order = list if ports.can(Ability.CLOCK_LEASES) else sorted
        assert in_order(ids(again)) == in_order(ids(held))
        assert [delivery.deliveries for delivery in again] == [1, 1]
        await self.refused(ports, lease, held[0])

    async def test_ending_a_lease_wakes_who_receives(self, ports: Ports) -> None:
        ports.broker.publish([message()])
        lease = await ports.lease()
        await one(lease)
        waiting = asyncio.create_task(receive(await ports.lease("next"), wait=LONG))
        await asyncio.sleep(0.02)
        await lease.end()
        async with asyncio.timeout(PROMPTLY):
            assert len(await waiting) == 1

    async def test_workers_are_listed_while_their_leases_stand(self, ports: Ports) -> None:
        info = WorkerInfo(name="a", host="h", pid=7, queues=("default",), concurrency={PLAIN: 2}, version="1")
        lease = await ports.broker.lease(info, LEASE_SECONDS, MAX_DELIVERIES)
        operations = ports.broker.operations()
        [listed] = await operations.workers()
        now = ports.clock.now()
        assert listed == replace(info, renewed_at=now, expires_at=now + LEASE_SECONDS)
        ports.clock.advance(LEASE_SECONDS + 1)
        assert await operations.workers() == []
        await lease.renew()
        assert [worker.name for worker in await operations.workers()] == ["a"]
        await lease.end()
        assert await operations.workers() == []

    # --- Revoke ---------------------------------------------------------------------------------------

    @pytest.mark.parametrize("when", ["before it is sent", "while it waits", "while it is scheduled"])
    async def test_a_revoked_message_is_delivered_at_once_and_marked(self, ports: Ports, when: str) -> None:
        sent = message(due_at=ports.clock.now() + 3600 if "scheduled" in when else None)
        other = message(due_at=ports.clock.now() + 3600)
        if when == "before it is sent":
            await ports.broker.revoke([sent.id], ports.clock.now() + 60)
        ports.broker.publish([sent, other])
        if when != "before it is sent":
            await ports.broker.revoke([sent.id], ports.clock.now() + 9999)
        lease = await ports.lease()
        if "scheduled" in when and not ports.can(Ability.SEE_SCHEDULED):
            assert await receive(lease) == []
            ports.clock.advance(3600)  # it comes when it is due, and is marked then; and so does the other
            got = {delivery.message.id: delivery.revoked for delivery in await several(lease, 2)}
            assert got == {sent.id: True, other.id: False}
            return
        [delivery] = await receive(lease)
        assert (delivery.message.id, delivery.revoked) == (sent.id, True)

    async def test_other_messages_are_not_marked(self, ports: Ports) -> None:
        revoked, other = message(), message()
        ports.broker.publish([revoked, other])
        await ports.broker.revoke([revoked.id], ports.clock.now() + 60)
        got = {delivery.message.id: delivery.revoked for delivery in await several(await ports.lease(), 2)}
        assert got == {revoked.id: True, other.id: False}

    async def test_a_revocation_is_forgotten_when_its_time_is_over(self, ports: Ports) -> None:
        sent = message()
        await ports.broker.revoke([sent.id], ports.clock.now() + 60)
        ports.clock.advance(200)
        lease = await ports.lease()
        await lease.sweep()
        ports.broker.publish([sent])
        assert not (await one(lease)).revoked

    # --- Broadcast ------------------------------------------------------------------------------------

    async def test_who_listens_hears_what_is_sent_from_then_on(self, ports: Ports) -> None:
        await ports.broker.broadcast("control", [b"before"])
        async with listening(ports.broker, "control") as news, listening(ports.again(), "control") as others:
            await ports.broker.broadcast("other", [b"not this"])
            await ports.broker.broadcast("control", [b"1", b"2"])
            async with asyncio.timeout(PROMPTLY):
                assert [await anext(news), await anext(news)] == [b"1", b"2"]
                assert [await anext(others), await anext(others)] == [b"1", b"2"]

    async def test_a_broadcast_wakes_who_listens(self, ports: Ports) -> None:
        async with listening(ports.broker, "control") as news:
            waiting = asyncio.ensure_future(anext(news))
            await asyncio.sleep(0.02)
            await ports.again().broadcast("control", [b"wake"])
            async with asyncio.timeout(PROMPTLY):
                assert await waiting == b"wake"

    # --- Operations -----------------------------------------------------------------------------------

    async def test_queues_are_counted_by_what_their_messages_wait_for(self, ports: Ports) -> None:
        sent = [message("b"), message("b"), message("a"), message("b", due_at=ports.clock.now() + 60)]
        ports.broker.publish(sent)
        lease = await ports.lease()
        [held] = await receive(lease, 1, queues=["b"])
        [buried] = await receive(lease, 1, queues=["a"])
        await lease.settle([Settlement(delivery=buried, action=Action.BURY)])
        a, b = await ports.broker.operations().queues()
        assert (a.queue, a.ready, a.scheduled, a.active, a.dead) == ("a", 0, 0, 0, 1)
        scheduled = 1 if ports.can(Ability.SEE_SCHEDULED) else 0
        assert (b.queue, b.ready, b.scheduled, b.active, b.dead) == ("b", 1, scheduled, 1, 0)
        assert held.message.id == sent[0].id

    async def test_a_message_is_found_wherever_it_is(self, ports: Ports) -> None:
        ready, scheduled = message(), message(due_at=ports.clock.now() + 60)
        active, dead = message("work"), message("work")
        ports.broker.publish([active, dead, ready, scheduled])
        lease = await ports.lease()
        deliveries = {delivery.message.id: delivery for delivery in await several(lease, 2, ["work"])}
        await lease.settle([Settlement(delivery=deliveries[dead.id], action=Action.BURY)])
        wanted = [ready, scheduled, active, dead]
        if not ports.can(Ability.KNOW_IDS):
            with pytest.raises(NotSupported, match="SQLite and Redis can"):
                await ports.broker.operations().find(ids(wanted))
            return
        found = await ports.broker.operations().find([*ids(wanted), "nobody"])
        assert {id: place for id, (place, _) in found.items()} == dict(
            zip(ids(wanted), ["ready", "scheduled", "active", "dead"], strict=True)
        )
        assert found[scheduled.id][1] == scheduled

    async def test_who_holds_a_message_is_told_also_when_its_lease_has_expired(self, ports: Ports) -> None:
        operations, held, ready = ports.broker.operations(), message("work"), message()
        ports.broker.publish([held, ready])
        assert await operations.holder(held) is None
        lease = await ports.lease("a")
        await receive(lease, queues=["work"])
        if not ports.can(Ability.KNOW_IDS):
            assert await operations.holder(held) is None
            return
        found = await operations.holder(held)
        assert found is not None
        assert (found.worker.name, found.deliveries) == ("a", 1)
        assert found.expires_at == pytest.approx(ports.clock.now() + LEASE_SECONDS)
        assert await operations.holder(ready) is None
        ports.clock.advance(LEASE_SECONDS + 1.0)
        expired = await operations.holder(held)
        assert expired is not None
        assert expired.expires_at < ports.clock.now()
        other = await ports.lease("b")
        await other.sweep()
        await receive(other, queues=["work"])
        again = await operations.holder(held)
        assert again is not None
        assert (again.worker.name, again.deliveries) == ("b", 2)

    async def test_which_ids_are_revoked_is_told_until_that_expires(self, ports: Ports) -> None:
        operations, (one, other) = ports.broker.operations(), (new_id(), new_id())
        assert await operations.revoked([one, other]) == set()
        await ports.broker.revoke([one], ports.clock.now() + 60.0)
        assert await operations.revoked([one, other]) == {one}
        assert await operations.revoked([]) == set()
        ports.clock.advance(61.0)
        assert await operations.revoked([one, other]) == set()

    async def test_the_oldest_ready_message_is_a_head(self, ports: Ports) -> None:
        if not ports.can(Ability.KNOW_IDS):
            pytest.skip("looking takes messages")
        operations = ports.broker.operations()
        assert await operations.heads("default") == []
        sent = [Message(id=new_id(), task="t", priority=priority) for priority in (3, 9, 3, 9)]
        for message in sent:
            ports.broker.publish([message])
        await ports.broker.apublish([Message(id=new_id(), task="t", lane=COROUTINE)])
        await ports.broker.apublish([Message(id=new_id(), task="t", queue="other")])
        heads = await operations.heads("default")
        assert sent[0].id in ids(heads)
        assert {head.queue for head in heads} == {"default"}
        lease = await ports.lease()
        first = await lease.receive(["default"], {PLAIN: 1}, PROMPTLY)
        assert [one.message.id for one in first] == [sent[1].id]
        assert sent[0].id in ids(await operations.heads("default"))

    async def test_peeking_takes_nothing_and_can_be_paged(self, ports: Ports) -> None:
        sent = [message() for _ in range(5)]
        ports.broker.publish(sent)
        operations = ports.broker.operations()
        assert ids(await operations.peek("default", 2, offset=2)) == ids(sent[2:4])
        assert len(await several(await ports.lease(), 5)) == 5

    async def test_purging_drops_what_waits_and_not_what_runs(self, ports: Ports) -> None:
        ports.broker.publish([message(), message(), message(due_at=ports.clock.now() + 60), message("other")])
        lease = await ports.lease()
        delivery = await one(lease)
        assert await ports.broker.operations().purge("default") == (2 if ports.can(Ability.SEE_SCHEDULED) else 1)
        assert await receive(lease) == []
        assert len(await receive(lease, queues=["other"])) == 1
        assert await lease.settle([Settlement(delivery=delivery)]) == [True]

    async def test_what_waits_can_be_withdrawn_and_is_returned(self, ports: Ports) -> None:
        late = [message(due_at=ports.clock.now() + 60)] if ports.can(Ability.SEE_SCHEDULED) else []
        sent = [message(), message(lane=COROUTINE), message(priority=9), *late]
        ports.broker.publish([*sent, message("other")])
        operations, found = ports.broker.operations(), []
        while some := await operations.withdraw("default", 2):
            assert len(some) <= 2
            found += some
        assert {one.id: one for one in found} == {one.id: one for one in sent}
        assert [(counts.queue, counts.ready) for counts in await operations.queues()] == [("other", 1)]

    async def test_nobody_receives_from_a_paused_queue(self, ports: Ports) -> None:
        operations = ports.broker.operations()
        await operations.pause("default")
        await operations.pause("default")
        ports.broker.publish([message(), message("other")])
        lease = await ports.lease()
        assert len(await receive(lease, queues=["default", "other"])) == 1
        [counts, _] = await operations.queues()
        assert (counts.queue, counts.paused, counts.ready) == ("default", True, 1)
        await operations.resume("default")
        assert len(await receive(lease, wait=PROMPTLY)) == 1

    async def test_resuming_wakes_who_receives(self, ports: Ports) -> None:
        operations = ports.broker.operations()
        await operations.pause("default")
        ports.broker.publish([message()])
        waiting = asyncio.create_task(receive(await ports.lease(), wait=LONG))
        await asyncio.sleep(0.02)
        await operations.resume("default")
        async with asyncio.timeout(PROMPTLY):
            assert len(await waiting) == 1

    async def bury(self, ports: Ports, *messages: Message) -> None:
        ports.broker.publish(messages)
        lease = await ports.lease()
        for queue in {item.queue for item in messages}:
            for delivery in await several(lease, sum(item.queue == queue for item in messages), [queue]):
                settlement = Settlement(delivery=delivery, action=Action.BURY, outcome=success(delivery.message))
                assert await lease.settle([settlement]) == [True]
        await lease.end()

    async def test_a_scheduled_message_is_run_now(self, ports: Ports) -> None:
        operations, later = ports.broker.operations(), ports.clock.now() + 3600
        if not ports.can(Ability.SEE_SCHEDULED):
            with pytest.raises(NotSupported):
                await operations.run_now(["x"])
            return
        soon, waits, ready = message(due_at=later), message(id="own", due_at=later), message()
        ports.broker.publish([soon, waits, ready])
        assert await operations.run_now([soon.id, soon.id, ready.id, "nobody"]) == 1
        lease = await ports.lease()
        taken = {one.message.id: one for one in await receive(lease)}
        assert taken.keys() == {soon.id, ready.id}
        # What goes back to the queue does not wait for its time again.
        assert taken[soon.id].message.due_at is None
        assert await operations.run_now([soon.id, "own"]) == 1
        assert ids(await receive(lease)) == ["own"]

    async def test_waiting_messages_are_moved_to_another_queue(self, ports: Ports) -> None:
        operations, later = ports.broker.operations(), ports.clock.now() + 3600
        if not (ports.can(Ability.KNOW_IDS) and ports.can(Ability.SEE_SCHEDULED)):
            with pytest.raises(NotSupported):
                await operations.move(["x"], "b")
            return
        sent = [message("a", id="own"), message("a", priority=9), message("a", due_at=later),
                message("a"), message("a")]  # fmt: skip
        ports.broker.publish(sent)
        lease = await ports.lease()
        held = await lease.receive(["a"], {PLAIN: 1}, 0.0)
        assert ids(held) == [sent[1].id]
        assert await operations.move([one.id for one in sent[:4]] + ["own", "nobody"], "b") == 3
        assert ids(await operations.peek("a", 10)) == [sent[4].id]
        assert {one.id: one.queue for one in await operations.peek("b", 10)} == {"own": "b", sent[3].id: "b"}
        assert [(one.id, one.queue, one.due_at) for one in await operations.scheduled("b", 10)] == [
            (sent[2].id, "b", later)
        ]
        assert await operations.move(["own"], "b") == 0  # it is there already
        taken = await receive(lease, queues=["b"])
        assert await lease.settle([Settlement(delivery=one) for one in [*held, *taken]]) == [True] * 3
        ports.clock.advance(3601)
        left = await receive(await ports.lease(), queues=["a", "b"])
        assert {(one.message.id, one.message.queue) for one in left} == {(sent[4].id, "a"), (sent[2].id, "b")}

    async def test_dead_letters_are_listed_newest_first(self, ports: Ports) -> None:
        first, second, third = message("a"), message("b"), message("a")
        for item in (first, second, third):
            await self.bury(ports, item)
            ports.clock.advance(1)
        operations = ports.broker.operations()
        assert ids(await operations.dead(None, 10)) == ids([third, second, first])
        assert ids(await operations.dead("a", 10)) == ids([third, first])
        assert ids(await operations.dead(None, 1, offset=1)) == [second.id]

    async def test_a_dead_letter_that_is_sent_again_is_as_if_new(self, ports: Ports) -> None:
        sent = message(attempt=4, requeued=2, unknown_since=ports.clock.now() - 9999, due_at=ports.clock.now() - 5)
        await self.bury(ports, sent)
        operations = ports.broker.operations()
        assert await operations.resend([sent.id, "nobody"]) == 1
        assert await operations.dead(None, 10) == []
        assert await ports.backend.afetch([sent.id]) == {}
        delivery = await one(await ports.lease())
        assert delivery.message == replace(sent, attempt=1, requeued=0, unknown_since=None, due_at=None)
        assert delivery.deliveries == 1

    async def test_a_dead_letter_can_be_dropped(self, ports: Ports) -> None:
        sent = message()
        await self.bury(ports, sent)
        operations = ports.broker.operations()
        assert await operations.drop([sent.id, "nobody"]) == 1
        assert await operations.drop([sent.id]) == 0
        assert await is_nowhere(ports, sent)

    # --- From synchronous code ------------------------------------------------------------------------

    def test_a_coroutine_is_completed_outside_a_loop(self, ports: Ports) -> None:
        ports.broker.complete(ports.broker.revoke(["x"], ports.clock.now() + 1))

    async def test_a_coroutine_is_completed_inside_a_loop(self, ports: Ports) -> None:
        assert ports.broker.complete(ports.broker.operations().queues()) == []


class listening:  # noqa: N801 - reads as a verb
    """Listen on a channel for as long as a block lasts."""

    def __init__(self, broker: Broker, channel: str) -> None:
        self._broker, self._channel = broker, channel

    async def __aenter__(self) -> AsyncIterator[bytes]:
        self._news = await self._broker.listen(self._channel)
        return self._news

    async def __aexit__(self, *error: object) -> None:
        await self._news.aclose()  # type: ignore[attr-defined]
