"""What every backend must do: one suite for the port `Backend`, and one for `WorkflowStore`.

A subclass is collected with a fixture `ports` (see `tests/test_brokers.py`, `tests/test_adapters.py`).
"""

from __future__ import annotations

import asyncio
import threading
import time

import pytest

from celeriac import states
from celeriac.errors import BackendError, NotSupported
from celeriac.model.failure import Failure
from celeriac.model.message import Message, Place, new_id
from celeriac.model.outcome import Outcome
from celeriac.ports.abilities import Ability
from celeriac.ports.broker import Settlement
from celeriac.ports.workflows import (
    UNFINISHED_SECONDS,
    Advance,
    NodeEnd,
    PendingNode,
    Plan,
    WorkflowStore,
    workflow_store,
)
from tests.conformance.broker import LONG, PROMPTLY, Ports


class BackendConformance:
    """The promises of the port."""

    async def test_an_outcome_is_fetched_as_it_was_stored(self, ports: Ports) -> None:
        sent = ports.outcome(
            states.FAILURE, attempt=3, failure=Failure.of(ValueError("no", 1)), worker="w", runtime=1.5, group_id="g",
            done_at=5.0,
        )  # fmt: skip
        assert await ports.store(sent) == [True]
        assert await ports.backend.afetch([sent.id]) == {sent.id: sent}
        assert ports.backend.fetch([sent.id, "nobody"]) == {sent.id: sent}

    async def test_the_first_final_outcome_stays(self, ports: Ports) -> None:
        first = ports.outcome(value=b"1")
        assert await ports.store(first) == [True]
        late = ports.outcome(states.FAILURE, id=first.id)
        assert await ports.store(late, ports.outcome(), ports.outcome(states.STARTED, id=first.id)) == (
            [False, True, False] if ports.can(Ability.KEEP_OUTCOMES) else [True, True, True]
        )  # fmt: skip
        assert ports.backend.fetch([first.id]) == {first.id: first}

    async def test_the_first_final_outcome_stays_within_a_batch_too(self, ports: Ports) -> None:
        first = ports.outcome(value=b"1")
        assert await ports.store(first, ports.outcome(id=first.id, value=b"2")) == (
            [True, not ports.can(Ability.KEEP_OUTCOMES)]
        )
        assert ports.backend.fetch([first.id]) == {first.id: first}

    async def test_what_is_not_final_gives_way(self, ports: Ports) -> None:
        started = ports.outcome(states.STARTED)
        final = ports.outcome(id=started.id)
        for item in (started, ports.outcome(states.RETRY, id=started.id), final):
            assert await ports.store(item) == [True]
        assert ports.backend.fetch([started.id]) == {started.id: final}

    async def test_waiting_is_for_final_outcomes_only(self, ports: Ports) -> None:
        started = ports.outcome(states.STARTED)
        await ports.store(started)
        assert ports.backend.fetch([started.id]) == {started.id: started}
        assert ports.backend.fetch([started.id], wait=0.01) == {}
        assert await ports.backend.afetch([started.id], wait=0.01) == {}

    @pytest.mark.parametrize("size", [1, 100_000])
    def test_a_store_from_another_thread_ends_a_wait(self, ports: Ports, size: int) -> None:
        final = ports.outcome(value=b"1" * size)
        begun = threading.Event()

        def store() -> None:
            begun.wait()
            asyncio.run(ports.backend.store([final]))

        thread = threading.Thread(target=store)
        thread.start()
        started = time.monotonic()
        begun.set()
        assert ports.backend.fetch([final.id], wait=LONG) == {final.id: final}
        assert time.monotonic() - started < PROMPTLY
        thread.join()

    @pytest.mark.parametrize("size", [1, 100_000])
    async def test_a_store_from_another_thread_ends_a_coroutines_wait(self, ports: Ports, size: int) -> None:
        final = ports.outcome(value=b"1" * size)
        waiting = asyncio.create_task(ports.backend.afetch(["nobody", final.id], wait=LONG))
        await asyncio.sleep(0.02)
        async with asyncio.timeout(PROMPTLY):
            await asyncio.to_thread(asyncio.run, ports.backend.store([final]))
            assert await waiting == {final.id: final}

    async def test_a_wait_can_be_cancelled(self, ports: Ports) -> None:
        waiting = asyncio.create_task(ports.backend.afetch(["nobody"], wait=LONG))
        await asyncio.sleep(0.02)
        waiting.cancel()
        done, _ = await asyncio.wait([waiting], timeout=PROMPTLY)
        assert done == {waiting}
        assert waiting.cancelled()

    async def test_two_coroutines_wait_at_once(self, ports: Ports) -> None:
        first, second = ports.outcome(), ports.outcome()
        waits = [asyncio.create_task(ports.backend.afetch([item.id], wait=LONG)) for item in (first, second)]
        await asyncio.sleep(0.02)
        async with asyncio.timeout(PROMPTLY):
            await ports.store(first)
            assert await waits[0] == {first.id: first}
            await ports.store(second)
            assert await waits[1] == {second.id: second}

    async def test_what_is_forgotten_is_gone(self, ports: Ports) -> None:
        a, b, c = ports.outcome(), ports.outcome(), ports.outcome()
        await ports.store(a, b, c)
        ports.backend.forget([a.id, "nobody"])
        await ports.backend.aforget([b.id])
        assert ports.backend.fetch([a.id, b.id, c.id]) == {c.id: c}

    async def test_recent_outcomes_are_listed_newest_first(self, ports: Ports) -> None:
        stored = [ports.outcome(), ports.outcome(states.FAILURE), ports.outcome()]
        for item in stored:
            ports.clock.advance(1)
            await ports.store(item)
        if not ports.can(Ability.LIST_RECENT):
            with pytest.raises(NotSupported, match="cannot list the outcomes stored last"):
                await ports.backend.recent(10)
            return
        assert await ports.backend.recent(10) == stored[::-1]
        assert await ports.backend.recent(1, offset=1) == [stored[1]]
        assert await ports.backend.recent(10, state=states.FAILURE) == [stored[1]]

    async def test_nothing_is_known_of_no_tasks(self, ports: Ports) -> None:
        assert ports.backend.fetch([]) == {}
        assert await ports.store() == []

    async def test_many_outcomes_are_fetched_at_once(self, ports: Ports) -> None:
        stored = [ports.outcome() for _ in range(1500)]
        await ports.store(*stored)
        ids = [item.id for item in stored]
        assert len(ports.backend.fetch(ids)) == 1500
        assert len(ports.backend.fetch(ids, wait=LONG)) == 1500
        assert len(await ports.backend.afetch(ids, wait=LONG)) == 1500

    async def test_an_id_may_have_any_characters(self, ports: Ports) -> None:
        sent = {id: ports.outcome(id=id) for id in ("a b", "ä/ö", "x" * 300, "a\nb", "a:b")}
        await ports.store(*sent.values())
        for id, outcome in sent.items():
            assert ports.backend.fetch([id]) == {id: outcome}
        for id in sent:
            ports.backend.forget([id])
            assert ports.backend.fetch([id]) == {}

    async def test_outcomes_are_thrown_away_when_they_expire(self, ports: Ports) -> None:
        old, new = ports.outcome(), ports.outcome()
        await ports.store(old)
        ports.clock.advance(86400.0 + 1)
        await ports.store(new)
        await (await ports.lease()).sweep()
        assert ports.backend.fetch([old.id, new.id]) == {new.id: new}

    async def test_a_backend_that_keeps_no_workflows_says_which_do(self, ports: Ports) -> None:
        assert ports.can(Ability.KEEP_WORKFLOWS) == isinstance(ports.backend, WorkflowStore)
        if isinstance(ports.backend, WorkflowStore):
            assert workflow_store(ports.backend) is ports.backend
        else:
            with pytest.raises(BackendError, match="Set `result_backend` to one that does"):
                workflow_store(ports.backend)


