"""What every store of messages that wait promises."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest

from celeriac.model.message import new_id
from celeriac.ports.delays import Counts, Delayed, DelayStore, Taken
from tests.clock import FakeClock
from tests.patience import FOR_EVER, PATIENCE

__all__ = ["DelaysConformance"]

HOLD = 15.0


def delayed(due_at: float | None, **fields: Any) -> Delayed:
    return Delayed(**{"id": new_id(), "queue": "q", "data": b"data", "due_at": due_at, **fields})


def ids(found: list[Taken]) -> list[str]:
    return [one.id for one in found]


class DelaysConformance:
    """Inherit it with fixtures `delays`, and `clock`, the clock by which messages are due."""

    async def test_a_message_is_taken_when_it_is_due_and_as_it_was_kept(self, delays: DelayStore,
                                                                       clock: FakeClock) -> None:  # fmt: skip
        kept = delayed(clock.now() + 60, queue="☃ / q", data=b"\x00\xff" * 500)
        await delays.akeep([kept])
        taken, soonest = await delays.take_due(10, HOLD)
        assert taken == []
        assert soonest == pytest.approx(60, abs=0.01)
        clock.advance(60.01)
        [one], soonest = await delays.take_due(10, HOLD)
        assert (one.id, one.queue, one.data, one.again) == (kept.id, kept.queue, kept.data, False)
        assert one.due_at == pytest.approx(kept.due_at, abs=0.001)
        assert soonest is None or soonest >= HOLD - 1
        assert await delays.remove([one]) == [True]
        clock.advance(HOLD + 1)
        assert await delays.take_due(10, HOLD) == ([], None)

    async def test_a_duration_counts_from_when_it_is_kept(self, delays: DelayStore, clock: FakeClock) -> None:
        await delays.akeep([delayed(None, delay=60.0)])
        clock.advance(59)
        assert (await delays.take_due(10, HOLD)).taken == []
        clock.advance(2)
        assert len((await delays.take_due(10, HOLD)).taken) == 1

    def test_what_is_kept_by_synchronous_code_is_there(self, delays: DelayStore, clock: FakeClock) -> None:
        kept = [delayed(clock.now() + number) for number in (3, 1, 2)]
        delays.keep(kept)
        delays.keep([])
        found = asyncio.run(delays.page(None, False, 10))
        assert ids(found) == [kept[1].id, kept[2].id, kept[0].id]

    async def test_the_soonest_are_taken_first(self, delays: DelayStore, clock: FakeClock) -> None:
        kept = [delayed(clock.now() - number) for number in (1, 3, 2)]
        await delays.akeep(kept)
        assert sorted(ids((await delays.take_due(2, HOLD)).taken)) == sorted([kept[1].id, kept[2].id])
        assert ids((await delays.take_due(2, HOLD)).taken) == [kept[0].id]

    async def test_nobody_else_takes_what_is_held(self, delays: DelayStore, clock: FakeClock) -> None:
        kept = [delayed(clock.now() - 1) for _ in range(20)]
        await delays.akeep(kept)
        some = await asyncio.gather(*[delays.take_due(7, HOLD) for _ in range(10)])
        taken = [one.id for found in some for one in found.taken]
        while more := (await delays.take_due(7, HOLD)).taken:  # where who looked at the same ones got none
            taken += ids(more)
        assert sorted(taken) == sorted(one.id for one in kept)
        assert await delays.take(taken, HOLD) == []
        assert await delays.take_from("q", 50, HOLD) == []

    async def test_after_its_hold_a_message_is_taken_again_and_says_so(self, delays: DelayStore,
                                                                      clock: FakeClock) -> None:  # fmt: skip
        await delays.akeep([delayed(clock.now() - 1)])
        [first] = (await delays.take_due(10, HOLD)).taken
        clock.advance(HOLD + 1)
        [second] = (await delays.take_due(10, HOLD)).taken
        assert (first.again, second.again) == (False, True)
        assert await delays.remove([first]) == [False]
        assert await delays.remove([second, second]) == [True, False]
        assert await delays.remove([second]) == [False]

    async def test_what_is_released_can_be_taken_at_once(self, delays: DelayStore, clock: FakeClock) -> None:
        await delays.akeep([delayed(clock.now() - 1), delayed(clock.now() + 60)])
        [one] = (await delays.take_due(10, HOLD)).taken
        await delays.release([one])
        [again] = (await delays.take_due(10, HOLD)).taken
        assert (again.id, again.again) == (one.id, True)
        await delays.release([one])  # it is another's now
        assert (await delays.take_due(10, HOLD)).taken == []
        assert await delays.remove([again]) == [True]

    async def test_of_an_id_that_waits_the_first_message_stays(self, delays: DelayStore, clock: FakeClock) -> None:
        await delays.akeep([delayed(clock.now() - 1, id="x", data=b"1"), delayed(clock.now(), id="x", data=b"2")])
        await delays.akeep([delayed(clock.now(), id="x", data=b"3")])
        [one] = (await delays.take_due(10, HOLD)).taken
        assert one.data == b"1"

    async def test_a_message_that_returns_replaces_the_one_of_its_id(self, delays: DelayStore,
                                                                    clock: FakeClock) -> None:  # fmt: skip
        await delays.akeep([delayed(clock.now() + 60, id="x", data=b"1")])
        await delays.akeep([delayed(clock.now() - 1, id="x", data=b"2", queue="other", replaces=True)])
        [one] = (await delays.take_due(10, HOLD)).taken
        assert (one.data, one.queue, one.again) == (b"2", "other", False)
        assert await delays.counts() == {"other": Counts(1, 0)}

    @pytest.mark.parametrize("replaces", [False, True])
    async def test_what_was_taken_is_replaced_and_not_removed_by_who_took_it(self, delays: DelayStore, clock: FakeClock,
                                                                            replaces: bool) -> None:  # fmt: skip
        """It may have been sent, have run, and be called again under its id; or be retried."""
        await delays.akeep([delayed(clock.now() - 1, id="x", data=b"1")])
        taken = (await delays.take_due(10, HOLD)).taken
        await delays.akeep([delayed(clock.now() - 1, id="x", data=b"2", replaces=replaces, again=True)])
        assert await delays.remove(taken) == [False]
        [one] = (await delays.take_due(10, HOLD)).taken
        assert (one.data, one.again) == (b"2", True)

    async def test_messages_are_taken_by_their_ids_before_they_are_due(self, delays: DelayStore,
                                                                      clock: FakeClock) -> None:  # fmt: skip
        kept = [delayed(clock.now() + 3600) for _ in range(3)]
        await delays.akeep(kept)
        taken = await delays.take([kept[0].id, "nobody", kept[0].id, kept[2].id], HOLD)
        assert sorted(ids(taken)) == sorted([kept[0].id, kept[2].id])
        assert await delays.take([], HOLD) == []
        assert await delays.remove(taken) == [True, True]
        assert ids(await delays.page(None, False, 10)) == [kept[1].id]

    async def test_what_was_taken_before_its_time_waits_for_it_after_the_hold(self, delays: DelayStore,
                                                                             clock: FakeClock) -> None:  # fmt: skip
        kept = delayed(clock.now() + 100)
        await delays.akeep([kept])
        assert ids(await delays.take([kept.id], HOLD)) == [kept.id]
        clock.advance(50)
        assert (await delays.take_due(10, HOLD)).taken == []
        clock.advance(51)
        assert ids((await delays.take_due(10, HOLD)).taken) == [kept.id]

    async def test_messages_are_taken_from_a_queue(self, delays: DelayStore, clock: FakeClock) -> None:
        kept = [delayed(clock.now() + number, queue=queue) for number, queue in ((30, "a"), (10, "b"), (20, "a"))]
        await delays.akeep([*kept, delayed(clock.now() + 40, queue="a")])
        assert ids(await delays.take_from("a", 1, HOLD)) == [kept[2].id]
        assert len(await delays.take_from("a", 10, HOLD)) == 2
        assert await delays.take_from("none", 10, HOLD) == []

    async def test_messages_are_counted_by_queue(self, delays: DelayStore, clock: FakeClock) -> None:
        assert await delays.counts() == {}
        await delays.akeep([delayed(clock.now() + 10, queue="a"), delayed(clock.now() + 30, queue="a"),
                            delayed(clock.now() + 30, queue="b")])  # fmt: skip
        clock.advance(20)
        assert await delays.counts() == {"a": Counts(1, 1), "b": Counts(0, 1)}
        await delays.remove((await delays.take_due(10, HOLD)).taken)
        assert await delays.counts() == {"a": Counts(0, 1), "b": Counts(0, 1)}

    async def test_messages_are_listed_by_time(self, delays: DelayStore, clock: FakeClock) -> None:
        assert await delays.page(None, False, 10) == []
        kept = [delayed(clock.now() + number, queue=queue) for number, queue in
                ((30, "a"), (10, "b"), (20, "a"), (5, "a"))]  # fmt: skip
        await delays.akeep(kept)
        clock.advance(7)
        assert ids(await delays.page(None, False, 10)) == [kept[1].id, kept[2].id, kept[0].id]
        assert ids(await delays.page("a", False, 1, 1)) == [kept[0].id]
        assert ids(await delays.page(None, True, 10)) == [kept[3].id]
        assert await delays.page("b", True, 10) == []
        assert (await delays.page("a", False, 1))[0].data == b"data"

    async def test_who_waits_learns_of_a_message_that_is_due_sooner(self, delays: DelayStore,
                                                                   clock: FakeClock) -> None:  # fmt: skip
        await delays.take_due(10, HOLD)
        waiting = asyncio.create_task(delays.changed(FOR_EVER))
        await asyncio.sleep(0)
        await delays.akeep([delayed(clock.now())])
        started = time.monotonic()
        await asyncio.wait_for(waiting, PATIENCE)
        assert time.monotonic() - started < PATIENCE
        assert len((await delays.take_due(10, HOLD)).taken) == 1

    async def test_many_messages_are_kept_and_taken_at_once(self, delays: DelayStore, clock: FakeClock) -> None:
        kept = [delayed(clock.now() - 1, data=b"x" * 100) for _ in range(600)]
        await delays.akeep(kept)
        taken: list[Taken] = []
        while found := (await delays.take_due(250, HOLD)).taken:
            taken += found
        assert sorted(ids(taken)) == sorted(one.id for one in kept)
        assert all(await delays.remove(taken))
        assert await delays.counts() == {}
