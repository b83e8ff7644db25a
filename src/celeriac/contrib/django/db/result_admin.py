"""The pages of results: a list to be searched and filtered, and a page for each task. Nothing can be edited.

Actions are for those who have their permissions: `retry_taskresult`, `revoke_taskresult`, and Django's for deleting.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from django.contrib import admin, messages
from django.http import HttpRequest, HttpResponse
from django.utils.html import format_html
from django.utils.safestring import SafeString

from celeriac import states
from celeriac.contrib.django.db.fields import backend
from celeriac.contrib.django.db.models import PeriodicTask, TaskResult
from celeriac.contrib.django.db.shown import EMPTY, block, duration, json_block, moment, pill, precise
from celeriac.errors import CeleriacError
from celeriac.inspector import Inspector
from celeriac.tasks.current_app import current_app

__all__ = ["TaskResultAdmin"]

STATES = (states.SUCCESS, states.FAILURE, states.RETRY, states.REVOKED, states.STARTED, states.PROGRESS, states.PENDING,
          states.IGNORED)  # fmt: skip
SHORT_ID = 12  # characters
SHOWN_REFUSALS = 5
SHOWN_SCHEDULES = 100  # in the filter


class _StateFilter(admin.SimpleListFilter):
    """By state."""

    title = "state"
    parameter_name = "status"

    def lookups(self, request: HttpRequest, model_admin: Any) -> Sequence[tuple[str, str]]:
        """Return the states that workers store."""
        return [(state, state) for state in STATES]

    def queryset(self, request: HttpRequest, queryset: Any) -> Any:
        """Return what is in the chosen state."""
        return queryset.filter(status=self.value()) if self.value() else queryset


class _TaskFilter(admin.SimpleListFilter):
    """By task, of those that the app knows: no look at all rows is needed for that."""

    title = "task"
    parameter_name = "task_name"

    def lookups(self, request: HttpRequest, model_admin: Any) -> Sequence[tuple[str, str]]:
        """Return the names of the tasks."""
        app: Any = current_app()
        app.import_tasks()
        return [(name, name) for name in sorted(app.tasks)]

    def queryset(self, request: HttpRequest, queryset: Any) -> Any:
        """Return the results of the chosen task."""
        return queryset.filter(task_name=self.value()) if self.value() else queryset


class _ScheduleFilter(admin.SimpleListFilter):
    """By the schedule that has sent the task."""

    title = "schedule"
    parameter_name = "periodic_task_name"

    def lookups(self, request: HttpRequest, model_admin: Any) -> Sequence[tuple[str, str]]:
        """Return the names of the schedules."""
        names = PeriodicTask.objects.order_by("name").values_list("name", flat=True)[:SHOWN_SCHEDULES]
        return [(name, name) for name in names]

    def queryset(self, request: HttpRequest, queryset: Any) -> Any:
        """Return the results of what the chosen schedule has sent."""
        return queryset.filter(periodic_task_name=self.value()) if self.value() else queryset


class TaskResultAdmin(admin.ModelAdmin):
    """The pages of `TaskResult`."""

    list_display = ("task_name", "state", "done", "runtime", "short_id", "worker")
    list_display_links = ("task_name", "short_id")
    list_filter = (_StateFilter, ("date_done", admin.DateFieldListFilter), _TaskFilter, _ScheduleFilter)
    search_fields = ("=task_id", "task_name", "worker")
    search_help_text = "The id of a task, or a part of its name or of its worker's."
    ordering = ("-stored_at",)
    sortable_by = ("done", "task_name")
    show_full_result_count = False
    list_per_page = 50
    actions = ("retry", "revoke", "terminate")
    change_form_template = "admin/celeriac_db/taskresult/change_form.html"
    fieldsets = (
        (None, {"fields": ("task_name", "task_id", "state", "attempt", "schedule", "worker")}),
        ("Call", {"fields": ("arguments", "named_arguments")}),
        ("Result", {"fields": ("value", "error", "trace")}),
        ("Times", {"fields": ("created", "started", "ended", "runtime")}),
        ("More", {"fields": ("more",), "classes": ("collapse",)}),
    )

    class Media:
        """What the pages need."""

        css: ClassVar[dict[str, Any]] = {"all": ("celeriac_db/admin.css",)}

    # --- Rights ---------------------------------------------------------------------------------------

    def has_add_permission(self, request: HttpRequest) -> bool:
        """Return False: workers add results."""
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Return False: nobody changes a result."""
        return False

    def has_retry_permission(self, request: HttpRequest) -> bool:
        """Return whether the user may send failed tasks again."""
        return bool(request.user.has_perm("celeriac_db.retry_taskresult"))

    def has_revoke_permission(self, request: HttpRequest) -> bool:
        """Return whether the user may revoke tasks."""
        return bool(request.user.has_perm("celeriac_db.revoke_taskresult"))

    # --- Values ---------------------------------------------------------------------------------------

    def get_queryset(self, request: HttpRequest) -> Any:
        """Return the rows; a list of them without the return values, which may be large."""
        rows = super().get_queryset(request)
        matched = request.resolver_match
        is_list = matched is not None and (matched.url_name or "").endswith("_changelist")
        return rows.defer("data") if is_list and request.method == "GET" else rows

    @admin.display(description="id")
    def short_id(self, result: TaskResult) -> SafeString:
        """Return the end of the id, which differs most, and the whole of it as a title."""
        shown = result.task_id if len(result.task_id) <= SHORT_ID else f"…{result.task_id[-SHORT_ID:]}"
        return format_html('<span class="celeriac-line" title="{}">{}</span>', result.task_id, shown)

    @admin.display(description="state", ordering="status")
    def state(self, result: TaskResult) -> SafeString:
        """Return the state."""
        return pill(result.status)

    @admin.display(description="done", ordering="date_done")
    def done(self, result: TaskResult) -> SafeString:
        """Return when it was stored, in words."""
        return moment(result.date_done)

    @admin.display(description="runtime")
    def runtime(self, result: TaskResult) -> str:
        """Return how long the attempt took."""
        if not result.ready or result.date_started is None or result.date_done is None:
            return EMPTY
        return duration((result.date_done - result.date_started).total_seconds())

    @admin.display(description="created")
    def created(self, result: TaskResult) -> str:
        """Return when the task was sent."""
        return precise(result.date_created)

    @admin.display(description="started")
    def started(self, result: TaskResult) -> str:
        """Return when the attempt began."""
        return precise(result.date_started)

    @admin.display(description="done")
    def ended(self, result: TaskResult) -> str:
        """Return when it was stored."""
        return precise(result.date_done)

    @admin.display(description="attempt")
    def attempt(self, result: TaskResult) -> int:
        """Return the number of the attempt."""
        return result.outcome.attempt

    @admin.display(description="sent by the schedule")
    def schedule(self, result: TaskResult) -> str:
        """Return the name of the schedule that has sent it."""
        return result.periodic_task_name or EMPTY

    @admin.display(description="arguments")
    def arguments(self, result: TaskResult) -> SafeString:
        """Return the arguments."""
        return json_block(result.task_args) if result.task_args is not None else _not_kept()

    @admin.display(description="named arguments")
    def named_arguments(self, result: TaskResult) -> SafeString:
        """Return the named arguments."""
        return json_block(result.task_kwargs)

    @admin.display(description="return value")
    def value(self, result: TaskResult) -> SafeString:
        """Return the return value."""
        return json_block(result.result) if result.outcome.failure is None else SafeString(EMPTY)

    @admin.display(description="exception")
    def error(self, result: TaskResult) -> SafeString:
        """Return what was raised."""
        failure = result.outcome.failure
        if failure is None:
            return SafeString(EMPTY)
        return format_html('<span class="celeriac-bad">{}.{}</span>: {}', failure.module, failure.type, failure.message)

    @admin.display(description="traceback")
    def trace(self, result: TaskResult) -> SafeString:
        """Return the traceback."""
        return block(result.traceback)

    @admin.display(description="more")
    def more(self, result: TaskResult) -> SafeString:
        """Return what else is known."""
        return json_block(result.meta)

    # --- Actions --------------------------------------------------------------------------------------

    @admin.action(description="Send failed tasks again", permissions=["retry"])
    def retry(self, request: HttpRequest, queryset: Any) -> None:
        """Send failed tasks again, under their ids."""
        app: Any = current_app()
        found = {result.task_id: result for result in queryset}
        try:
            backend().database.check_transaction("Actions need ATOMIC_REQUESTS to be off here.")
            done = app.broker.complete(Inspector(app).retry(list(found), by=request.user.get_username()))
        except CeleriacError as error:
            self.message_user(request, str(error), messages.ERROR)
            return
        for id in done.sent:
            self.log_change(request, found[id], "Sent again.")
        if done.sent:
            self.message_user(request, f"Sent again: {len(done.sent)}.", messages.SUCCESS)
        for id, why in list(done.refused.items())[:SHOWN_REFUSALS]:
            self.message_user(request, f"Not sent again: {found[id].task_name} {id}: {why}.", messages.WARNING)
        if len(done.refused) > SHOWN_REFUSALS:
            self.message_user(request, f"… and {len(done.refused) - SHOWN_REFUSALS} more.", messages.WARNING)

    @admin.action(description="Revoke tasks that have not started", permissions=["revoke"])
    def revoke(self, request: HttpRequest, queryset: Any) -> None:
        """Keep tasks from starting."""
        self._revoke(request, queryset, terminate=False)

    @admin.action(description="Revoke tasks, and end those that run", permissions=["revoke"])
    def terminate(self, request: HttpRequest, queryset: Any) -> None:
        """Keep tasks from starting, and end those that run."""
        self._revoke(request, queryset, terminate=True)

    def _revoke(self, request: HttpRequest, queryset: Any, terminate: bool) -> None:
        open_ = [result for result in queryset if not result.ready]
        try:
            if open_:
                current_app().control.revoke([result.task_id for result in open_], terminate=terminate)
        except CeleriacError as error:
            self.message_user(request, str(error), messages.ERROR)
            return
        for result in open_:
            self.log_change(request, result, "Terminated." if terminate else "Revoked.")
        ended = len(queryset) - len(open_)
        told = f"Revoked: {len(open_)}." + (f" {ended} have ended before." if ended else "")
        self.message_user(request, told, messages.SUCCESS if open_ else messages.WARNING)

    def change_view(self, request: HttpRequest, object_id: str, form_url: str = "",
                    extra_context: dict[str, Any] | None = None) -> HttpResponse:  # fmt: skip
        """Show one result, with buttons for the actions that the user may take."""
        buttons = {"celeriac_retry": self.has_retry_permission(request), "celeriac_revoke":
                   self.has_revoke_permission(request)}  # fmt: skip
        found: HttpResponse = super().change_view(request, object_id, form_url, {**(extra_context or {}), **buttons})
        return found


def _not_kept() -> SafeString:
    return format_html('<span class="help">{}</span>', "Not kept. With the setting result_extended, they are.")
