"""What every backend must do: one suite for the port `Backend`."""

from __future__ import annotations

import asyncio
import threading
import time
from typing import Any

from celeriac import states
from celeriac.message import new_id
from celeriac.outcome import Failure, Outcome
from tests.conformance.broker import LONG, PROMPTLY, Ports


def outcome(state: str = states.SUCCESS, **fields: Any) -> Outcome:
    return Outcome(id=fields.pop("id", None) or new_id(), task="t", state=state, **fields)


class BackendConformance:
    """The promises of the port."""

    async def test_an_outcome_is_fetched_as_it_was_stored(self, ports: Ports) -> None:
        sent = outcome(
            states.FAILURE, attempt=3, failure=Failure.of(ValueError("no", 1)), worker="w", runtime=1.5, group_id="g",
            done_at=5.0,
        )  # fmt: skip
        assert await ports.backend.store([sent]) == [True]
        assert await ports.backend.afetch([sent.id]) == {sent.id: sent}
        assert ports.backend.fetch([sent.id, "nobody"]) == {sent.id: sent}

    async def test_the_first_final_outcome_stays(self, ports: Ports) -> None:
        first = outcome(value=b"1")
        assert await ports.backend.store([first]) == [True]
        late = outcome(states.FAILURE, id=first.id)
        assert await ports.backend.store([late, outcome(), outcome(states.STARTED, id=first.id)]) == [
            False, True, False,
        ]  # fmt: skip
        assert ports.backend.fetch([first.id]) == {first.id: first}

    async def test_the_first_final_outcome_stays_within_a_batch_too(self, ports: Ports) -> None:
        first = outcome(value=b"1")
        assert await ports.backend.store([first, outcome(id=first.id, value=b"2")]) == [True, False]
        assert ports.backend.fetch([first.id]) == {first.id: first}

    async def test_what_is_not_final_gives_way(self, ports: Ports) -> None:
        started = outcome(states.STARTED)
        final = outcome(id=started.id)
        for item in (started, outcome(states.RETRY, id=started.id), final):
            assert await ports.backend.store([item]) == [True]
        assert ports.backend.fetch([started.id]) == {started.id: final}

    async def test_waiting_is_for_final_outcomes_only(self, ports: Ports) -> None:
        started = outcome(states.STARTED)
        await ports.backend.store([started])
        assert ports.backend.fetch([started.id]) == {started.id: started}
        assert ports.backend.fetch([started.id], wait=0.01) == {}
        assert await ports.backend.afetch([started.id], wait=0.01) == {}

    def test_a_store_from_another_thread_ends_a_wait(self, ports: Ports) -> None:
        final = outcome()
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

    async def test_a_store_from_another_thread_ends_a_coroutines_wait(self, ports: Ports) -> None:
        final = outcome()
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
        first, second = outcome(), outcome()
        waits = [asyncio.create_task(ports.backend.afetch([item.id], wait=LONG)) for item in (first, second)]
        await asyncio.sleep(0.02)
        async with asyncio.timeout(PROMPTLY):
            await ports.backend.store([first])
            assert await waits[0] == {first.id: first}
            await ports.backend.store([second])
            assert await waits[1] == {second.id: second}

    async def test_what_is_forgotten_is_gone(self, ports: Ports) -> None:
        a, b, c = outcome(), outcome(), outcome()
        await ports.backend.store([a, b, c])
        ports.backend.forget([a.id, "nobody"])
        await ports.backend.aforget([b.id])
        assert ports.backend.fetch([a.id, b.id, c.id]) == {c.id: c}

    async def test_recent_outcomes_are_listed_newest_first(self, ports: Ports) -> None:
        stored = [outcome(), outcome(states.FAILURE), outcome()]
        for item in stored:
            ports.clock.advance(1)
            await ports.backend.store([item])
        assert await ports.backend.recent(10) == stored[::-1]
        assert await ports.backend.recent(1, offset=1) == [stored[1]]
        assert await ports.backend.recent(10, state=states.FAILURE) == [stored[1]]

    async def test_nothing_is_known_of_no_tasks(self, ports: Ports) -> None:
        assert ports.backend.fetch([]) == {}
        assert await ports.backend.store([]) == []

    async def test_many_outcomes_are_fetched_at_once(self, ports: Ports) -> None:
        stored = [outcome() for _ in range(1500)]
        await ports.backend.store(stored)
        assert len(ports.backend.fetch([item.id for item in stored])) == 1500

    async def test_outcomes_are_thrown_away_when_they_expire(self, ports: Ports) -> None:
        old, new = outcome(), outcome()
        await ports.backend.store([old])
        ports.clock.advance(86400.0 + 1)
        await ports.backend.store([new])
        await (await ports.lease()).sweep()
        assert ports.backend.fetch([old.id, new.id]) == {new.id: new}
