"""What a result says of its task besides the value, under Celery's names: `worker`, `retries`, `args` and others."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any

from celeriac.model.clock import aware
from celeriac.model.serialization import decode

if TYPE_CHECKING:
    from celeriac.model.outcome import Outcome
    from celeriac.tasks.protocols import App

__all__ = ["Facts"]


class Facts:
    """Base of `AsyncResult`. Each property asks the result backend; `outcome` has all of it at once."""

    __slots__ = ()

    if TYPE_CHECKING:
        app: App
        task_name: str

        @property
        def outcome(self) -> Outcome | None:
            """The outcome that the backend has now, or None."""

    @property
    def name(self) -> str | None:
        """The task's name, or None if nothing is known of the id."""
        if self.task_name:
            return self.task_name
        outcome = self.outcome
        return outcome.task if outcome is not None else None

    @property
    def worker(self) -> str | None:
        """The name of the worker that ran the last attempt, or None."""
        outcome = self.outcome
        return outcome.worker or None if outcome is not None else None

    @property
    def retries(self) -> int | None:
        """How many retries there were before the last attempt, or None."""
        outcome = self.outcome
        return max(0, outcome.attempt - 1) if outcome is not None else None

    @property
    def date_done(self) -> datetime | None:
        """When the task ended, in UTC; None before."""
        outcome = self.outcome
        return aware(outcome.done_at) if outcome is not None and outcome.ready else None

    @property
    def args(self) -> list[Any] | None:
        """The arguments of the call; None without `result_extended`, before the end, or if they are over 64 KiB."""
        return self._arguments()[0]

    @property
    def kwargs(self) -> dict[str, Any] | None:
        """The named arguments of the call; None as for `args`."""
        return self._arguments()[1]

    @property
    def queue(self) -> str | None:
        """The queue that the message came from; None without `result_extended`, or before the end."""
        outcome = self.outcome
        return outcome.call.queue if outcome is not None and outcome.call is not None else None

    def _arguments(self) -> tuple[list[Any] | None, dict[str, Any] | None]:
        outcome = self.outcome
        call = outcome.call if outcome is not None else None
        if call is None or call.body is None:
            return None, None
        args, kwargs = decode(call.content_type, call.body, self.app.conf.accept_content)
        return list(args), kwargs
