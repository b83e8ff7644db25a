"""`PeriodicTask`: a schedule, in the words of django-celery-beat.

A row is an entry of `app.schedules`, the same that schedulers read. `save` and `delete` change it in the transaction of
the caller, by compare-and-set as any other change, so that a tick that is sent meanwhile is kept.
"""

from __future__ import annotations

import json
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from django.db import DatabaseError, models, transaction
from msgspec.structs import replace

from celeriac.beat.decide import beginning
from celeriac.beat.definition import HAND, Definition, definition_of, encode_definition, with_visible_ends
from celeriac.beat.info import ScheduleInfo, info_of, instant
from celeriac.beat.template import template_of
from celeriac.contrib.django.db.fields import KeyField, as_django, aware, backend, database
from celeriac.contrib.django.db.periodic_parts import VALUES, PeriodicTaskManager, kind_property, sent_property
from celeriac.contrib.django.db.values import NAME_LENGTH, PREFIX, TEXT_LENGTH, call_texts
from celeriac.drivers.sql.keys import KEY_LENGTH, key
from celeriac.errors import DecodeError, ImproperlyConfigured
from celeriac.model.gate import Unreadable
from celeriac.model.message import Message
from celeriac.model.serialization import loads
from celeriac.ports.schedules import Entry, first_revision
from celeriac.schedules.moments import moment
from celeriac.schedules.schedule import Schedule
from celeriac.tasks.current_app import current_app

if TYPE_CHECKING:
    from celeriac.drivers.sql.schedules import SQLScheduleStore

__all__ = ["PeriodicTask"]

SENDS: Final = ("task", "args", "kwargs", "queue", "priority", "headers", "expire_seconds")
"""What a row says of the message that it sends."""

ATTEMPTS: Final = 10  # to change a row, where none can be locked (SQLite)


