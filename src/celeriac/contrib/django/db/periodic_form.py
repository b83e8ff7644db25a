"""The form of a schedule: what is sent, and when; mistakes are told at the field that has them.

`periodic_admin.py` shows it. `PeriodicTask` checks what is sent as a call would.
"""

from __future__ import annotations

import re
import zoneinfo
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, ClassVar, Final

from django import forms

from celeriac.beat.info import CHOICES
from celeriac.contrib.django.db.fields import aware
from celeriac.contrib.django.db.kinds import PERIODS, ClockedSchedule, SolarSchedule
from celeriac.contrib.django.db.periodic import PeriodicTask
from celeriac.contrib.django.db.periodic_parts import VALUES
from celeriac.contrib.django.db.values import NAME_LENGTH
from celeriac.drivers.sql.keys import key
from celeriac.errors import ArgumentsError, CeleriacError, UnknownQueue
from celeriac.tasks.current_app import current_app

__all__ = ["KIND_FIELDS", "PeriodicTaskForm"]

WHEN: Final = (("interval", "At an interval"), ("crontab", "Crontab"), ("cron", "Cron expression"),
               ("solar", "By the sun"), ("clocked", "Once, at a time"))  # fmt: skip
KIND_FIELDS: Final = {
    "interval": ("every", "period"),
    "crontab": ("minute", "hour", "day_of_week", "day_of_month", "month_of_year", "timezone"),
    "cron": ("expression", "timezone"),
    "solar": ("event", "latitude", "longitude"),
    "clocked": ("clocked_time",),
}
"""The fields of each kind of schedule, by the names of the fields of its value."""

MISSED: Final = {"latest": "send the latest one", "all": "send all of them", "skip": "leave them out"}
OVERLAP: Final = {
    "allow": "send it", "skip": "leave it out", "one": "wait for the end, then send the latest",
    "all": "wait for the end, then send each", "cancel": "end what runs, and send it",
}  # fmt: skip


class _Code(forms.TextInput):
    def __init__(self, **attrs: Any) -> None:
        super().__init__({"class": "vTextField celeriac-code", "spellcheck": "false", "autocomplete": "off", **attrs})


class _TaskInput(forms.TextInput):
    """A text with the names of all known tasks as suggestions."""

    template_name = "celeriac_db/task_input.html"

    def get_context(self, name: str, value: Any, attrs: Any) -> dict[str, Any]:
        """Add the names."""
        found: dict[str, Any] = super().get_context(name, value, attrs)
        app: Any = current_app()
        app.import_tasks()
        return {**found, "tasks": sorted(app.tasks)}


def _choice(choices: Any, **options: Any) -> forms.ChoiceField:
    return forms.ChoiceField(choices=choices, required=False, **options)


