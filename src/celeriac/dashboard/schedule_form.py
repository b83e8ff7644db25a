"""The form that adds or changes a schedule. What is wrong is told beside its field, and the next times as it would be.

The page reads its fields from the query, so that a check and a refused form show what was typed. It works without
scripts: "Check" and "Save" post the fields, and what is not saved comes back as the query of the page. Its addresses
are not below `/schedules/`, where each name is that of a schedule.
"""

from __future__ import annotations

import re
from typing import Any, Final, NamedTuple
from zoneinfo import ZoneInfo

import msgspec

from celeriac.beat.info import CHOICES, ScheduleInfo, instant
from celeriac.dashboard.pages import Context, Done, Pages
from celeriac.dashboard.view import View, segment
from celeriac.documents import call_of, to_json
from celeriac.errors import CeleriacError, ImproperlyConfigured, nearest
from celeriac.model.message import Message
from celeriac.schedules.schedule import Schedule
from celeriac.schedules.written import duration_written, schedule_written
from celeriac.tasks.message_template import COPIED_OPTIONS

__all__ = ["PAGES"]

PAGES: Final = Pages()

FIELDS: Final = ("name", "task", "args", "kwargs", "queue", "schedule", "tz", "missed", "overlap", "jitter", "times")
LONGEST: Final = 2_000  # characters of a field
NEXT: Final = 5
HOUR: Final = 3600  # stands for a schedule that stays as it is
WRITTEN: Final = re.compile(r"(?:cron|at)\('([^'\\]*)'(?:, tz='([^'\\]*)')?\)|every\((\d+(?:\.\d+)?)\)")
"""The schedules, as they are shown, that the form can show whole: without limits, say. Others stay as they are."""


class _Meant(NamedTuple):
    """What a form means."""

    when: Schedule | None  # None: as it is
    what: Any  # a signature; None: what is sent stays as it is
    policies: dict[str, Any]


class _Checked(NamedTuple):
    """A form that was read: what it means if all of it is right, and what is wrong, by field."""

    meant: _Meant | None
    faults: dict[str, str]


@PAGES.page("schedule_new", "/schedule-form", "schedules:write", "Add a schedule", under="schedules")
async def _new(view: View) -> Context:
    return await _form(view, None, {name: view.query.get(name, "") for name in FIELDS})


@PAGES.page("schedule_edit", "/schedule-form/{name:path}", "schedules:write", "Change a schedule", under="schedules")
async def _edit(view: View) -> Context:
    name = view.path["name"]
    info = await view.site.read(view.app.schedules.aget(name))
    typed = {field: view.query.get(field, "") for field in FIELDS}
    given = typed if "checked" in view.query else _given_by(view, info)
    return await _form(view, info, {**given, "name": name})


async def _form(view: View, info: ScheduleInfo | None, given: dict[str, str]) -> Context:
    is_asked = "checked" in view.query
    checked = _checked(view, given, info) if is_asked else _Checked(None, {})
    coming: list[tuple[float, str]] = []
    words = ""
    if checked.meant is not None and checked.meant.when is not None:
        when = view.app.schedules.definition(checked.meant.when, _some_call(view)).when
        zone = ZoneInfo(getattr(when, "tz", None) or view.app.conf.timezone)
        words, tick = when.describe(), int(view.now * 1000)
        while len(coming) < NEXT and (following := when.next(tick)) is not None:
            coming.append((following / 1000, f"{instant(following).astimezone(zone):%A, %-d %B %Y, %H:%M:%S}"))
            tick = following
    return {
        "title": "Add a schedule" if info is None else f"Change {info.name}", "info": info, "given": given,
        "faults": checked.faults, "words": words, "coming": coming, "is_asked": is_asked,
        "tasks": sorted(view.app.tasks), "choices": CHOICES, "zone": view.app.conf.timezone,
        "queues": [one.queue for one in await view.counts()],
        "keeps_call": info is not None and _keeps_call(view, info),
    }  # fmt: skip


