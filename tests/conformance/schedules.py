"""What every store of schedules promises."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from msgspec.structs import replace

from celeriac.model.message import Message, new_id
from celeriac.ports.schedules import Change, Entry, ScheduleStore
from celeriac.ports.workflows import Plan, workflow_store
from tests.conformance.broker import Ports

__all__ = ["PublishingConformance", "SchedulesConformance"]

MINUTE = 60_000


def entry(name: str = "nightly", next_at: int | None = 0, **fields: Any) -> Entry:
    return Entry(**{"name": name, "next_at": next_at, "cursor": -MINUTE,
                    "definition": msgspec.Raw(msgspec.msgpack.encode("what")), **fields})  # fmt: skip


def fired(before: Entry, **fields: Any) -> Change:
    messages = fields.pop("messages", ())
    plans = fields.pop("plans", ())
    after = replace(before, **{"cursor": before.cursor + MINUTE, "sent": before.sent + 1, **fields})
    return Change(before=before, after=after, messages=messages, plans=plans)


class SchedulesConformance:
    """Inherit it with fixtures `ports` and `schedules`, a store whose clock is `ports.clock`."""

    @pytest.fixture
    def now(self, ports: Ports) -> Callable[[], int]:
        return lambda: int(ports.clock.now() * 1000)

    async def test_what_is_created_is_returned_as_it_was(self, schedules: ScheduleStore) -> None:
        given = entry(next_at=7, paused=True, claimed_at=5, version=3, sent=2, missed=1, skipped=1, last_at=-4,
                      last_id="x", salt=b"salt")  # fmt: skip
        assert await schedules.create([given]) == [True]
        found = await schedules.get(["nightly", "other"])
        assert list(found) == ["nightly"]
        assert replace(found["nightly"], revision=0) == given

    async def test_a_name_is_taken_once(self, schedules: ScheduleStore) -> None:
        assert await schedules.create([entry("a"), entry("b"), entry("a", sent=9)]) == [True, True, False]
        assert (await schedules.get(["a"]))["a"].sent == 0

    async def test_a_change_replaces_the_entry_that_was_read(self, schedules: ScheduleStore) -> None:
        await schedules.create([entry()])
        (before,) = (await schedules.get(["nightly"])).values()
        assert await schedules.change([fired(before, next_at=MINUTE)]) == [True]
        (after,) = (await schedules.get(["nightly"])).values()
        assert (after.cursor, after.sent, after.next_at, after.revision) == (0, 1, MINUTE, before.revision + 1)

    async def test_an_entry_that_has_changed_since_is_not_replaced(self, schedules: ScheduleStore) -> None:
        await schedules.create([entry("a"), entry("b")])
        found = await schedules.get(["a", "b"])
        assert await schedules.change([fired(found["a"])]) == [True]
        assert await schedules.change([fired(found["a"]), fired(found["b"]), fired(found["b"])]) == [False, True, False]
        assert await schedules.change([fired(entry("none"))]) == [False]

    async def test_an_entry_that_was_removed_and_made_again_is_another_one(self, schedules: ScheduleStore) -> None:
        await schedules.create([entry()])
        (before,) = (await schedules.get(["nightly"])).values()
        await schedules.change([fired(before)])
        (before,) = (await schedules.get(["nightly"])).values()
        assert await schedules.remove({"nightly": before.revision}) == [True]
        await schedules.create([entry()])
        assert await schedules.change([fired(before)]) == [False]

    async def test_of_many_schedulers_one_changes_an_entry(self, schedules: ScheduleStore) -> None:
        await schedules.create([entry()])
        (before,) = (await schedules.get(["nightly"])).values()
        done = await asyncio.gather(*[schedules.change([fired(before)]) for _ in range(10)])
        assert sorted(good for (good,) in done) == [False] * 9 + [True]

    async def test_what_is_removed_is_gone(self, schedules: ScheduleStore) -> None:
        await schedules.create([entry("a"), entry("b")])
        assert await schedules.remove({"a": None, "none": None}) == [True, False]
        assert await schedules.get(["a"]) == {}
        assert [one.name for one in await schedules.page("", 10)] == ["b"]
        assert [one.name for one in (await schedules.due(10)).entries] == ["b"]

    async def test_an_entry_that_has_changed_since_is_not_removed(self, schedules: ScheduleStore) -> None:
        await schedules.create([entry("a"), entry("b")])
        found = await schedules.get(["a", "b"])
        await schedules.change([fired(found["a"])])
        read = {name: one.revision for name, one in found.items()}
        assert await schedules.remove({**read, "none": 1}) == [False, True, False]
        assert list(await schedules.get(["a", "b"])) == ["a"]
        assert [one.name for one in (await schedules.due(10)).entries] == ["a"]

    async def test_pages_are_sorted_by_name(self, schedules: ScheduleStore) -> None:
        names = sorted(["\x01b", "b", "a", "ä", "aa", "Z", "10", "9", "x.y", "ß", "\U0001f99e"])
        await schedules.create([entry(name) for name in reversed(names)])
        found: list[str] = []
        while page := await schedules.page(found[-1] if found else "", 3):
            assert len(page) <= 3
            found += [one.name for one in page]
        assert found == names

    async def test_entries_are_due_at_their_time_the_soonest_first(
        self, schedules: ScheduleStore, ports: Ports, now: Callable[[], int]
    ) -> None:
        start = now()
        waits = {"past": -MINUTE, "now": 0, "soon": MINUTE, "later": 2 * MINUTE}
        await schedules.create([entry(name, start + wait) for name, wait in waits.items()] + [entry("never", None)])
        due = await schedules.due(10)
        assert [one.name for one in due.entries] == ["past", "now"]
        assert due.soonest == start + MINUTE
        assert abs(due.now - start) < 5_000
        ports.clock.advance(61)
        due = await schedules.due(2)
        assert [one.name for one in due.entries] == ["past", "now"]
        assert due.soonest == start + MINUTE
        ports.clock.advance(60)
        due = await schedules.due(10)
        assert ([one.name for one in due.entries], due.soonest) == ([*waits], None)

    async def test_an_entry_is_due_again_when_its_change_says_so(
        self, schedules: ScheduleStore, now: Callable[[], int]
    ) -> None:
        await schedules.create([entry(next_at=now())])
        (before,) = (await schedules.due(10)).entries
        await schedules.change([fired(before, next_at=None)])
        assert (await schedules.due(10)).entries == []
        (paused,) = (await schedules.get(["nightly"])).values()
        await schedules.change([fired(paused, next_at=now() - 1)])
        assert len((await schedules.due(10)).entries) == 1

    async def test_a_thousand_changes_at_once(self, schedules: ScheduleStore, now: Callable[[], int]) -> None:
        start = now()
        await schedules.create([entry(f"{number:04}", start - number) for number in range(1_000)])
        due = await schedules.due(2_000)
        assert len(due.entries) == 1_000
        assert all(await schedules.change([fired(one, next_at=start + MINUTE) for one in due.entries]))
        assert (await schedules.due(10)).entries == []


class PublishingConformance:
    """For stores that publish what a change sends, in the same step."""

    async def test_messages_are_published_with_the_change_or_not_at_all(
        self, schedules: ScheduleStore, ports: Ports
    ) -> None:
        assert schedules.publishes
        await schedules.create([entry()])
        (before,) = (await schedules.get(["nightly"])).values()
        first, second = (Message(id=new_id(), task="t", queue=queue) for queue in ("mail", "default"))
        later = Message(id=new_id(), task="t", due_at=ports.clock.now() + 60)
        assert await schedules.change([fired(before, messages=[first, later])]) == [True]
        assert await schedules.change([fired(before, messages=[second])]) == [False]
        found = await ports.broker.operations().find([first.id, second.id, later.id])
        assert {id: place for id, (place, _) in found.items()} == {first.id: "ready", later.id: "scheduled"}

    async def test_a_message_whose_id_is_there_already_is_not_published_again(
        self, schedules: ScheduleStore, ports: Ports
    ) -> None:
        await schedules.create([entry()])
        message = Message(id=new_id(), task="t")
        for _ in range(2):
            (before,) = (await schedules.get(["nightly"])).values()
            assert await schedules.change([fired(before, messages=[message])]) == [True]
        assert len(await ports.broker.operations().peek("default", 10)) == 1

    async def test_a_workflow_is_planted_with_the_change_or_not_at_all(
        self, schedules: ScheduleStore, ports: Ports
    ) -> None:
        await schedules.create([entry()])
        (before,) = (await schedules.get(["nightly"])).values()
        plans = [Plan(id=name, tree=name.encode(), left=2, missing={0: 2, 3: 1}) for name in ("W", "V", "U")]
        assert await schedules.change([fired(before, plans=plans[:2])]) == [True]
        assert await schedules.change([fired(before, plans=plans[2:])]) == [False]
        assert workflow_store(ports.backend).trees(["W", "V", "U"]) == {"W": b"W", "V": b"V"}
