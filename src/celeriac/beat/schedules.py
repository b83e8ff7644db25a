"""`app.schedules`: adds, changes, pauses, removes and shows the entries of the store of schedules.

Each method has a coroutine version, whose name begins with `a`. A change is in force on every scheduler within a
second. Nothing but the store knows an entry: who adds one needs no scheduler, and a scheduler not the app's code.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple

import msgspec
from msgspec.structs import replace

from celeriac.beat.decide import beginning
from celeriac.beat.definition import (
    LAST_RECORD,
    LONGEST_DESCRIPTION,
    RECORD,
    Definition,
    definition_of,
    encode_definition,
    with_visible_ends,
)
from celeriac.beat.info import CHOICES, DURATIONS, NUMBERS, POLICIES, TEXTS, ScheduleInfo, info_of, instant
from celeriac.beat.template import Filled, template_of
from celeriac.errors import ImproperlyConfigured, nearest
from celeriac.model.clock import Duration
from celeriac.model.gate import Unreadable
from celeriac.model.options import text
from celeriac.ports.abilities import Ability
from celeriac.ports.schedules import Change, Entry, ScheduleStore, schedule_store
from celeriac.ports.workflows import workflow_store
from celeriac.schedules.kinds import as_schedule
from celeriac.schedules.moments import milliseconds, moment
from celeriac.schedules.schedule import Schedule
from celeriac.tasks.protocols import App

__all__ = ["PreviousTick", "Schedules", "UnknownSchedule"]

SALT = 16  # bytes
MOST_BACKFILLED = 10_000  # ticks in one call
NEAR = 200  # names that a wrong one is compared with


class PreviousTick(NamedTuple):
    """A tick that came."""

    at: datetime
    ids: Sequence[str]  # of the tasks whose ends are the end of what was sent, if it was sent


class UnknownSchedule(ImproperlyConfigured, KeyError):
    """There is no schedule of this name."""

    def __str__(self) -> str:
        return str(self.args[0])


class Schedules:
    """The schedules of an app."""

    def __init__(self, app: App) -> None:
        self._app = app

    @property
    def store(self) -> ScheduleStore:
        """The store. Raises `BackendError` if neither the broker nor the backend keeps schedules."""
        return schedule_store(self._app.broker, self._app.backend)

    # --- Changing -------------------------------------------------------------------------------------

    def add(self, name: str, schedule: Schedule | Duration | str, what: Any, **policies: Any) -> None:
        """Send `what`, a signature or a workflow, whenever the schedule says: from now on.

        The schedule is `crontab(…)`, `cron(…)`, `every(…)`, `solar(…)` or `at(…)`, seconds or a timedelta for an
        interval, or a cron expression. Policies: `missed` ("latest", "all", "skip"), `window`, `max_missed`; `overlap`
        ("allow", "skip", "one", "all", "cancel"), `overlap_timeout`; `jitter`; `times`; `description`. Raises
        `ImproperlyConfigured` if the name is taken, and for anything that cannot be sent.
        """
        self._app.broker.complete(self.aadd(name, schedule, what, **policies))

    async def aadd(self, name: str, schedule: Schedule | Duration | str, what: Any, **policies: Any) -> None:
        """Coroutine version of `add`."""
        definition = self.definition(schedule, what, **policies)
        (done,) = await self.store.create([self.entry(name, definition)])
        if not done:
            raise ImproperlyConfigured(f"There is a schedule named {name!r} already: change it, or remove it first.")

    def change(self, name: str, schedule: Schedule | Duration | str | None = None, what: Any = None,
               **policies: Any) -> None:  # fmt: skip
        """Change what is given, and leave the rest. With another schedule, its ticks begin now."""
        self._app.broker.complete(self.achange(name, schedule, what, **policies))

    async def achange(self, name: str, schedule: Schedule | Duration | str | None = None, what: Any = None,
                      **policies: Any) -> None:  # fmt: skip
        """Coroutine version of `change`."""

        def edit(entry: Entry) -> Entry:
            old = self._definition(entry)
            given = self.policies(policies)
            if schedule is not None:
                given["when"] = self._when(schedule)
            if what is not None:
                given["what"] = template_of(self._app, what)
            return self.redefined(entry, with_visible_ends(replace(old, **given)))

        await self._edit(name, edit)

    def pause(self, name: str) -> None:
        """Stop sending until it is resumed. Ticks that come meanwhile are left out."""
        self._app.broker.complete(self.apause(name))

    async def apause(self, name: str) -> None:
        """Coroutine version of `pause`."""
        await self._edit(name, lambda entry: replace(entry, paused=True, next_at=None, claimed_at=None))

    def resume(self, name: str) -> None:
        """End a pause: the ticks that are sent begin now."""
        self._app.broker.complete(self.aresume(name))

    async def aresume(self, name: str) -> None:
        """Coroutine version of `resume`."""

        def edit(entry: Entry) -> Entry:
            if not entry.paused:
                return entry
            return beginning(replace(entry, paused=False), self._definition(entry), self._now())

        await self._edit(name, edit)

    def remove(self, name: str) -> None:
        """Remove an entry. What it has sent already is run."""
        self._app.broker.complete(self.aremove(name))

    async def aremove(self, name: str) -> None:
        """Coroutine version of `remove`."""
        (done,) = await self.store.remove({name: None})
        if not done:
            raise await self._unknown(name)

    async def _edit(self, name: str, edit: Callable[[Entry], Entry]) -> None:
        """Change an entry by compare-and-set: again, if a scheduler was faster."""
        while True:
            entry = await self._entry(name)
            after = edit(entry)
            if after is entry:
                return
            after = replace(after, version=entry.version + 1)
            (done,) = await self.store.change([Change(before=entry, after=after)])
            if done:
                return

    # --- Looking --------------------------------------------------------------------------------------

    def get(self, name: str) -> ScheduleInfo:
        """Return an entry. Raises `UnknownSchedule`."""
        return self._app.broker.complete(self.aget(name))

    async def aget(self, name: str) -> ScheduleInfo:
        """Coroutine version of `get`."""
        return info_of(await self._entry(name), self._app.conf.timezone)

    def list(self, after: str = "", limit: int = 1000) -> Sequence[ScheduleInfo]:
        """Return up to `limit` entries whose names come after this one, sorted by name."""
        return self._app.broker.complete(self.alist(after, limit))

    async def alist(self, after: str = "", limit: int = 1000) -> Sequence[ScheduleInfo]:
        """Coroutine version of `list`."""
        return [info_of(entry, self._app.conf.timezone) for entry in await self._page(after, limit)]

    def next(self, name: str, count: int = 5) -> Sequence[datetime]:
        """Return the next ticks of an entry, as if it were not paused."""
        return self._app.broker.complete(self.anext(name, count))

    async def anext(self, name: str, count: int = 5) -> Sequence[datetime]:
        """Coroutine version of `next`."""
        entry = await self._entry(name)
        definition = self._definition(entry)
        when, tick = definition.when, max(entry.cursor, self._now())
        if definition.times is not None:
            count = min(count, definition.times - entry.sent)
        found: list[datetime] = []
        while len(found) < count and (following := when.next(tick)) is not None:
            found.append(instant(following))
            tick = following
        return found

    def previous(self, name: str, count: int = 10) -> Sequence[PreviousTick]:
        """Return the ticks of an entry that it has dealt with, the latest first, whether they were sent or left out."""
        return self._app.broker.complete(self.aprevious(name, count))

    async def aprevious(self, name: str, count: int = 10) -> Sequence[PreviousTick]:
        """Coroutine version of `previous`."""
        entry = await self._entry(name)
        definition = self._definition(entry)
        found: list[PreviousTick] = []
        is_over = entry.next_at is None and not entry.paused
        tick = definition.when.previous((entry.last_at or 0 if is_over else entry.cursor) + 1)
        # What came before these was not its business: it was not there yet.
        while tick is not None and len(found) < min(count, entry.sent + entry.missed + entry.skipped):
            found.append(PreviousTick(instant(tick), definition.what.ends_at(entry.salt, tick)))
            tick = definition.when.previous(tick)
        return found

    # --- Sending by hand ------------------------------------------------------------------------------

    def run(self, name: str) -> str:
        """Send what an entry sends, now, besides its ticks; return the id of the (last) task."""
        return self._app.broker.complete(self.arun(name))

    async def arun(self, name: str) -> str:
        """Coroutine version of `run`."""
        definition = self._definition(await self._entry(name))
        (filled,) = await self._send([self._fill(definition, os.urandom(SALT), self._now())])
        return filled.ends[0]

    def backfill(self, name: str, start: datetime, end: datetime) -> int:
        """Send the ticks after `start` and until `end` (aware datetimes) now; return how many there are.

        Each has the id that it had, or would have had, at its time. A tick whose task is still known is not run again.
        """
        return self._app.broker.complete(self.abackfill(name, start, end))

    async def abackfill(self, name: str, start: datetime, end: datetime) -> int:
        """Coroutine version of `backfill`."""
        entry = await self._entry(name)
        definition, first, last = self._definition(entry), moment(start, "start"), moment(end, "end")
        count = definition.when.count(first, last)
        if count > MOST_BACKFILLED:
            raise ValueError(f"{name} has {count:,} ticks between {start} and {end}, and {MOST_BACKFILLED:,} are the "
                             "most at a time: give a shorter time.")  # fmt: skip
        ticks: list[int] = []
        tick = definition.when.next(first)
        while tick is not None and tick <= last:
            ticks.append(tick)
            tick = definition.when.next(tick)
        ends = {one: definition.what.ends_at(entry.salt, one) for one in ticks}
        known = await self._known([id for ids in ends.values() for id in ids])
        new = [one for one, ids in ends.items() if known.isdisjoint(ids)]
        await self._send([self._fill(definition, entry.salt, one) for one in new], again=True)
        return len(new)

    def _fill(self, definition: Definition, salt: bytes, tick: int) -> Filled:
        return definition.what.fill(salt, tick, self._app.clock.now(), 0.0, self._app.backend.codec)

    async def _known(self, ids: Sequence[str]) -> set[str]:
        """Return the ids of tasks that wait, run or have ended, as far as broker and backend can tell.

        What ends between the two questions is found by the second.
        """
        held: Collection[str] = ()
        if ids and self._app.broker.can(Ability.KNOW_IDS):
            held = await self._app.broker.operations().find(ids)
        return {*held, *await self._app.backend.afetch(ids)}

    async def _send(self, filled: Sequence[Filled], again: bool = False) -> Sequence[Filled]:
        """Send what was filled. `again`: it may have been sent before, and workers look whether it has ended."""
        for one in filled:
            if one.plan is not None:
                await workflow_store(self._app.backend).aplant(one.plan, again)
        await self._app.broker.apublish([message for one in filled for message in one.messages], again)
        return filled

    # --- Internals ------------------------------------------------------------------------------------

    def definition(self, schedule: Schedule | Duration | str, what: Any, **more: Any) -> Definition:
        """Return the definition of an entry. Raises for what cannot be."""
        origin = {name: more.pop(name) for name in ("origin", "app") if name in more}
        return with_visible_ends(Definition(
            when=self._when(schedule), what=template_of(self._app, what), **self.policies(more), **origin,
        ))  # fmt: skip

    def _when(self, schedule: Schedule | Duration | str) -> Any:
        return as_schedule(schedule).in_zone(self._app.conf.timezone)

    def policies(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """Return policies as a definition has them. Raises `ImproperlyConfigured` for what is none."""
        found: dict[str, Any] = {}
        for name, value in given.items():
            if name not in POLICIES:
                raise ImproperlyConfigured(f"A schedule has no policy {name!r}.{nearest(name, POLICIES)} "
                                           f"It has: {', '.join(sorted(POLICIES))}.")  # fmt: skip
            if name in DURATIONS:
                found[name] = None if value is None else milliseconds(value, name)
                if value is not None and found[name] < 0:
                    raise ImproperlyConfigured(f"{name}: 0 seconds or more, not {value!r}.")
                continue
            if name in CHOICES and value not in CHOICES[name]:
                raise ImproperlyConfigured(f"{name}: one of {', '.join(CHOICES[name])}, not {value!r}.")
            if name in NUMBERS and value is not None and (type(value) is not int or not 1 <= value <= NUMBERS[name]):
                raise ImproperlyConfigured(f"{name}: a whole number, at least 1 and at most {NUMBERS[name]:,}, "
                                           f"not {value!r}.")  # fmt: skip
            if name in TEXTS and not (isinstance(value, str) and len(value) <= LONGEST_DESCRIPTION):
                raise ImproperlyConfigured(f"{name}: text of up to {LONGEST_DESCRIPTION} characters, not {value!r}.")
            if name in TEXTS and value:
                _text(value, name)
            found[name] = value
        if found.get("jitter", 0) is None:
            found["jitter"] = 0
        return found

    def entry(self, name: str, definition: Definition) -> Entry:
        """Return a new entry. Raises `ImproperlyConfigured` for a name that is not for entries."""
        if _text(name, "The name of a schedule").startswith(RECORD) or "\0" in name:
            raise ImproperlyConfigured("The name of a schedule must not begin with a control character, or have a zero "
                                       f"byte: {name!r}.")  # fmt: skip
        new = Entry(name=name, definition=msgspec.Raw(encode_definition(definition)), salt=os.urandom(SALT), cursor=0)
        return beginning(new, definition, self._now())

    def redefined(self, entry: Entry, definition: Definition) -> Entry:
        """Return an entry with another definition. Its cursor stays if the schedule does."""
        changed = replace(entry, definition=msgspec.Raw(encode_definition(definition)))
        try:
            same = definition_of(entry).when == definition.when
        except Unreadable:
            same = False
        return changed if same and entry.next_at is not None else beginning(changed, definition, self._now())

    def _definition(self, entry: Entry) -> Definition:
        """Return the definition of an entry. Raises `ImproperlyConfigured` for one that is damaged."""
        try:
            return definition_of(entry)
        except Unreadable as error:
            raise ImproperlyConfigured(f"The schedule {entry.name!r} cannot be read: {error}. "
                                       "Remove it, and add it again.") from error  # fmt: skip

    def _now(self) -> int:
        return int(self._app.clock.now() * 1000)

    async def _entry(self, name: str) -> Entry:
        found = await self.store.get([name])
        if name not in found:
            raise await self._unknown(name)
        return found[name]

    async def _page(self, after: str, limit: int) -> Sequence[Entry]:
        """Return the entries whose names come after this one, but for the records, whose names come first of all."""
        return await self.store.page(max(after, LAST_RECORD), limit)

    async def _unknown(self, name: str) -> UnknownSchedule:
        names = [entry.name for entry in await self._page("", NEAR)]
        return UnknownSchedule(f"There is no schedule named {name!r}.{nearest(name, names)} "
                               "`celeriac schedules list` shows all.")  # fmt: skip


def _text(value: Any, name: str) -> str:
    """Return a text. Raises `ImproperlyConfigured` for what is none, is too long, or cannot be encoded."""
    try:
        return text(value, name)
    except (TypeError, ValueError) as error:
        raise ImproperlyConfigured(f"{error}.") from None