def _call_of(view: View, info: ScheduleInfo) -> Any:
    return call_of(info.messages[0], view.app) if len(info.messages) == 1 else None


def _given_by(view: View, info: ScheduleInfo) -> dict[str, str]:
    """Return the fields of the form for an entry as it is."""
    call = _call_of(view, info)
    policies = {
        name: f"{value:g}s" if isinstance(value, float) else str(value) for name, value in info.policies.items()
    }
    given = {name: policies.get(name, "") for name in FIELDS}
    found = WRITTEN.fullmatch(info.schedule)
    given["schedule"] = "" if found is None else found[1] or f"{found[3]}s"
    return {
        **given, "task": info.task, "tz": (found and found[2]) or "",
        "args": to_json(call[0]).decode() if call and call[0] else "",
        "kwargs": to_json(call[1]).decode() if call and call[1] else "",
        "queue": info.messages[0].queue if info.messages else "",
    }  # fmt: skip


# --- Reading ------------------------------------------------------------------------------------------


def _checked(view: View, given: dict[str, str], info: ScheduleInfo | None) -> _Checked:
    """Return what a form means. Each field is read for itself, so that all that is wrong is told at once."""
    faults: dict[str, str] = {}
    given = {name: value.strip() for name, value in given.items()}

    def read(name: str, reader: Any) -> Any:
        try:
            return reader(given[name]) if given[name] else None
        except (CeleriacError, ValueError, TypeError) as error:
            faults[name] = str(error)
            return None

    if not given["name"]:
        faults["name"] = "A schedule needs a name."
    zone = {"tz": given["tz"]} if given["tz"] else {}
    when = read("schedule", lambda text: schedule_written(text, **zone))
    if given["tz"] and not given["schedule"]:
        faults["tz"] = "A time zone is that of a cron expression: write that, too."
    if given["tz"] and "schedule" in faults and read("schedule", schedule_written) is not None:
        faults["tz"] = faults.pop("schedule")  # without the zone it is right
    args, kwargs = read("args", _json_of(list)), read("kwargs", _json_of(dict))
    policies = {"jitter": read("jitter", _duration), "times": read("times", _number),
                "missed": given["missed"] or "latest", "overlap": given["overlap"] or "allow"}  # fmt: skip
    keeps_call = info is not None and _keeps_call(view, info)
    if not keeps_call and given["task"] not in view.app.tasks:
        faults["task"] = (f"There is no task {given['task']!r}.{nearest(given['task'], view.app.tasks)}"
                          if given["task"] else "Choose the task that is sent.")  # fmt: skip
    if when is None and info is None and "schedule" not in faults:
        faults["schedule"] = "Say when."
    if faults:
        return _Checked(None, faults)
    what = None
    try:
        if not keeps_call:
            options = {} if info is None else _options_of(view, info.messages[0])
            if given["queue"]:
                options["queue"] = given["queue"]
            what = view.app.signature(given["task"], args or (), kwargs or {}, **options)
        definition = view.app.schedules.definition(when or HOUR, what or _some_call(view), **policies)
        view.app.schedules.entry(given["name"], definition)
    except (CeleriacError, ValueError, TypeError) as error:
        return _Checked(None, {_about(error): str(error)})
    return _Checked(_Meant(when, what, policies), {})


def _keeps_call(view: View, info: ScheduleInfo) -> bool:
    """Return whether what an entry sends cannot be shown whole in the form, and stays as it is."""
    call = _call_of(view, info)
    if info.workflow or call is None or info.messages[0].link or info.messages[0].link_error:
        return True
    return bool(msgspec.json.decode(to_json(call)) != list(call))  # as JSON, it is not the same


def _options_of(view: View, message: Message) -> dict[str, Any]:
    """Return the options that the call of an entry has, which the form does not show."""
    usual = view.app.signature(message.task).message()
    found = {name: getattr(message, name) for name in COPIED_OPTIONS if getattr(message, name) != getattr(usual, name)}
    if message.due_at:
        found["countdown"] = message.due_at  # seconds, in an entry
    if message.expires_at is not None:
        found["expires"] = message.expires_at
    return found


