"""From a call to a message: the options of the call, the task, the routes and the configuration, merged once, here."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

from celeriac.errors import MessageTooLarge, UnknownOption, WorkflowError
from celeriac.model.clock import instant
from celeriac.model.message import PLAIN, Link, Message, new_id, new_ids
from celeriac.model.options import check_call
from celeriac.model.serialization import JSON, Serializer, dumps_call, dumps_calls, serializer
from celeriac.tasks.context import Request, current
from celeriac.tasks.error_callback import told_count
from celeriac.tasks.protocols import App

if TYPE_CHECKING:
    from celeriac.tasks.signature import Signature

__all__ = ["MessageTemplate", "check_callback", "check_same_app", "check_takes_result"]

Dumps = Callable[[tuple[Any, ...], dict[str, Any]], bytes]
"""What writes a body from arguments and named arguments."""

PLAIN_OPTIONS = ("priority", "headers", "acks_late", "ignore_result", "soft_time_limit", "time_limit", "max_retries")
"""Call options that stand in the message as they are."""


class MessageTemplate:
    """What all messages of a task have in common. Thrown away when the configuration changes."""

    def __init__(self, app: App, task: str, options: Mapping[str, Any], lane: str = PLAIN) -> None:
        conf = app.conf
        route = app.routes.route(task)
        self._app = app
        self._task = task
        chosen = serializer(options.get("serializer", conf.task_serializer))
        self._dumps = _dumps(chosen)
        self._replies = app.sends_outcomes
        self._limit = conf.message_max_bytes
        self._expires: float | None = options.get("expires")
        self._fields: dict[str, Any] = {
            "queue": route.get("queue") or options.get("queue") or conf.task_default_queue,
            "priority": route.get("priority", options.get("priority", conf.task_default_priority)),
            "acks_late": options.get("acks_late", conf.task_acks_late),
            "ignore_result": options.get("ignore_result", conf.task_ignore_result),
            "track_started": options.get("track_started", conf.task_track_started),
            "soft_time_limit": options.get("soft_time_limit", conf.task_soft_time_limit),
            "time_limit": options.get("time_limit", conf.task_time_limit),
            "headers": options.get("headers", {}),
            "lane": lane,
            "content_type": chosen.content_type,
        }
        # What is the default anyway is left out: a message is made some 100,000 times a second.
        self._fields = {name: value for name, value in self._fields.items() if value != DEFAULTS[name]}

    def message(self, args: tuple[Any, ...], kwargs: dict[str, Any], options: Mapping[str, Any] | None = None, *,
                group_id: str | None = None) -> Message:  # fmt: skip
        """Return the message of one call; raise what is wrong with it."""
        request = current.get()
        now = self._app.clock.now()
        if not options and request is None and group_id is None and self._expires is None:
            body = self._dumps(args, kwargs)
            if len(body) > self._limit:
                raise self._too_large(body)
            fields = self._addressed() if self._replies else self._fields
            return Message(id=new_id(), task=self._task, body=body, sent_at=now, **fields)
        dumps, fields = self._particular(options or {}, now, request)
        if group_id is not None:
            fields["group_id"] = group_id
        body = dumps(args, kwargs)
        if len(body) > self._limit:
            raise self._too_large(body)
        id = fields.pop("id", None) or new_id()
        return Message(id=id, task=self._task, body=body, sent_at=now, **fields)

    def messages(self, calls: Sequence[tuple[tuple[Any, ...], dict[str, Any]]],
                 options: Mapping[str, Any]) -> list[Message]:  # fmt: skip
        """Return the messages of many calls (arguments, named arguments), which have their options in common."""
        if options.get("task_id") is not None:
            raise UnknownOption("task_id is for one call; many calls have an id each.")
        now, task, limit = self._app.clock.now(), self._task, self._limit
        dumps, fields = self._particular(options, now, current.get())
        bodies = dumps_calls(calls) if dumps is dumps_call else [dumps(args, kwargs) for args, kwargs in calls]
        longest = max(bodies, key=len)
        if len(longest) > limit:
            raise self._too_large(longest)
        ids = new_ids(len(bodies))
        if not fields:  # `**` would take longer than all the rest
            return [Message(id=id, task=task, body=body, sent_at=now) for id, body in zip(ids, bodies, strict=True)]
        return [
            Message(id=id, task=task, body=body, sent_at=now, **fields) for id, body in zip(ids, bodies, strict=True)
        ]

    def _addressed(self) -> dict[str, Any]:
        """Return the common fields, with where this process wants outcomes to be sent (`rpc://`)."""
        return {**self._fields, "reply_to": self._app.backend.reply_to} if self._replies else self._fields

    def _too_large(self, body: bytes) -> MessageTooLarge:
        return MessageTooLarge(
            f"The arguments of {self._task} are {len(body):,} bytes, more than `message_max_bytes` allows "
            f"({self._limit:,}). Store the data where the task can read it, and pass its path or key."
        )

    def _particular(self, options: Mapping[str, Any], now: float,
                    request: Request | None) -> tuple[Dumps, dict[str, Any]]:  # fmt: skip
        """Return what a call with options, or inside a task, differs in: how its body is written, and its fields."""
        dumps, fields = self._dumps, {**self._addressed(), **self._more(options, now)}
        if options.get("serializer") is not None:
            chosen = serializer(options["serializer"])
            dumps, fields["content_type"] = _dumps(chosen), chosen.content_type
        if request is not None:
            fields["parent_id"] = request.id
            fields["root_id"] = request.root_id
        return dumps, fields

    def _more(self, options: Mapping[str, Any], now: float) -> dict[str, Any]:
        """Return the fields that the options of a call set."""
        if not options and self._expires is None:
            return {}
        options = check_call(options)
        fields = {name: options[name] for name in PLAIN_OPTIONS if name in options}
        if "headers" in fields and "headers" in self._fields:
            fields["headers"] = {**self._fields["headers"], **fields["headers"]}
        if "task_id" in options:
            fields["id"] = options["task_id"]
        if "queue" in options:
            self._app.check_queue(options["queue"])
            fields["queue"] = options["queue"]
        if options.get("countdown"):
            fields["due_at"] = now + options["countdown"]
        elif "eta" in options:
            fields["due_at"] = instant(options["eta"])
        expires = options.get("expires", self._expires)
        if expires is not None:
            fields["expires_at"] = instant(expires) if isinstance(expires, datetime) else now + expires
        for name in ("link", "link_error"):
            if options.get(name):
                fields[name] = [self._link(name, entry) for entry in _listed(options[name])]
        return fields

    def _link(self, name: str, entry: Any) -> Link:
        signature = self._app.signature(entry) if isinstance(entry, Mapping) else entry
        try:
            link = Link(signature.message(), signature.immutable)
        except AttributeError:
            raise UnknownOption(f"{name} takes signatures (task.s(...)), not {entry!r}.") from None
        check_callback(self._app, name, signature)
        if name == "link" and not link.immutable:
            check_takes_result(link.message)
        return link


def check_same_app(app: App, signature: Signature[Any]) -> None:
    """Raise `WorkflowError` for a task of another app, which would be sent to where that one's workers do not look."""
    if signature.app is not app and signature.task not in app.tasks:
        raise WorkflowError(
            f"{signature!r} is a task of another app than the rest, which go to {app!r}. A task of another app is sent "
            f"with that one, after this; or, where both have the same broker, by its name: "
            f"app.signature({signature.task!r}, …)."
        )


def check_callback(app: App, name: str, signature: Signature[Any]) -> None:
    """Raise what is wrong with what is linked: another app's task, or arguments that will not fit."""
    check_same_app(app, signature)
    task = app.tasks.get(signature.task)
    if task is None or not task.checks_arguments:
        return
    args = signature.args
    if not signature.immutable:
        args = (*(None for _ in range(told_count(task, len(args)) if name == "link_error" else 1)), *args)
    task.arguments.check(args, signature.kwargs)


def check_takes_result(message: Message) -> None:
    """Raise `WorkflowError` for a message that cannot be given a result."""
    if message.content_type != JSON.content_type:
        raise WorkflowError(f"{message.task} is to be given a result, which travels as JSON, but its arguments are "
                            f"{message.content_type}. Set its serializer to 'json', or make it immutable with .si()."
                            )  # fmt: skip


DEFAULTS = {name: getattr(Message(id="", task=""), name) for name in Message.__struct_fields__}


def _dumps(chosen: Serializer) -> Dumps:
    return dumps_call if chosen is JSON else lambda args, kwargs: chosen.dumps((args, kwargs))


def _listed(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list | tuple) else [value]
