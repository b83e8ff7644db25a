"""The pages of schedules: a list with the next and the last run, and a form to add and change them.

Actions are for those who have their permissions: `run_periodictask` for running now, Django's for changing (which
pausing is) and deleting.
"""

from __future__ import annotations

from typing import Any, ClassVar

from django.contrib import admin, messages
from django.http import HttpRequest, HttpResponse
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString

from celeriac.beat.definition import CODE
from celeriac.contrib.django.db.fields import backend
from celeriac.contrib.django.db.periodic import PeriodicTask
from celeriac.contrib.django.db.periodic_form import PeriodicTaskForm
from celeriac.contrib.django.db.shown import EMPTY, exact, moment, pill
from celeriac.contrib.django.db.values import KINDS
from celeriac.errors import CeleriacError, nearest
from celeriac.tasks.current_app import current_app

__all__ = ["PeriodicTaskAdmin"]

STATES = ("active", "paused", "over", "problem")
NEXT_RUNS = 5


class _StateFilter(admin.SimpleListFilter):
    """By state."""

    title = "state"
    parameter_name = "state"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        """Return the states."""
        return [(state, state) for state in STATES]

    def queryset(self, request: HttpRequest, queryset: Any) -> Any:
        """Return what is in the chosen state."""
        return queryset.filter(state=self.value()) if self.value() else queryset


class _KindFilter(admin.SimpleListFilter):
    """By the kind of schedule."""

    title = "kind"
    parameter_name = "kind"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        """Return the kinds."""
        return [(kind, kind) for kind in KINDS]

    def queryset(self, request: HttpRequest, queryset: Any) -> Any:
        """Return what is of the chosen kind."""
        return queryset.filter(kind=self.value()) if self.value() else queryset