class WorkflowConformance:
    """What a backend that keeps workflows does with them."""

    async def test_workflows_are_changed_by_several_threads_at_once(self, ports: Ports) -> None:
        ports.workflows.plant(plan("w", left=40, missing={40: 40}))
        ends = [node_end("w", number, join=40, leaves_pending=number % 2 == 0) for number in range(40)]
        parts = [ends[start::4] for start in range(4)]
        await asyncio.gather(*[asyncio.to_thread(asyncio.run, ports.workflows.conclude(part)) for part in parts])
        claimed = await asyncio.gather(*[ports.workflows.claim_pending(30, 60.0) for _ in range(2)])
        nodes = [item.node for found in claimed for item in found]
        assert sorted(nodes) == [*range(0, 40, 2), 40]

    async def test_a_tree_is_kept_until_it_is_uprooted(self, ports: Ports) -> None:
        ports.workflows.plant(plan("a", tree=b"1"))
        await ports.workflows.aplant(plan("b", tree=b"2"))
        assert ports.workflows.trees(["a", "b", "nobody"]) == {"a": b"1", "b": b"2"}
        await ports.workflows.aplant(plan("a", tree=b"3"))
        ports.workflows.uproot(["b"])
        assert await ports.workflows.atrees(["a", "b"]) == {"a": b"3"}
        assert ports.workflows.trees([]) == {}
        ports.workflows.plant(plan("../c d", tree=b"4"))
        assert ports.workflows.trees(["../c d", "../nobody"]) == {"../c d": b"4"}

    async def test_a_workflow_that_may_be_there_is_planted_again_without_harm(self, ports: Ports) -> None:
        chord = plan("w", tree=b"1", left=2, missing={5: 2})
        await ports.workflows.aplant(chord, again=True)
        assert await ports.workflows.conclude([node_end("w", 0, join=5)]) == [True]
        assert await ports.workflows.conclude([node_end("w", 3, leaves_pending=True)]) == [True]
        await ports.workflows.aplant(chord, again=True)
        ports.workflows.plant(plan("w", tree=b"2", left=9), again=True)
        assert ports.workflows.trees(["w"]) == {"w": b"1"}
        assert await ports.workflows.conclude([node_end("w", 1, join=5)]) == [True]
        assert [item.node for item in await ports.workflows.claim_pending(10, 5.0)] == [3, 5]

    async def test_a_workflow_that_has_expired_is_planted_again_as_if_new(self, ports: Ports) -> None:
        ports.workflows.plant(plan("w", tree=b"1", left=1))
        await ports.workflows.conclude([node_end("w", 0)])
        ports.clock.advance(86400.0 + 1)
        await (await ports.lease()).sweep()
        await ports.workflows.aplant(plan("w", tree=b"2", left=1), again=True)
        assert ports.workflows.trees(["w"]) == {"w": b"2"}

    async def test_workflows_that_have_not_ended_are_listed_the_latest_first(self, ports: Ports) -> None:
        if not await lists_unfinished(ports):
            return
        for id, left in (("a", 1), ("b", 2), ("c", 2), ("d", 1)):
            ports.workflows.plant(plan(id, left=left))
            ports.clock.advance(1)
        await ports.workflows.conclude([node_end("a", 0), node_end("b", 0, leaves_pending=True)])
        found = await ports.workflows.unfinished(10)
        assert found in (["b", "d", "c"], ["d", "c", "b"])  # by their last change, or as they were sent
        assert await ports.workflows.unfinished(2) == found[:2]
        await ports.workflows.advance([Advance(pending=PendingNode("b", 0), outcomes=[node_end("b", 1).outcome])])
        ports.workflows.uproot(["c"])
        assert await ports.workflows.unfinished(10) == ["d"]
        ports.workflows.plant(plan("a", left=1))  # which is run again
        assert sorted(await ports.workflows.unfinished(10) or []) == ["a", "d"]

    async def test_a_workflow_that_has_expired_is_listed_no_more(self, ports: Ports) -> None:
        if not await lists_unfinished(ports):
            return
        ports.workflows.plant(plan("w", left=1))
        assert await ports.workflows.unfinished(10) == ["w"]
        ports.clock.advance(UNFINISHED_SECONDS + 1)
        await (await ports.lease()).sweep()
        assert await ports.workflows.unfinished(10) == []

    async def test_the_last_member_makes_its_join_due_and_each_counts_once(self, ports: Ports) -> None:
        ports.workflows.plant(plan("w", left=2, missing={5: 2}))
        first, second = node_end("w", 0, join=5), node_end("w", 1, join=5)
        assert await ports.workflows.conclude([first, first]) == [True, False]
        assert await ports.workflows.conclude([first]) == [False]
        assert await ports.workflows.claim_pending(10, 5.0) == {}
        assert await ports.workflows.conclude([second]) == [True]
        assert await ports.workflows.claim_pending(10, 5.0) == {PendingNode("w", 5): False}
        assert ports.backend.fetch([second.outcome.id]) == {second.outcome.id: second.outcome}

    async def test_what_is_due_is_one_workers_for_a_while_and_then_anybodys(self, ports: Ports) -> None:
        ports.workflows.plant(plan("w", left=3))
        await ports.workflows.conclude([node_end("w", number, leaves_pending=True) for number in range(3)])
        taken = await ports.workflows.claim_pending(2, 5.0)
        assert len(taken) == 2
        (third,) = await ports.workflows.claim_pending(2, 60.0)
        assert {*taken, third} == {PendingNode("w", number) for number in range(3)}
        assert await ports.workflows.claim_pending(10, 5.0) == {}
        ports.clock.advance(6)
        assert await ports.workflows.claim_pending(10, 5.0) == dict.fromkeys(taken, True)

    async def test_an_advance_is_done_once(self, ports: Ports) -> None:
        ports.workflows.plant(plan("w", left=2, missing={3: 1, 4: 2}))
        await ports.workflows.conclude([node_end("w", 0, leaves_pending=True)])
        ended = node_end("w", 1).outcome
        advance = Advance(pending=PendingNode("w", 0), outcomes=[ended], joins=[3, 4])
        assert await ports.workflows.advance([advance, advance]) == [True, False]
        assert await ports.workflows.advance([Advance(pending=PendingNode("w", 9))]) == [False]
        assert await ports.workflows.claim_pending(10, 5.0) == {PendingNode("w", 3): False}
        assert ports.backend.fetch([ended.id]) == {ended.id: ended}

    async def test_a_node_of_another_workflow_ends_as_if_it_were_settled(self, ports: Ports) -> None:
        ports.workflows.plant(plan("inner", left=1))
        ports.workflows.plant(plan("outer", left=1, missing={2: 1}))
        await ports.workflows.conclude([node_end("inner", 0, leaves_pending=True)])
        stands_for = node_end("outer", 1, join=2).outcome
        await ports.workflows.advance([Advance(pending=PendingNode("inner", 0), outcomes=[stands_for])])
        assert set(await ports.workflows.claim_pending(10, 5.0)) == {PendingNode("outer", 1), PendingNode("outer", 2)}

    async def test_nothing_follows_in_a_workflow_that_is_gone(self, ports: Ports) -> None:
        assert await ports.workflows.conclude([node_end("gone", 0, join=1, leaves_pending=True)]) == [True]
        assert await ports.workflows.claim_pending(10, 5.0) == {}
        assert ports.workflows.trees(["gone"]) == {}

    async def test_a_finished_workflow_expires_as_outcomes_do_and_another_later(self, ports: Ports) -> None:
        ports.workflows.plant(plan("finished", left=1))
        ports.workflows.plant(plan("unfinished", left=2))
        await ports.workflows.conclude([node_end("finished", 0), node_end("unfinished", 0)])
        for seconds, left in ((86400.0 + 1, {"unfinished"}), (UNFINISHED_SECONDS, set())):
            ports.clock.advance(seconds)
            await (await ports.lease()).sweep()
            assert set(ports.workflows.trees(["finished", "unfinished"])) == left


