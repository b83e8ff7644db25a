"""An app with something on every page of its dashboard, served: nothing, one of each, many, or hostile strings.

`Place.pages` has the addresses of each page, by the page's name in `celeriac.dashboard.application.PAGES`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, NamedTuple
from urllib.parse import quote, urlencode

import httpx

from celeriac import Celeriac, chain, group
from tests.dashboard.browsing import seeded
from tests.dashboard.seeding import HOSTILE
from tests.patience import PATIENCE
from tests.web.served import Served

__all__ = ["SIZES", "Place", "served_place"]

SIZES: Final = {
    "nothing": {"rows": 0},
    "one": {"rows": 1, "schedules": 1, "workers": 1},
    "many": {"rows": 2000, "schedules": 70, "workers": 40},
    "hostile": {"rows": 60, "schedules": 7, "workers": 7},
}
ATTACK: Final = HOSTILE[0]
LISTS: Final = {
    "overview": ["/", "/?range=7d"],
    "tasks": ["/tasks", *(f"/tasks?in={one}" for one in ("failed", "running", "waiting", "scheduled"))],
    "scheduled": ["/scheduled"],
    "task": ["/tasks/there-is-none"],
    "queues": ["/queues"],
    "queue": ["/queues/default"],
    "workers": ["/workers"],
    "failures": ["/failures"],
    "dead": ["/dead"],
    "workflows": ["/workflows"],
    "schedules": ["/schedules"],
    "schedule_new": ["/schedule-form"],
    "audit": ["/audit"],
    "bulk": ["/bulk"],
    "bulk_new": [f"/bulk/new?action={one}" for one in ("retry", "resend", "drop", "revoke", "run-now", "move")],
}
"""What is there without any rows."""
ATTACKED: Final = {
    "tasks": [f"/tasks?{urlencode({'q': f'task:{ATTACK}'})}", f"/tasks?in=waiting&{urlencode({'cursor': ATTACK})}"],
    "task": [f"/tasks/{quote(ATTACK, safe='')}"],
    "failures": [f"/failures?{urlencode({'q': f'task:{ATTACK}'})}"],
    "dead": [f"/dead?{urlencode({'queue': ATTACK})}"],
    "workflows": [f"/workflows?{urlencode({'id': ATTACK})}"],
    "schedule_new": ["/schedule-form?" + urlencode(
        dict.fromkeys(("checked", "name", "schedule", "task", "args", "kwargs", "tz", "queue", "jitter"), ATTACK))],
    "audit": [f"/audit?{urlencode({'by': HOSTILE[2]})}"],
    "bulk_new": [f"/bulk/new?{urlencode({'action': 'drop', 'q': ATTACK})}"],
}  # fmt: skip


class Place(NamedTuple):
    """An app that is served."""

    address: str
    folder: Path
    pages: dict[str, list[str]]

    @property
    def paths(self) -> list[tuple[str, bool]]:
        """The addresses of all pages, and whether each is the first or the last of its page."""
        return [(path, path in (paths[0], paths[-1])) for paths in self.pages.values() for path in paths]


@contextmanager
def served_place(folder: Path, *, hostile: bool = False, **options: int) -> Iterator[Place]:
    """Serve an app that was seeded with these options (see `seed`)."""
    app = seeded(folder, hostile=hostile, hours=1.0, **options)
    pages = {name: list(paths) for name, paths in LISTS.items()}
    if options["rows"]:
        _add(pages, app, hostile)
    served = Served(folder)
    try:
        address = served.web()[1]
        if options["rows"]:
            pages["bulk_action"] = [_bulk(address)]
            app.broker.complete(app.broker.operations().pause(_queues(app)[-1]))
        yield Place(address, folder, pages)
    finally:
        app.close()
        served.end()


def _add(pages: dict[str, list[str]], app: Celeriac, hostile: bool) -> None:
    """Add the pages of single things."""
    broker, history, operations = app.broker, app.history, app.broker.operations()
    assert history is not None
    queues = _queues(app)
    some = len(HOSTILE) if hostile else 1
    [letter] = broker.complete(operations.dead(None, 1))
    waiting = [message.id for queue in queues[:1] for message in broker.complete(operations.peek(queue, 1))]
    failed = [one.id for one in broker.complete(history.search()).rows if one.error][:1]
    ids = [*waiting, letter.message.id, *failed]
    pages["task"] += [f"/tasks/{id}" for id in ids]
    pages["queue"] += [f"/queues/{quote(queue, safe='')}" for queue in queues[:some]]
    pages["queue"] += [f"/queues/{quote(queues[0], safe='')}?show=scheduled"]
    workers = [lease.name for lease in broker.complete(operations.workers())]
    pages["worker"] = [f"/workers/{quote(name, safe='')}" for name in workers[:some]]
    pages["failure"] = [f"/failures/{broker.complete(history.signatures())[0].signature}"]
    names = [info.name for info in app.schedules.list()][:some]
    pages["schedule"] = [f"/schedules/{quote(name, safe='')}" for name in names]
    pages["schedule_edit"] = [f"/schedule-form/{quote(name, safe='')}" for name in names[:1]]
    app.schedules.pause(names[0])
    workflow = _workflow(app, hostile)
    pages["workflow"] = [f"/workflows/{workflow}", f"/workflows/{workflow}?inside=3"]
    if hostile:
        for name, paths in ATTACKED.items():
            pages[name] += paths


def _queues(app: Celeriac) -> list[str]:
    """Return the names of queues, those in which something waits first."""
    found = app.broker.complete(app.broker.operations().queues())
    return [one.queue for one in sorted(found, key=lambda one: (-one.ready, one.queue))]


def _workflow(app: Celeriac, hostile: bool) -> str:
    tasks = [text.replace("\x00", "") for text in HOSTILE] if hostile else ["shop.checkout"] * 3
    calls = [app.signature(task, (1,), immutable=True) for task in tasks]
    for call in calls:
        app.task(name=call.task)(abs)
    return str(chain(calls[0], group(calls), group(calls * 30), calls[-1]).apply_async().workflow_id)


def _bulk(address: str) -> str:
    """Begin a bulk action, and return the address of its page."""
    asked = {"action": "revoke", "filter": "task:nothing.has.this.name"}
    with httpx.Client(base_url=address, timeout=PATIENCE, trust_env=False) as client:
        return f"/bulk/{client.post('/api/v1/bulk', json=asked).json()['bulk']}"
