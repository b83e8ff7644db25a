"""Logging in tasks: which task wrote a line, in which trace, and lines as JSON.

A worker's own handler uses these (`cli/log.py`). An app that configures logging itself can use them too:

    "filters": {"task": {"()": "celeriac.logs.TaskFilter"}},
    "formatters": {"json": {"()": "celeriac.logs.JSONFormatter"}},
"""

from __future__ import annotations

import json
import logging
from datetime import UTC, datetime
from typing import Any

from celeriac.model.message import Message
from celeriac.tasks.request import current
from celeriac.tasks.tracing import trace_ids

__all__ = ["JSONFormatter", "TaskFilter", "add_task", "facts_of", "get_task_logger", "shortened", "task_logger"]

NO_TASK = "-"
LONGEST_TEXT = 20_000  # characters of a message or a traceback
NO_TRACE = "-"
STANDARD = {*vars(logging.makeLogRecord({})), "message", "asctime", "event_name", "task_name", "task_id", "trace_id",
            "span_id"}  # fmt: skip
"""The attributes of records. The others are the caller's, who passed them as `extra`."""

task_logger = logging.getLogger("celeriac.task")
"""The parent of the loggers that `get_task_logger` returns."""


def get_task_logger(name: str) -> logging.Logger:
    """Return the logger of a module with tasks: `logger = get_task_logger(__name__)`.

    It is the logger of that name, placed below `celeriac.task` unless it has another parent: the worker's level, and
    what you set on `celeriac.task`, applies to the loggers of all tasks. A worker keeps them enabled.
    """
    if name == "celeriac" or name.startswith("celeriac."):
        raise ValueError(f"{name!r} is one of Celeriac's own loggers. Call get_task_logger(__name__) in your module.")
    logger = logging.getLogger(name)
    if logger.parent is logging.root:
        logger.parent = task_logger
    return logger


def add_task(record: logging.LogRecord) -> bool:
    """Set `task_name`, `task_id`, `trace_id` and `span_id` of a record; return whether it is about a task.

    The task is the one that is running where the record was made, or the one that the worker writes about. Without a
    task, or a trace, they are "-".
    """
    if not hasattr(record, "task_id"):
        request = current.get()
        record.task_name = NO_TASK if request is None else request.message.task
        record.task_id = NO_TASK if request is None else request.id
    if not hasattr(record, "trace_id"):
        record.trace_id, record.span_id = trace_ids() or (NO_TRACE, NO_TRACE)
    return bool(vars(record)["task_id"] != NO_TASK)


def facts_of(message: Message) -> dict[str, Any]:
    """Return the facts about a message that a line in JSON has besides its task and its id."""
    facts: dict[str, Any] = {"attempt": message.attempt, "queue": message.queue,
                             "root_id": message.root_id or message.id}  # fmt: skip
    if message.parent_id is not None:
        facts["parent_id"] = message.parent_id
    if message.place is not None:
        facts["workflow"] = message.place.workflow
    return facts


def shortened(text: str) -> str:
    """Return a text with the end of it left out if it is very long."""
    left_out = len(text) - LONGEST_TEXT
    return text if left_out <= 0 else f"{text[:LONGEST_TEXT]} … ({left_out:,} characters left out)"


class TaskFilter(logging.Filter):
    """Lets every record pass, with `%(task_name)s`, `%(task_id)s`, `%(trace_id)s` and `%(span_id)s` for your format.

    They are the running task, or the one that the worker writes about, and the current span; "-" if there is none.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        """Add the task and the trace; return True."""
        add_task(record)
        return True


class JSONFormatter(logging.Formatter):
    """Formats each record as one line: a JSON object.

    Its keys are `time` (ISO 8601, in UTC), `level`, `logger`, `message`, `pid`; and where they are known, `app` and
    `worker`; `task`, `task_id`, `attempt`, `queue`, `root_id`, `parent_id` and `workflow`; `trace_id` and `span_id`;
    `exception`, a traceback. Then come the keys that were passed as `extra`. Lines of the worker have `event`; those of
    ended attempts have `state`, `runtime_s`, `wait_s`, `error_type`, `error` and `signature`.
    """

    def __init__(self, worker: str = "", app: str = "") -> None:
        super().__init__()
        self._worker = worker
        self._app = app

    def format(self, record: logging.LogRecord) -> str:
        """Return the record as JSON."""
        time = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        document: dict[str, Any] = {"time": time, "level": record.levelname, "logger": record.name}
        document["message"] = shortened(record.getMessage())
        request = current.get()
        worker = self._worker or (request.worker if request is not None else "")
        fields = vars(record)
        document |= {"event": fields["event_name"]} if "event_name" in fields else {}  # structlog's `event` is the text
        document |= {"app": self._app} if self._app else {}
        document |= {"worker": worker} if worker else {}
        document["pid"] = record.process
        if add_task(record):
            document |= {"task": fields["task_name"], "task_id": fields["task_id"]}
            if request is not None and request.id == fields["task_id"]:
                document |= facts_of(request.message)
        if fields["trace_id"] != NO_TRACE:
            document |= {"trace_id": fields["trace_id"], "span_id": fields["span_id"]}
        if record.exc_info and not record.exc_text:
            record.exc_text = self.formatException(record.exc_info)
        exception = [text for text in (record.exc_text, record.stack_info) if text]
        if exception:
            document["exception"] = shortened("\n".join(exception))
        extra = {name: value for name, value in vars(record).items() if name not in STANDARD and name not in document}
        try:
            return json.dumps(document | extra, default=repr, skipkeys=True, allow_nan=False)
        except ValueError:  # a number that JSON does not have, or an object that contains itself
            return json.dumps(document | {name: repr(value) for name, value in extra.items()})