class PeriodicTaskAdmin(admin.ModelAdmin):
    """The pages of `PeriodicTask`."""

    form = PeriodicTaskForm
    list_display = ("name", "shown_state", "words", "next_run", "last_run", "runs", "task")
    list_filter = (_StateFilter, _KindFilter)
    search_fields = ("name", "task", "description", "words")
    search_help_text = "A part of the name, the task, the description, or the schedule in words."
    ordering = ("name",)
    list_per_page = 50
    actions = ("run_now", "pause", "resume")
    save_as = True
    readonly_fields = ("shown_state", "words", "next_runs", "last_run", "runs", "declared")
    change_form_template = "admin/celeriac_db/periodictask/change_form.html"

    class Media:
        """What the pages need."""

        css: ClassVar[dict[str, Any]] = {"all": ("celeriac_db/admin.css",)}
        js = ("celeriac_db/periodic.js",)

    def get_fieldsets(self, request: HttpRequest, obj: PeriodicTask | None = None) -> Any:
        """Return the parts of the form; of a schedule that exists, first how it is doing."""
        doing = ("Now", {"fields": ("shown_state", "words", "next_runs", "last_run", "runs", "declared")})
        return [
            (None, {"fields": ("name", "description", "enabled")}),
            *([doing] if obj else []),
            ("What is sent", {"fields": ("task", "args", "kwargs")}),
            ("When", {"fields": ("when", ("every", "period"), "minute", "hour", "day_of_week", "day_of_month",
                                 "month_of_year", "expression", "timezone", "event", "latitude", "longitude",
                                 "clocked_time")}),
            ("Limits", {"fields": ("one_off", "start_time", "expires"), "classes": ("collapse",)}),
            ("More", {"fields": ("queue", "priority", "headers", "expire_seconds", "missed", "overlap"),
                      "classes": ("collapse",)}),
        ]  # fmt: skip

    # --- Rights ---------------------------------------------------------------------------------------

    def has_run_permission(self, request: HttpRequest) -> bool:
        """Return whether the user may send what a schedule sends."""
        return bool(request.user.has_perm("celeriac_db.run_periodictask"))

    # --- Values ---------------------------------------------------------------------------------------

    @admin.display(description="state", ordering="state")
    def shown_state(self, one: PeriodicTask) -> SafeString:
        """Return the state, and what is wrong."""
        state = pill(one.state)
        problem = one.info.problem if one.info is not None and one.state == "problem" else ""
        return format_html("{} {}", state, problem) if problem else state

    @admin.display(description="next run", ordering="next_at")
    def next_run(self, one: PeriodicTask) -> SafeString:
        """Return when it runs next, in words."""
        return moment(one.next_run_at)

    @admin.display(description="last run", ordering="last_run_at")
    def last_run(self, one: PeriodicTask) -> SafeString:
        """Return when it has run last, in words."""
        return moment(one.last_run_at)

    @admin.display(description="runs", ordering="total_run_count")
    def runs(self, one: PeriodicTask) -> int:
        """Return how often it has run."""
        count: int = one.total_run_count
        return count

    @admin.display(description="next runs")
    def next_runs(self, one: PeriodicTask) -> SafeString:
        """Return the next runs."""
        if one.state != "active":
            return SafeString(EMPTY)
        rows = [(exact(at), moment(at)) for at in one.next_runs(NEXT_RUNS)]
        return format_html_join("", '<div>{}, <span class="celeriac-quiet">{}</span></div>', rows)

    @admin.display(description="declared")
    def declared(self, one: PeriodicTask) -> str:
        """Return who has made it."""
        if one.origin == CODE:
            return "In the code: what is changed here is as in the code again when that declares other schedules."
        return "By hand."

    def change_view(self, request: HttpRequest, object_id: str, form_url: str = "",
                    extra_context: dict[str, Any] | None = None) -> HttpResponse:  # fmt: skip
        """Show the form, with buttons for the actions that the user may take."""
        given = {**(extra_context or {}), "celeriac_run": self.has_run_permission(request)}
        found: HttpResponse = super().change_view(request, object_id, form_url, given)
        return found

    # --- Changing -------------------------------------------------------------------------------------

    def save_model(self, request: HttpRequest, obj: PeriodicTask, form: Any, change: bool) -> None:
        """Save a schedule. Warn of a task that this project does not know: another one may."""
        super().save_model(request, obj, form, change)
        tasks = current_app().tasks
        if obj.task not in tasks and obj.definition is not None and not obj.definition.what.sends_workflow:
            self.message_user(request, f"No task of this project is named {obj.task}.{nearest(obj.task, tasks)}",
                              messages.WARNING)  # fmt: skip

    def delete_queryset(self, request: HttpRequest, queryset: Any) -> None:
        """Delete schedules. What they have sent is run."""
        for one in queryset:
            one.delete()

    # --- Actions --------------------------------------------------------------------------------------

    @admin.action(description="Run now", permissions=["run"])
    def run_now(self, request: HttpRequest, queryset: Any) -> None:
        """Send what schedules send, besides their ticks."""
        for one in queryset:
            try:
                backend().database.check_transaction("Actions need ATOMIC_REQUESTS to be off here.")
                id = one.run()
            except CeleriacError as error:
                self.message_user(request, f"Not sent: {one.name}: {error}", messages.ERROR)
                continue
            self.log_change(request, one, f"Run now: {id}.")
            self.message_user(request, f"Sent: {one.name}, as {id}.", messages.SUCCESS)

    @admin.action(description="Pause", permissions=["change"])
    def pause(self, request: HttpRequest, queryset: Any) -> None:
        """Stop schedules until they are resumed."""
        self._each(request, queryset, "pause", "Paused")

    @admin.action(description="Resume", permissions=["change"])
    def resume(self, request: HttpRequest, queryset: Any) -> None:
        """End the pauses of schedules."""
        self._each(request, queryset, "resume", "Resumed")

    def _each(self, request: HttpRequest, queryset: Any, action: str, told: str) -> None:
        done = 0
        for one in queryset:
            try:
                getattr(one, action)()
            except CeleriacError as error:
                self.message_user(request, f"Not changed: {one.name}: {error}", messages.ERROR)
                continue
            done += 1
            self.log_change(request, one, f"{told}.")
        if done:
            self.message_user(request, f"{told}: {done}.", messages.SUCCESS)