class PeriodicTask(models.Model):
    """A schedule: what it sends, and when."""

    id = KeyField(max_length=KEY_LENGTH, primary_key=True, editable=False)
    name = models.CharField(max_length=NAME_LENGTH, db_column="title")
    task = models.CharField(max_length=NAME_LENGTH)
    kind = models.CharField(max_length=16, editable=False)
    state = models.CharField(max_length=16, editable=False)
    words = models.CharField("schedule", max_length=TEXT_LENGTH, db_column="schedule", editable=False)
    args = models.TextField("arguments", default="[]", blank=True)
    kwargs = models.TextField("named arguments", default="{}", blank=True)
    queue = models.CharField(max_length=NAME_LENGTH, default="", blank=True)
    description = models.CharField(max_length=TEXT_LENGTH, default="", blank=True)
    enabled = models.BooleanField(default=True)
    one_off = models.BooleanField("one-off", default=False)
    start_time = models.DateTimeField("starts", null=True, blank=True)
    expires = models.DateTimeField("ends", null=True, blank=True)
    last_run_at = models.DateTimeField("last run", null=True, editable=False)
    total_run_count = models.IntegerField("runs", default=0, editable=False)
    next_at = models.BigIntegerField(null=True, editable=False)
    revision = models.BigIntegerField(editable=False)
    raw_name = models.BinaryField(db_column="name")
    data = models.BinaryField(db_column="entry")

    objects = PeriodicTaskManager()

    class Meta:
        """Made by the migration's `MakeTables`."""

        managed = False
        db_table = f"{PREFIX}schedules"
        ordering = ["name"]
        permissions = [("run_periodictask", "Can run periodic tasks now")]
        verbose_name = "periodic task"

    interval, crontab, cron = kind_property("interval"), kind_property("crontab"), kind_property("cron")
    solar, clocked = kind_property("solar"), kind_property("clocked")
    priority, headers = sent_property("priority"), sent_property("headers")
    expire_seconds, missed, overlap = map(sent_property, ("expire_seconds", "missed", "overlap"))

    def __str__(self) -> str:
        return f"{self.name}: {self.words}" if self.words else self.name

    @classmethod
    def from_db(cls, db: str, field_names: Any, values: Any, **options: Any) -> PeriodicTask:
        """Return the schedule of a row."""
        found: PeriodicTask = super().from_db(db, field_names, values, **options)
        if len(found.__dict__.get("name", "")) == NAME_LENGTH and found.entry is not None:
            found.name = found.entry.name  # the column may have its beginning alone
        return found

    def refresh_from_db(self, *args: Any, **kwargs: Any) -> None:
        """Read the row again, and forget what was set and not saved."""
        super().refresh_from_db(*args, **kwargs)
        self._forget()

    # --- Reading --------------------------------------------------------------------------------------

    @property
    def entry(self) -> Entry | None:
        """The entry as it was read; None for a new one, and for one that is damaged."""
        if "_entry" not in self.__dict__:
            try:
                read = None if self._state.adding else _store().entry_of(_Row(self.raw_name, self.revision, self.data))
            except Unreadable:
                read = None
            self.__dict__["_entry"] = read
        found: Entry | None = self.__dict__["_entry"]
        return found

    @property
    def definition(self) -> Definition | None:
        """The definition of the entry, or None."""
        entry = self.entry
        try:
            return definition_of(entry) if entry is not None else None
        except Unreadable:
            return None

    @property
    def info(self) -> ScheduleInfo | None:
        """The entry as `app.schedules.get` returns it; None for a new one."""
        return info_of(self.entry, current_app().conf.timezone) if self.entry is not None else None

    @property
    def schedule(self) -> Schedule | None:
        """When it is sent: the kind of schedule that was set, or else that of the entry."""
        given = self.__dict__.get("_given_schedule")
        if given is not None:
            schedule: Schedule = given.schedule
            return schedule
        return self.definition.when if self.definition is not None else None

    @property
    def next_run_at(self) -> datetime | None:
        """When it is sent next; None if it is paused, or over."""
        found = self.info.next_at if self.info is not None else None
        return None if found is None else as_django(found)

    def next_runs(self, count: int = 5) -> list[datetime]:
        """Return when it is sent next, as long as it is active."""
        if self.entry is None or self.definition is None or self.entry.next_at is None:
            return []
        tick: int | None = self.entry.cursor
        found: list[datetime] = []
        while len(found) < count and tick is not None and (tick := self.definition.when.next(tick)) is not None:
            found.append(as_django(instant(tick)))
        return found

    @property
    def origin(self) -> str:
        """Where it was made: "code", or "hand"."""
        return self.definition.origin if self.definition is not None else HAND

    @property
    def _stored_missed(self) -> str:
        return self.definition.missed if self.definition is not None else "latest"

    @property
    def _stored_overlap(self) -> str:
        return self.definition.overlap if self.definition is not None else "allow"

    @property
    def _message(self) -> Message | None:
        return self.definition.what.messages()[0] if self.definition is not None else None

    @property
    def _stored_priority(self) -> int | None:
        return self._message.priority if self._message is not None else None

    @property
    def _stored_headers(self) -> str:
        return json.dumps((self._message.headers if self._message is not None else None) or {})

    @property
    def _stored_expire_seconds(self) -> float | None:
        return self._message.expires_at if self._message is not None else None

    # --- Changing -------------------------------------------------------------------------------------

    def save(self, *args: Any, using: str | None = None, **kwargs: Any) -> None:
        """Add the schedule, or change it: in the transaction of the caller, if there is one.

        Raises `ImproperlyConfigured` and other errors of `app.schedules.add` for what cannot be sent, and Django's
        `IntegrityError` if the name is taken, or `DatabaseError` if others have changed it again and again meanwhile.
        """
        self._state.db = using = using or self._state.db or database()
        if self._state.adding:
            self._insert(self._changed(None), first_revision(), using)
            return
        with transaction.atomic(using):
            for _ in range(ATTEMPTS):
                if self._replace(using):
                    return
        raise DatabaseError(f"The schedule {self.name!r} was changed meanwhile, again and again: save it once more.")

    def _insert(self, entry: Entry, revision: int, using: str) -> None:
        values = {"id": key(entry.name), "raw_name": entry.name.encode(), "revision": revision}
        self.__dict__.update(values)
        self._take(entry)
        super().save(force_insert=True, using=using)
        self._forget()

    def _replace(self, using: str) -> bool:
        """Carry out a change. Return False if a scheduler or somebody else was faster."""
        # The lock also shows the row as it is now, and not as it was when the transaction began (REPEATABLE READ).
        row = _rows(using).select_for_update().get(pk=self.id)
        if row.entry is None:
            raise ImproperlyConfigured(f"The schedule {row.name!r} cannot be read: delete it, and add it again.")
        after = self._changed(row.entry)
        same = _rows(using).filter(pk=self.id, revision=row.revision)
        if key(self.name) != self.id:  # it has another name, and so becomes another row
            if not same.delete()[0]:
                return False
            self._insert(after, first_revision(), using)
            return True
        self._take(after)
        changed = {field.attname: getattr(self, field.attname) for field in self._meta.concrete_fields
                   if field.attname not in ("id", "raw_name")}  # fmt: skip
        if not same.update(**{**changed, "revision": row.revision + 1}):
            return False
        self.revision = row.revision + 1
        self._forget()
        return True

    def _forget(self) -> None:
        """Read what was saved from the row, from now on."""
        for name in [name for name in self.__dict__ if name in CACHED]:
            del self.__dict__[name]

    def _take(self, entry: Entry) -> None:
        """Set the fields to what the columns of an entry are."""
        fields = {field.column: field.attname for field in self._meta.concrete_fields}
        for column, value in _store().values(entry).items():
            setattr(self, fields[column], as_django(value) if isinstance(value, datetime) else value)
        self.name = entry.name

    def _changed(self, entry: Entry | None) -> Entry:
        """Return the entry as these fields say."""
        app: Any = current_app()
        schedules = app.schedules
        definition = self.new_definition()
        if entry is None:
            after: Entry = schedules.entry(self.name, definition)
        else:
            same = encode_definition(definition) == bytes(entry.definition)
            after = entry if same else schedules.redefined(entry, definition)
            after = replace(after, version=entry.version + 1, name=self.name)
        if not self.enabled:
            return replace(after, paused=True, next_at=None, claimed_at=None)
        if after.paused:
            return beginning(replace(after, paused=False), definition, int(app.clock.now() * 1000))
        return after

    def new_definition(self) -> Definition:
        """Return the definition that the fields make. Raises for what cannot be sent."""
        app: Any = current_app()
        schedule, old = self.schedule, self.definition
        if schedule is None:
            raise ImproperlyConfigured(f"The schedule {self.name!r} does not say when it is sent: set one of "
                                       f"{', '.join(VALUES)}.")  # fmt: skip
        limits = {"starts": _milliseconds(self.start_time), "ends": _milliseconds(self.expires)}
        when = replace(schedule, **limits)
        what = old.what if old is not None and not self._sends_other(old) else template_of(app, self.signature())
        times = 1 if self.one_off else None if old is None or old.times == 1 else old.times
        policies = app.schedules.policies({"times": times, "description": self.description or "",
                                           "missed": self.missed, "overlap": self.overlap})  # fmt: skip
        facts = {"when": when.in_zone(app.conf.timezone), "what": what, **policies}
        return with_visible_ends(Definition(**facts) if old is None else replace(old, **facts))

    def signature(self) -> Any:
        """Return the signature of what is sent. Raises `ImproperlyConfigured` for what is not JSON."""
        args, kwargs = _json("args", self.args or "[]", list), _json("kwargs", self.kwargs or "{}", dict)
        headers = _json("headers", self.headers or "{}", dict)
        options = {"queue": self.queue or None, "priority": self.priority, "headers": headers or None,
                   "expires": self.expire_seconds}  # fmt: skip
        given = {name: value for name, value in options.items() if value is not None}
        return current_app().signature(self.task, args, kwargs, **given)

    def _sends_other(self, old: Definition) -> bool:
        """Return whether what is sent is not what a definition sends."""
        message = old.what.messages()[0]
        stored = (old.what.task, *call_texts(old), message.queue, self._stored_priority, self._stored_headers,
                  self._stored_expire_seconds)  # fmt: skip
        return tuple(getattr(self, name) for name in SENDS) != stored

    def pause(self) -> None:
        """Stop sending until `resume`."""
        self.enabled = False
        self.save()

    def resume(self) -> None:
        """End a pause: the ticks that are sent begin now."""
        self.enabled = True
        self.save()

    def run(self) -> str:
        """Send now, besides the ticks; return the id of the (last) task."""
        app: Any = current_app()
        return str(app.schedules.run(self.name))


CACHED: Final = ("_entry", "_given_schedule", "_priority", "_headers", "_expire_seconds", "_missed",
                 "_overlap")  # fmt: skip


class _Row(NamedTuple):
    """A row as the store of schedules reads it."""

    name: bytes
    revision: int
    entry: bytes


def _store() -> SQLScheduleStore:
    store: Any = backend().schedules()
    found: SQLScheduleStore = store
    return found


def _rows(using: str) -> Any:
    """Return all rows, with the methods of Django's own querysets."""
    return models.QuerySet(PeriodicTask, using=using)


def _milliseconds(value: datetime | None) -> int | None:
    if value is None:
        return None
    return moment(aware(value), "the limit")


def _json(name: str, text: str, kind: type) -> Any:
    """Return what a field has as JSON. Raises `ImproperlyConfigured`."""
    try:
        value = loads(text.encode())
    except DecodeError as error:
        raise ImproperlyConfigured(f"{name} is not JSON: {error}") from error
    if not isinstance(value, kind):
        raise ImproperlyConfigured(f"{name}: JSON of a {kind.__name__}, such as {kind()!r}, not {text}.")
    return value