class PeriodicTaskForm(forms.ModelForm):
    """A schedule."""

    task = forms.CharField(max_length=NAME_LENGTH, widget=_TaskInput({"class": "vTextField celeriac-code"}))
    when = forms.ChoiceField(choices=WHEN)
    every = forms.IntegerField(min_value=1, required=False)
    period = _choice([(name, name) for name in PERIODS], initial="minutes")
    minute = forms.CharField(required=False, initial="0", widget=_Code())
    hour = forms.CharField(required=False, initial="*", widget=_Code())
    day_of_week = forms.CharField(required=False, initial="*", widget=_Code(), help_text="0 to 6 or sun to sat")
    day_of_month = forms.CharField(required=False, initial="*", widget=_Code())
    month_of_year = forms.CharField(required=False, initial="*", widget=_Code())
    expression = forms.CharField(required=False, widget=_Code(placeholder="0 9 * * mon-fri"),
                                 help_text="Five fields, or @daily and the like; L and # are known.")  # fmt: skip
    timezone = forms.CharField(required=False, widget=_Code(), label="Time zone",
                               help_text="Such as Europe/Berlin. Without: the zone of the app.")  # fmt: skip
    event = _choice(SolarSchedule.EVENT_CHOICES)
    latitude = forms.FloatField(required=False, min_value=-90, max_value=90, help_text="Degrees north.")
    longitude = forms.FloatField(required=False, min_value=-180, max_value=180, help_text="Degrees east.")
    clocked_time = forms.SplitDateTimeField(required=False, label="Time")
    queue = _choice([], help_text="Without: that of the task.")
    priority = forms.IntegerField(required=False, min_value=0, max_value=9, help_text="0 to 9: higher is sooner.")
    headers = forms.CharField(required=False, initial="{}", widget=_Code(), help_text="JSON.")
    expire_seconds = forms.FloatField(required=False, min_value=0, label="Expires after",
                                      help_text="Seconds. What has not started by then is left out.")  # fmt: skip
    missed = _choice([(name, MISSED[name]) for name in CHOICES["missed"]], initial="latest",
                     label="If ticks were missed", help_text="While no scheduler ran.")  # fmt: skip
    overlap = _choice([(name, OVERLAP[name]) for name in CHOICES["overlap"]], initial="allow",
                      label="If the last one runs")  # fmt: skip

    chosen: Any = None  # the value of the schedule, if it is another one

    class Meta:
        """The fields of the model."""

        model = PeriodicTask
        fields = ("name", "description", "task", "args", "kwargs", "queue", "enabled", "one_off", "start_time",
                  "expires")  # fmt: skip
        widgets: ClassVar[dict[str, Any]] = {
            "args": forms.Textarea({"rows": 2, "cols": 70, "spellcheck": "false"}),
            "kwargs": forms.Textarea({"rows": 2, "cols": 70, "spellcheck": "false"}),
            "description": forms.TextInput({"class": "vTextField"}),
        }
        help_texts: ClassVar[dict[str, str]] = {
            "args": 'JSON: [1, "two"]', "kwargs": 'JSON: {"name": "value"}', "one_off": "Send it once.",
            "start_time": "No run before.", "expires": "No run after.",
        }  # fmt: skip

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        app: Any = current_app()
        app.import_tasks()
        known = sorted({*app.queues, *filter(None, [self.instance.queue])})
        self.fields["queue"].choices = [("", "–"), *((name, name) for name in known)]
        self.fields["timezone"].widget.attrs["placeholder"] = app.conf.timezone
        self._mark_kinds()
        if not self.instance._state.adding:
            self._fill_in()

    def _mark_kinds(self) -> None:
        """Say which fields belong to which kind: the page shows those of the chosen one."""
        for name in {name for names in KIND_FIELDS.values() for name in names}:
            kinds = " ".join(kind for kind, names in KIND_FIELDS.items() if name in names)
            widget = self.fields[name].widget
            for part in getattr(widget, "widgets", [widget]):
                part.attrs["data-kind"] = kinds

    def _fill_in(self) -> None:
        """Show the values of the schedule that are no fields of the model."""
        for name in ("priority", "headers", "expire_seconds", "missed", "overlap"):
            self.initial[name] = getattr(self.instance, name)
        kind = self.instance.kind
        value = getattr(self.instance, kind, None) if kind else None
        self.initial["when"] = kind
        for name in KIND_FIELDS.get(kind, ()):
            self.initial[name] = getattr(value, name, None)

    def clean_name(self) -> str:
        """Return the name, which no other schedule has."""
        name: str = self.cleaned_data["name"]
        if PeriodicTask.objects.filter(pk=key(name)).exclude(pk=self.instance.pk or "").exists():
            raise forms.ValidationError(f"There is a schedule named {name!r} already.")
        return name

    def clean_timezone(self) -> str:
        """Return the name of a zone."""
        name: str = self.cleaned_data["timezone"].strip()
        if name and name not in zoneinfo.available_timezones():
            raise forms.ValidationError(f"There is no time zone {name!r}: write a name such as Europe/Berlin.")
        return name

    def clean(self) -> dict[str, Any]:
        """Check the schedule, and what is sent."""
        cleaned: dict[str, Any] = super().clean() or self.cleaned_data
        kind = cleaned.get("when")
        if kind and not any(name in self.errors for name in KIND_FIELDS[kind]):
            self._check_schedule(kind, cleaned)
        return cleaned

    def _check_schedule(self, kind: str, cleaned: dict[str, Any]) -> None:
        names = KIND_FIELDS[kind]
        given = {name: cleaned.get(name) for name in names}
        missing = [name for name, value in given.items() if value in (None, "") and name != "timezone"]
        for name in missing:
            self.add_error(name, "This field is required.")
        if missing:
            return
        if kind == "clocked":
            given["clocked_time"] = aware(cleaned["clocked_time"])
        value = VALUES[kind](**given)
        try:
            schedule = value.schedule
            if isinstance(value, ClockedSchedule) and value.clocked_time <= datetime.now(UTC):
                raise ValueError("This time has passed.")
        except (CeleriacError, ValueError, TypeError) as error:
            otherwise = names[0] if len(names) <= 2 else "when"
            self.add_error(_field_of(str(error), names, otherwise), _without_call(str(error)))
            return
        unchanged = kind == self.instance.kind and schedule == getattr(VALUES[kind].of(self.instance.schedule),
                                                                      "schedule", None)  # fmt: skip
        if not unchanged:
            self.chosen = value

    def _post_clean(self) -> None:
        """Put the values into the schedule, and check it as `save` does."""
        super()._post_clean()
        if self.errors:
            return
        one, cleaned = self.instance, self.cleaned_data
        for name in ("priority", "expire_seconds"):
            setattr(one, name, cleaned[name])
        one.headers = cleaned["headers"] or "{}"
        one.missed, one.overlap = cleaned["missed"] or "latest", cleaned["overlap"] or "allow"
        if self.chosen is not None:
            setattr(one, cleaned["when"], self.chosen)
        try:
            one.new_definition()
        except ArgumentsError as error:
            self.add_error("args", str(error))
        except UnknownQueue as error:
            self.add_error("queue", str(error))
        except (CeleriacError, ValueError, TypeError) as error:
            self.add_error(_field_of(str(error), ("args", "kwargs", "headers", "expires"), None), str(error))


def _field_of(error: str, names: Sequence[str], otherwise: str | None) -> str | None:
    """Return the field that an error is about, as far as its words tell."""
    plain = _without_call(error).lower().replace(" of the ", " of ")
    return next((name for name in sorted(names, key=len, reverse=True) if name.replace("_", " ") in plain), otherwise)


def _without_call(error: str) -> str:
    """Return an error about a schedule without the schedule, which the form shows.

    >>> _without_call("crontab(minute=0, hour=25): the hour 25 is not between 0 and 23.")
    'The hour 25 is not between 0 and 23.'
    """
    text = re.sub(r"^\w+\(.*?\): ", "", error)
    return text[:1].upper() + text[1:]