def _some_call(view: View) -> Any:
    """Return what stands for a call that is not looked at."""
    return view.app.signature(next(iter(view.app.builtin_tasks)))


def _about(error: Exception) -> str:
    """Return the field that an error is about, which the app has raised for the whole."""
    name = type(error).__name__
    if name == "UnknownQueue":
        return "queue"
    return (
        "args"
        if name in ("ArgumentsError", "EncodeError")
        else "name"
        if "name of a schedule" in str(error)
        else "task"
    )


def _json_of(kind: type) -> Any:
    def read(text: str) -> Any:
        try:
            value = msgspec.json.decode(text)
        except msgspec.DecodeError as error:
            raise ValueError(f"This is no JSON: {error}.") from None
        if not isinstance(value, kind):
            raise ValueError('A list, as in ["ann", 3].' if kind is list else 'An object, as in {"user": "ann"}.')
        return value

    return read


def _duration(text: str) -> float:
    found = duration_written(text)
    if found is None:
        raise ValueError("Seconds, or a number with a unit: 30s, 5m, 2h or 1d.")
    return found


def _number(text: str) -> int:
    if not (text.isascii() and text.isdecimal() and 0 < len(text) < 10 and int(text)):
        raise ValueError("A whole number, at least 1.")
    return int(text)


# --- Saving -------------------------------------------------------------------------------------------


@PAGES.action("/schedules", "schedules:write")
async def _add(view: View) -> Done:
    """Add a schedule."""
    given = _posted(view)
    checked = _checked(view, given, None)
    again = _again(view, given)
    if checked.meant is None:
        return _refused(checked, again)
    name, meant = given["name"].strip(), checked.meant
    assert meant.when is not None
    try:
        await view.site.read(view.app.schedules.aadd(name, meant.when, meant.what, **meant.policies))
    except ImproperlyConfigured as error:  # the name is taken
        return Done(f"Nothing was saved. {error}", again, "fault")
    return Done("Added.", view.url(f"/schedules/{segment(name)}"))


@PAGES.action("/schedules/{name:path}/edit", "schedules:write")
async def _change(view: View) -> Done:
    """Change a schedule."""
    name = view.path["name"]
    info = await view.site.read(view.app.schedules.aget(name))
    given = {**_posted(view), "name": name}
    checked = _checked(view, given, info)
    if checked.meant is None:
        return _refused(checked, _again(view, given, name))
    shown = _given_by(view, info)

    def is_same(*fields: str) -> bool:
        return all(given[field].strip() == shown[field] for field in fields)

    meant = checked.meant
    when = None if is_same("schedule", "tz") else meant.when
    what = None if is_same("task", "args", "kwargs", "queue") else meant.what
    await view.site.read(view.app.schedules.achange(name, when, what, **meant.policies))
    return Done("Changed.", view.url(f"/schedules/{segment(name)}"))


@PAGES.action("/schedules/check", "schedules:write", audit=False)
async def _check_new(view: View) -> Done:
    """Show what a form means."""
    return Done("Nothing is saved yet.", _again(view, _posted(view)))


@PAGES.action("/schedules/{name:path}/check", "schedules:write", audit=False)
async def _check(view: View) -> Done:
    """Show what a form means."""
    return Done("Nothing is saved yet.", _again(view, _posted(view), view.path["name"]))


def _again(view: View, given: dict[str, str], name: str | None = None) -> str:
    """Return the address of the form with these fields."""
    path = "/schedule-form" if name is None else f"/schedule-form/{segment(name)}"
    return view.url(path, **{**given, "checked": "yes"})


def _posted(view: View) -> dict[str, str]:
    return {name: view.form.get(name, "")[:LONGEST] for name in FIELDS}


def _refused(checked: _Checked, again: str) -> Done:
    count = len(checked.faults)
    return Done(f"Nothing was saved: {'a field is' if count == 1 else f'{count} fields are'} wrong.", again, "fault")
