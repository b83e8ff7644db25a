"""Views of the status of tasks, for pages that ask for it, with the shapes of djcelery's.

`urls.py` has them for staff alone. A project that shows a status to others puts them into URLs of its own, behind its
own decorators; tracebacks are for staff there, too. `signed_status` is for whoever has the URL, see `status_path`.
"""

from __future__ import annotations

from typing import Any

from django.conf import settings
from django.http import HttpRequest, JsonResponse
from django.urls import reverse
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_safe

from celeriac import states
from celeriac.documents import value_of
from celeriac.errors import CeleriacError, EncodeError
from celeriac.model.clock import Duration, seconds
from celeriac.model.outcome import Outcome
from celeriac.model.status_urls import open_ticket, signed_path
from celeriac.tasks.current_app import current_app
from celeriac.tasks.plain_data import error_data
from celeriac.tasks.result import AsyncResult

__all__ = ["is_task_successful", "registered_tasks", "signed_status", "status_path", "task_status"]

EXCEPTION_STATES = frozenset({states.RETRY, states.FAILURE, states.REVOKED})
SIGNED = "celeriac-signed-status"


def status_path(result: AsyncResult[Any], expires: Duration = 3600.0, value: bool = True) -> str:
    """Return a path that tells how a task is doing, to whoever has it; for pages of users without rights.

    It answers as `AsyncResult.to_dict` does until `expires` (seconds, or a timedelta) have passed, and is signed with
    Django's SECRET_KEY. Without `value`, it leaves the return value out. Include `celeriac.contrib.django.urls`.
    """
    until = int(result.app.clock.now() + seconds(expires, "expires"))
    ticket = signed_path(settings.SECRET_KEY, result.id, until, value).removeprefix("/s/")
    path: str = reverse(SIGNED, args=[ticket])
    return path


@require_safe
@never_cache
def task_status(request: HttpRequest, task_id: str) -> JsonResponse:
    """Tell the state and the result of a task: `{"task": {"id", "status", "result"}}`.

    After an exception also `exc`, its class, and for staff `traceback`.
    """
    app: Any = current_app()
    outcome = AsyncResult(task_id, app).outcome
    told: dict[str, Any] = {"id": task_id, "status": _state(outcome), "result": None}
    if outcome is not None and outcome.state in EXCEPTION_STATES:
        failure, error = outcome.failure, error_data(outcome, False) or {"type": "", "message": ""}
        told["result"] = f"{error['type'].rpartition('.')[2]}({error['message']!r})"
        told["exc"] = "celeriac.errors.TaskRevoked" if failure is None else f"{failure.module}.{failure.type}"
        if failure is not None and _is_staff(request):
            told["traceback"] = failure.traceback
    elif outcome is not None:
        told["result"] = value_of(outcome, app)
    return JsonResponse({"task": told})


@require_safe
@never_cache
def is_task_successful(request: HttpRequest, task_id: str) -> JsonResponse:
    """Tell whether a task has succeeded: `{"task": {"id", "executed"}}`."""
    outcome = AsyncResult(task_id).outcome
    return JsonResponse({"task": {"id": task_id, "executed": _state(outcome) == states.SUCCESS}})


@require_safe
@never_cache
def registered_tasks(request: HttpRequest) -> JsonResponse:
    """List the names of tasks: `{"regular": […], "periodic": ""}`."""
    return JsonResponse({"regular": sorted(current_app().tasks), "periodic": ""})


@require_safe
@never_cache
def signed_status(request: HttpRequest, ticket: str) -> JsonResponse:
    """Tell how a task is doing to whoever has the path that `status_path` made."""
    app = current_app()
    opened = next((found for secret in (settings.SECRET_KEY, *settings.SECRET_KEY_FALLBACKS)
                   if (found := open_ticket(secret, ticket)) is not None), None)  # fmt: skip
    if opened is None:
        return JsonResponse({"detail": "This is not a status URL: it is incomplete, or was changed."}, status=404)
    if app.clock.now() > opened.expires_at:
        return JsonResponse({"detail": "This status URL has expired."}, status=410)
    result: AsyncResult[Any] = AsyncResult(opened.id, app)
    try:
        told = result.to_dict()
    except EncodeError:  # the value is not plain data
        told = {"id": opened.id, "state": result.state, "ready": True, "progress": None, "value": None, "error": None}
    except CeleriacError:
        return JsonResponse({"detail": "The result backend cannot be reached."}, status=503)
    if not opened.result:
        told.pop("value")
    return JsonResponse(told)


def _is_staff(request: HttpRequest) -> bool:
    user = getattr(request, "user", None)
    return user is not None and user.is_active and user.is_staff


def _state(outcome: Outcome | None) -> str:
    return states.PENDING if outcome is None else outcome.state
