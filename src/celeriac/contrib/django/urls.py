"""URLs of the status of tasks, with djcelery's paths and names.

    path("tasks/", include("celeriac.contrib.django.urls"))

All but the signed one are for staff: return values and tracebacks are nobody else's business.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

from django.http import HttpRequest, HttpResponse, JsonResponse
from django.urls import path

from celeriac.contrib.django import views

__all__ = ["urlpatterns"]

View = Callable[..., HttpResponse]


def _for_staff(view: View) -> View:
    """Answer 401 or 403 in JSON, which a page can read, in place of a redirection to a login."""

    @wraps(view)
    def guarded(request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
        user = getattr(request, "user", None)
        if user is None or not user.is_authenticated:
            return JsonResponse({"detail": "Log in as a member of the staff."}, status=401)
        if not (user.is_active and user.is_staff):
            return JsonResponse({"detail": f"{user.get_username()} is not a member of the staff."}, status=403)
        return view(request, *args, **kwargs)

    return guarded


urlpatterns = [
    path("signed/<str:ticket>/", views.signed_status, name=views.SIGNED),
    path("tasks/", _for_staff(views.registered_tasks), name="celery-tasks"),
    path("<str:task_id>/done/", _for_staff(views.is_task_successful), name="celery-is_task_successful"),
    path("<str:task_id>/status/", _for_staff(views.task_status), name="celery-task_status"),
]
