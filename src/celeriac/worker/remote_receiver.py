"""Filters what is received for a remote worker. It differs from `Receiver` in which tasks are known: those that the
worker has named. A task of that name in this app gives the rate limit; there need not be one.
"""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase

import msgspec

from celeriac import states
from celeriac.app.app import Celeriac
from celeriac.errors import CeleriacError, DecodeError
from celeriac.model.message import Message
from celeriac.model.outcome import Outcome
from celeriac.model.serialization import JSON, decode, dumps
from celeriac.ports.broker import Delivery
from celeriac.tasks.execution import without_arguments
from celeriac.worker.decide import Ending
from celeriac.worker.heartbeat import Heartbeat
from celeriac.worker.options import WorkerOptions
from celeriac.worker.receiver import Receiver

__all__ = ["RemoteReceiver", "call_of"]

_decode = msgspec.json.Decoder(tuple[list[msgspec.Raw], dict[str, msgspec.Raw]]).decode


class RemoteReceiver(Receiver):
    """Filters for one remote worker. It receives nothing itself: `RemoteWorker` does, when its client asks."""

    def __init__(self, app: Celeriac, options: WorkerOptions, heartbeat: Heartbeat, tasks: Sequence[str]) -> None:
        super().__init__(app, options, heartbeat, _unused, _never)
        self._tasks = tasks

    def _unlimited_lane(self, name: str) -> str | None:
        return None  # each message is looked at; the lanes are all the same

    def _refuse(self, delivery: Delivery, now: float) -> Ending | None:
        over = self._over(delivery, now)
        if over is not None:
            return over
        name = delivery.message.task
        # Celeriac's own tasks are for workers of its own, whatever a pattern says.
        if name in self._app.builtin_tasks or not any(fnmatchcase(name, pattern) for pattern in self._tasks):
            return self._unregistered(delivery, self._tasks)
        try:
            call_of(self._app, delivery.message)
        except CeleriacError as error:  # as the child fails it that cannot decode its arguments
            outcome = Outcome.failed(delivery.message, error, states.FAILURE, now, self._options.name)
            return Ending(delivery=delivery, outcome=outcome)
        task = self._app.tasks.get(name)
        return self._too_early(delivery, self.rates.get(name, task.rate if task is not None else None), now)

    def _tell_received(self, delivery: Delivery) -> None:
        if delivery.message.task in self._app.tasks:
            super()._tell_received(delivery)


def call_of(app: Celeriac, message: Message) -> tuple[list[msgspec.Raw], dict[str, msgspec.Raw]]:
    """Return the arguments of a message, each as JSON, with the tags of `serialization.py`.

    Raises `DecodeError` (or `EncodeError` for what another content type has and JSON has not) and `MessageTooLarge`.
    """
    if message.omitted:
        raise without_arguments(message)
    body = message.body
    if message.content_type != JSON.content_type:
        body = dumps(decode(message.content_type, body, frozenset(app.conf.accept_content)))
    try:
        args, kwargs = _decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise DecodeError(f"The arguments of {message.task} are not JSON: {error}.") from None
    if message.failed is not None:  # an error callback
        args = [msgspec.Raw(msgspec.json.encode(message.failed.id)), *args]
    return args, kwargs


def _unused(endings: Sequence[Ending]) -> None:
    raise NotImplementedError("what `admit` returns is settled by its caller")


def _never() -> bool:
    return False
