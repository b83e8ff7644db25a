"""Tells the administrators of failures: reads the history, asks `mail/schedule.py` what is due, and sends that.

What is due is sent as the built-in task `celeriac.mail`, to a queue of this worker: so a child sends the mail, any
worker of the queue may, and the broker keeps it if the mail server is away. Of all workers, one at a time looks, and
only if something has failed. That a mail was sent is an event of the history.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from celeriac.app.app import Celeriac
from celeriac.errors import BackendError, BrokerError, ImproperlyConfigured
from celeriac.lazy import LazyModule
from celeriac.model.filters import Filter, parse_filter
from celeriac.model.history import FailureSignature
from celeriac.ports.history import History
from celeriac.tasks.builtin_names import MAIL
from celeriac.worker.options import WorkerOptions
from celeriac.worker.outages import Outages
from celeriac.worker.recorder import Recorder

if TYPE_CHECKING:
    from celeriac.mail import schedule
    from celeriac.mail import tasks as mailing
    from celeriac.mail.schedule import Mail, Mailed
else:  # most workers send no mails
    schedule = LazyModule("celeriac.mail.schedule")
    mailing = LazyModule("celeriac.mail.tasks")

__all__ = ["Mailer"]

log = logging.getLogger("celeriac.worker")

LOOK = "look for failures to mail"  # the duty, for `Outages`
LOOK_SECONDS = 10.0  # while something fails, or a mail is not due yet
IDLE_SECONDS = 60.0  # … otherwise: for what a killed worker has left, and what was marked as resolved
SENDING_SECONDS = 120.0  # if a worker dies while it sends a mail, another one sends it after this
LOOKED_AT = 1_000  # signatures
MOST_EVENTS = 2_000  # of mails in `REMEMBERED`


class Mailer:
    """Sends mails about failures. Where none are to be sent, `is_needed` is False."""

    def __init__(self, app: Celeriac, options: WorkerOptions, recorder: Recorder,
                 queues: Callable[[], Sequence[str]] = tuple, outages: Outages | None = None) -> None:  # fmt: skip
        """Raises `ImproperlyConfigured` if there is no history to learn of failures. `queues`: those received from."""
        self._app = app
        self._worker = options.name
        self._recorder = recorder
        self._queues = queues
        self._outages = outages if app.conf.history_url is None else None  # of the server that all duties use
        self._failing = False
        self._seen = -1  # of what the recorder has written: there may be something from before it started
        self._waits = False
        self._looked_at = float("-inf")  # monotonic
        self._mailed: dict[str, Mailed] = {}  # what was last mailed about each signature
        self._read_at = 0.0
        self.is_needed = _is_needed(app, recorder) and self.history is not None

    @property
    def history(self) -> History:
        """The history that the recorder writes."""
        if self._recorder.history is None:
            raise ImproperlyConfigured("Mails about failures need the history, and this app keeps none: set "
                                       "`history_url`, as in sqlite:///history.db, and `history` to 'on'. Or set "
                                       "`task_send_error_emails` to False.")  # fmt: skip
        return self._recorder.history

    async def run(self) -> None:
        """Look for failures and send mails until cancelled."""
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            begun = time.monotonic()
            if not self._waits and self._seen == self._recorder.failures and begun < self._looked_at + IDLE_SECONDS:
                continue
            self._looked_at = begun
            try:
                await self.look()
                self._worked()
            except (BrokerError, BackendError) as error:
                self._waits = True
                self._failed(error)
            except Exception:  # what is stored there must not end the duty
                log.exception("Cannot look for failures to mail")

    async def look(self) -> list[Mail]:
        """Send what is due, if no other worker looks just now; return what was sent."""
        seen, now = self._recorder.failures, self._app.clock.now()
        if not await self._is_mine("mail", LOOK_SECONDS - 1):
            return []
        signatures = await self.history.signatures(Filter(since=now - schedule.LOOKED_BACK), limit=LOOKED_AT)
        sent_at = await self._read_mailed(now) if signatures else []
        plan = schedule.decide(signatures, self._mailed, sent_at, now, self._app.conf.mail_max_per_hour, self._wanted())
        sent = [mail for mail in plan.mails if await self._send(mail, now)]
        self._seen, self._waits = seen, plan.waits or len(sent) < len(plan.mails)
        return sent

    async def _read_mailed(self, now: float) -> list[float]:
        """Read which mails others have sent since the last look; return when those of the last hour were sent."""
        since = max(now - schedule.REMEMBERED, self._read_at - schedule.HOUR)
        events = await self.history.events((schedule.KIND,), since, MOST_EVENTS)
        self._mailed.update(schedule.mailed_of(events))
        self._read_at = now
        for signature in [name for name, one in self._mailed.items() if one.at < now - schedule.REMEMBERED]:
            del self._mailed[signature]
        return [event.at for event in events if event.at > now - schedule.HOUR]

    async def _send(self, mail: Mail, now: float) -> bool:
        """Send a mail; return whether this worker did, and no other.

        Whoever is killed in between has not noted it, and the next one sends it under the same id.
        """
        if not await self._is_mine(f"mail:{mail.name}", SENDING_SECONDS):
            return False
        options = {**mailing.mail_options(self._app, self._queue()), "ignore_result": True,
                   "task_id": f"{MAIL}-{mail.name}"}  # fmt: skip
        message = self._app.message_template(MAIL).message((schedule.failure_call(mail, now),), {}, options)
        await self._app.broker.apublish([message])
        await self.history.audit(schedule.event_of(mail, self._worker, now))
        log.info("A mail to the administrators is sent: %s", mail.name)
        return True

    def _queue(self) -> str | None:
        """Return a queue that this worker receives from, if there is one."""
        known, missing = self._app.queues, self._app.conf.task_create_missing_queues
        return next((queue for queue in self._queues() if missing or queue in known), None)

    async def _is_mine(self, what: str, seconds: float) -> bool:
        """Return whether this worker does something now, and no other."""
        value = f"{self._worker}:{os.urandom(6).hex()}".encode()  # no other claim has it, not even one of this worker
        return await self.history.claims().claim(what, value, seconds, self._app.clock.now()) is None

    def _wanted(self) -> Callable[[FailureSignature], bool]:
        """Return what tells whether failures are mailed, by `mail_on`, `mail_not_on` and the option `mail`."""
        conf, tasks = self._app.conf, self._app.tasks
        only = [parse_filter(text, 0.0) for text in conf.mail_on]
        never = [parse_filter(text, 0.0) for text in conf.mail_not_on]

        def among(filters: Sequence[Filter], one: FailureSignature) -> bool:
            return any(some.counts(one.task, "", "", one.error, "") for some in filters)

        def wanted(one: FailureSignature) -> bool:
            task = tasks.get(one.task)
            allowed = task is None or task.options.get("mail", True)
            return allowed and (not only or among(only, one)) and not among(never, one)

        return wanted

    # --- Outages --------------------------------------------------------------------------------------

    def _failed(self, error: BrokerError | BackendError) -> None:
        if self._outages is not None:
            self._outages.failed(LOOK, error)
        elif not self._failing:
            log.warning("Mails about failures cannot be sent, the worker keeps trying: %s", error)
        self._failing = True

    def _worked(self) -> None:
        if self._outages is not None:
            self._outages.worked(LOOK)
        elif self._failing:
            log.warning("Mails about failures can be sent again")
        self._failing = False


def _is_needed(app: Celeriac, recorder: Recorder) -> bool:
    """Return whether mails about failures are asked for."""
    wanted: bool | None = app.conf.task_send_error_emails
    if wanted is None and recorder.history is None and app.conf.is_proposed("mail_admins") and app.conf.mail_admins:
        log.warning("Failures are not mailed to the administrators of the project: this app keeps no history. Set "
                    "`history_url`, or `task_send_error_emails` to False")  # fmt: skip
        return False
    if wanted and not app.conf.mail_admins:
        log.warning("No mails are sent: `task_send_error_emails` is set, and `mail_admins` has no addresses")
    return wanted is not False and bool(app.conf.mail_admins)
