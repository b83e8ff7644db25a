"""What a worker checks and prepares when it starts: open files, the result backend, other workers of its name.

Called by the supervisor. Only a missing extra keeps a worker from starting: all else is logged before it is ready.
"""

from __future__ import annotations

import asyncio
import logging
import os
import resource
import socket
from contextlib import suppress
from typing import TYPE_CHECKING

from celeriac.app.app import Celeriac
from celeriac.errors import BackendError, BrokerError
from celeriac.lazy import LazyModule
from celeriac.model.masks import masked
from celeriac.model.message import new_id
from celeriac.ports.operations import WorkerInfo
from celeriac.tasks.builtin_names import sends_callbacks
from celeriac.worker.options import WorkerOptions

if TYPE_CHECKING:
    from celeriac.http import driver as http_driver
else:
    http_driver = LazyModule("celeriac.http.driver")

__all__ = ["check", "import_http", "raise_open_files"]

log = logging.getLogger("celeriac.worker")

MOST_FILES = 1 << 20  # in some containers the hard limit is 2³⁰, and old programs try to close that many


def raise_open_files() -> None:
    """Raise the soft limit of open files to the hard one; the children inherit it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MOST_FILES if hard == resource.RLIM_INFINITY else min(hard, MOST_FILES)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with suppress(ValueError, OSError):  # a system that allows fewer than it says
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def import_http(app: Celeriac) -> None:
    """Import what sends HTTP requests, once for all children, if the app has HTTP tasks or callbacks.

    Raises `ImproperlyConfigured` without the extra.
    """
    if app.has_http_tasks:
        http_driver.driver("calling")
    if sends_callbacks(app):
        http_driver.driver("delivery")


async def check(app: Celeriac, options: WorkerOptions) -> None:
    """Log what an operator should know. The worker has its lease."""
    await asyncio.gather(_check_backend(app), _find_namesakes(app, options.name))


async def _check_backend(app: Celeriac) -> None:
    """Warn if results cannot be stored. A backend that the broker joins has been reached already."""
    if app.sends_outcomes or app.broker.joins(app.backend):
        return
    try:
        await app.backend.afetch([new_id()])
    except (BackendError, BrokerError) as error:
        log.warning("The result backend %s cannot be reached. Tasks are run, but none of them ends before their "
                    "outcomes can be stored: %s", masked(app.backend_url), error)  # fmt: skip


async def _find_namesakes(app: Celeriac, name: str) -> None:
    try:
        workers = await app.broker.operations().workers()
    except BrokerError as error:
        log.debug("Cannot look for other workers named %s: %s", name, error)
        return
    for worker in workers:
        if worker.name == name and _may_live(worker):
            log.warning("Another worker is named %s, too: pid %d on %s. Commands for one reach both, and logs and "
                        "results do not tell them apart. Start each with a name of its own: -n NAME",
                        name, worker.pid, worker.host)  # fmt: skip


def _may_live(worker: WorkerInfo) -> bool:
    """Return whether this is not this process, nor one of this machine that has died and whose lease still stands."""
    if worker.host != socket.gethostname():
        return True
    if worker.pid == os.getpid():
        return False
    try:
        os.kill(worker.pid, 0)
    except ProcessLookupError:
        return False
    except OSError:  # the process of another user
        pass
    return True
