"""What is done to one task by the buttons of its page."""

from __future__ import annotations

from typing import Final

from celeriac.dashboard.pages import Pages
from celeriac.dashboard.view import View
from celeriac.web.problems import Problem

__all__ = ["PAGES"]

PAGES: Final = Pages()

ACTED: Final = ("tasks", "failures", "queues", "workers")  # topics that an action may change


@PAGES.action("/tasks/{id:path}/retry", "tasks:retry", audit=False)  # the inspector writes down who did it
async def _retry(view: View) -> str:
    """Send a failed task again."""
    id = view.path["id"]
    done = await view.site.read(view.site.inspector.retry([id], view.user.name))
    if done.refused:
        raise Problem("wrong-state", f"It was not sent again: {done.refused[id]}.")
    return _acted(view, "It was sent again, and runs in a second.")


@PAGES.action("/tasks/{id:path}/revoke", "tasks:revoke")
async def _revoke(view: View) -> str:
    """Revoke a task."""
    await view.site.read(view.site.inspector.revoke([view.path["id"]]))
    return _acted(view, "It was revoked: no worker starts it any more.")


@PAGES.action("/tasks/{id:path}/terminate", "tasks:revoke")
async def _terminate(view: View) -> str:
    """Terminate a task that runs."""
    await view.app.control.arevoke([view.path["id"]], terminate=True)
    return _acted(view, "It was revoked, and its worker is told to end it.")


@PAGES.action("/tasks/{id:path}/run-now", "tasks:retry")
async def _run_now(view: View) -> str:
    """Run a scheduled task now."""
    if not await view.site.read(view.site.inspector.run_now([view.path["id"]])):
        raise Problem("wrong-state", "It is not scheduled any more.")
    return _acted(view, "It is ready, and starts as soon as a worker takes it.")


@PAGES.action("/tasks/{id:path}/resend", "dead:write")
async def _resend(view: View) -> str:
    """Send a dead letter again."""
    if not await view.site.read(view.site.inspector.resend([view.path["id"]])):
        raise Problem("wrong-state", "It is no dead letter any more.")
    return _acted(view, "It was sent again, as if it had never been tried.")


@PAGES.action("/tasks/{id:path}/drop", "dead:write")
async def _drop(view: View) -> str:
    """Delete a dead letter."""
    if not await view.site.read(view.site.inspector.drop([view.path["id"]])):
        raise Problem("wrong-state", "It is no dead letter any more.")
    return _acted(view, "It was deleted.")


def _acted(view: View, message: str) -> str:
    view.site.changed()
    view.site.pulse.nudge(*ACTED, f"task:{view.path['id']}")
    return message