class JoinedConformance:
    """What a broker does with the workflows of a backend that it joins."""

    async def test_a_joined_broker_settles_the_ends_of_nodes(self, ports: Ports) -> None:
        assert ports.broker.joins(ports.backend)
        ports.workflows.plant(plan("w", left=2, missing={5: 2}))
        lease = await ports.lease()
        ends = [node_end("w", number, join=5) for number in range(2)]
        following = Message(id=new_id(), task="t")
        for again in range(2):
            ports.broker.publish([Message(id=end.outcome.id, task="t", place=end.outcome.place) for end in ends])
            deliveries = {item.message.id: item for item in await lease.receive(["default"], {"plain": 9}, 0.0)}
            settlements = [
                Settlement(delivery=deliveries[end.outcome.id], outcome=end.outcome, follow_ups=[following])
                for end in ends
            ]
            assert await lease.settle(settlements) == [True, True]
            assert await lease.settle(settlements) == [False, False]
            # What comes again is settled again, and nothing follows from it.
            found = await lease.receive(["default"], {"plain": 9}, 0.0)
            assert [item.message.id for item in found] == ([following.id] if not again else [])
            await lease.settle([Settlement(delivery=item) for item in found])
            assert await ports.workflows.claim_pending(10, 5.0) == ({PendingNode("w", 5): False} if not again else {})

    async def test_a_joined_broker_advances_with_the_messages(self, ports: Ports) -> None:
        ports.workflows.plant(plan("w", left=2))
        await ports.workflows.conclude([node_end("w", 0, leaves_pending=True)])
        lease = await ports.lease()
        messages = [Message(id=new_id(), task="t"), Message(id=new_id(), task="t", due_at=ports.clock.now() + 60)]
        advance = Advance(pending=PendingNode("w", 0), outcomes=[node_end("w", 1).outcome], messages=messages)
        assert await lease.advance([advance, advance]) == [True, False]
        assert await lease.advance([]) == []
        found = await lease.receive(["default"], {"plain": 9}, 0.0)
        assert [item.message.id for item in found] == [messages[0].id]


def plan(id: str, tree: bytes = b"tree", left: int = 1, missing: dict[int, int] | None = None) -> Plan:
    return Plan(id=id, tree=tree, left=left, missing=missing or {})


def node_end(workflow: str, node: int, join: int = -1, leaves_pending: bool = False) -> NodeEnd:
    outcome = Outcome(id=new_id(), task="t", state=states.SUCCESS, place=Place(workflow, node, join))
    return NodeEnd(outcome, leaves_pending)


async def lists_unfinished(ports: Ports) -> bool:
    """Say whether the backend lists workflows that have not ended: neither more nor less than its tests expect."""
    assert (await ports.workflows.unfinished(10) is not None) == ports.lists_unfinished
    return ports.lists_unfinished
