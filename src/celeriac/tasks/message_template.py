"""From a call to a message: the template merges the options of the call, the route, the task and the configuration.

Tasks, signatures and the planner of workflows ask for messages, with arguments that they have checked; `app.publish`
sends them. What does not depend on the call is merged once per task.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from itertools import islice
from typing import Any, cast

from msgspec.structs import replace

from celeriac.config.settings import received_max_bytes
from celeriac.errors import MessageTooLarge, UnknownOption, WorkflowError
from celeriac.model.arguments import Arguments, kwargs_of
from celeriac.model.clock import instant
from celeriac.model.gate import Unreadable
from celeriac.model.message import PLAIN, Link, Message, check_depth, encode, new_id, new_ids
from celeriac.model.notices import own_channel
from celeriac.model.options import check_call, check_limits, check_retry
from celeriac.model.serialization import JSON, Serializer, dumps_call, dumps_calls, serializer
from celeriac.tasks.execution import error_callback_count
from celeriac.tasks.protocols import App
from celeriac.tasks.request import Request, current
from celeriac.tasks.signature import Signature, listed

__all__ = [
    "COPIED_OPTIONS",
    "PUBLISH_BATCH",
    "MessageTemplate",
    "as_link",
    "check_callback",
    "check_same_app",
    "check_takes_result",
    "checked_call",
]

PUBLISH_BATCH = 1000  # messages sent in one step

NO_KWARGS: dict[str, Any] = {}  # shared, never changed

Dumps = Callable[[tuple[Any, ...], dict[str, Any]], bytes]
"""Encodes a body from arguments and named arguments."""

COPIED_OPTIONS = ("priority", "headers", "acks_late", "ignore_result", "soft_time_limit", "time_limit", "max_retries")
"""Call options that become message headers unchanged."""

UNBOUNDED = frozenset({"headers", "link", "link_error"})
"""Options whose values `message_max_bytes` does not limit."""

LIMITS = frozenset({"soft_time_limit", "time_limit"})

DEFAULTS = {name: getattr(Message(id="", task=""), name) for name in Message.__struct_fields__}


class MessageTemplate:
    """Builds the messages of one task. Dropped when the configuration changes."""

    def __init__(self, app: App, task: str, options: Mapping[str, Any], lane: str = PLAIN,
                 arguments: Arguments | None = None) -> None:  # fmt: skip
        conf = app.conf
        route = app.routes.route(task)
        self._app = app
        self._task = task
        chosen = serializer(options.get("serializer", conf.task_serializer))
        self._keyed = arguments if arguments is not None and arguments.keyed else None
        self._dumps = self._dumps_by(chosen)
        self._content_type = chosen.content_type
        self._address = _address(app)
        self._sends_outcomes = app.sends_outcomes
        self._limit = conf.message_max_bytes
        self._largest = received_max_bytes(conf)
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
        check_limits(self._fields["soft_time_limit"], self._fields["time_limit"], f"{task}: ")
        # Fields that equal their default are left out, since fewer keywords make a message faster to build.
        self._fields = {name: value for name, value in self._fields.items() if value != DEFAULTS[name]}

    def message(self, args: tuple[Any, ...], kwargs: dict[str, Any], options: Mapping[str, Any] | None = None, *,
                group_id: str | None = None) -> Message:  # fmt: skip
        """Return the message of one call. Raises for an invalid option, and for arguments that cannot be sent."""
        request = current.get()
        now = self._app.clock.now()
        if not options and request is None and group_id is None and self._expires is None:
            body = self._dumps(args, kwargs)
            if len(body) > self._limit:
                raise self._too_large(body)
            fields = self._fields if self._address is None else self._with_address(self._fields)
            return Message(id=new_id(), task=self._task, body=body, sent_at=now, **fields)
        dumps, fields = self._specialised(options or {}, now, request)
        if group_id is not None:
            fields["group_id"] = group_id
        body = dumps(args, kwargs)
        if len(body) > self._limit:
            raise self._too_large(body)
        id = fields.pop("id", None) or new_id()
        message = Message(id=id, task=self._task, body=body, sent_at=now, **fields)
        if options and not UNBOUNDED.isdisjoint(options):
            self._check_whole(message)
        return message

    def messages(self, calls: Sequence[tuple[tuple[Any, ...], dict[str, Any]]],
                 options: Mapping[str, Any]) -> list[Message]:  # fmt: skip
        """Return the messages of many calls, each `(args, kwargs)`, all with the same options."""
        if options.get("task_id") is not None:
            raise UnknownOption("task_id applies to a single call; each of many calls gets its own id.")
        now, task, limit = self._app.clock.now(), self._task, self._limit
        dumps, fields = self._specialised(options, now, current.get())
        bodies = dumps_calls(calls) if dumps is dumps_call else [dumps(args, kwargs) for args, kwargs in calls]
        longest = max(bodies, key=len)
        if len(longest) > limit:
            raise self._too_large(longest)
        if not UNBOUNDED.isdisjoint(options):
            self._check_whole(Message(id="", task=task, body=longest, **fields))
        ids = new_ids(len(bodies))
        if not fields:  # unpacking `**fields` costs more than all the rest
            return [Message(id=id, task=task, body=body, sent_at=now) for id, body in zip(ids, bodies, strict=True)]
        return [
            Message(id=id, task=task, body=body, sent_at=now, **fields) for id, body in zip(ids, bodies, strict=True)
        ]

    def batches(self, calls: Iterable[tuple[Any, ...] | Mapping[str, Any]], options: Mapping[str, Any],
                arguments: Arguments | None) -> Iterator[list[Message]]:  # fmt: skip
        """Yield the messages of many calls, `PUBLISH_BATCH` at a time. The calls are checked against `arguments`.

        A list or tuple of calls is checked before the first batch, an iterator batch by batch.
        """
        whole = isinstance(calls, list | tuple)
        if whole and not _fit(cast(Sequence[Any], calls), arguments):
            checked = [checked_call(call, arguments) for call in calls]
            for start in range(0, len(checked), PUBLISH_BATCH):
                yield self.messages(checked[start : start + PUBLISH_BATCH], options)
            return
        calls = iter(calls)
        while batch := list(islice(calls, PUBLISH_BATCH)):
            if whole or _fit(batch, arguments):
                yield self.messages([(args, NO_KWARGS) for args in cast(list[tuple[Any, ...]], batch)], options)
            else:
                yield self.messages([checked_call(call, arguments) for call in batch], options)

    def next_attempt(self, message: Message, options: Mapping[str, Any],
                     call: tuple[Sequence[Any], Mapping[str, Any]] | None) -> Message:  # fmt: skip
        """Return a message with other options, and with other arguments if `call` has them. See `Task.retry`."""
        options = check_retry(options)
        if "headers" in options:
            options["headers"] = {**message.headers, **options["headers"]}
        fields = self._fields_of(options, self._app.clock.now())
        if call is not None:
            chosen = serializer(options["serializer"]) if "serializer" in options else None
            dumps = self._dumps_by(chosen) if chosen is not None else self._dumps
            fields["content_type"] = chosen.content_type if chosen is not None else self._content_type
            fields["body"] = dumps(tuple(call[0]), dict(call[1]))
            if len(fields["body"]) > self._limit:
                raise self._too_large(fields["body"])
        changed = replace(message, **fields)
        if not UNBOUNDED.isdisjoint(options):
            self._check_whole(changed)
        check_limits(changed.soft_time_limit, changed.time_limit, f"{self._task}: ")
        return changed

    def _dumps_by(self, chosen: Serializer) -> Dumps:
        """Return what encodes the body of a call with a serialiser."""
        dumps: Dumps = dumps_call if chosen is JSON else lambda args, kwargs: chosen.dumps((args, kwargs))
        if (keyed := self._keyed) is None:
            return dumps
        return lambda args, kwargs: dumps(*keyed.with_keys(args, kwargs))

    def _check_whole(self, message: Message) -> None:
        """Raise `MessageTooLarge` for a message that workers would refuse because of its headers and links.

        These have half of the space: results may be inserted later.
        """
        try:
            check_depth(message)
        except Unreadable as error:
            raise MessageTooLarge(f"{self._task} cannot be sent: {error}. Call tasks in turn.") from None
        size, largest = len(encode(message)), self._largest // 2
        if size > largest:
            raise MessageTooLarge(
                f"The message of {self._task} has {size:,} bytes with its headers and links, and workers receive none "
                f"of more than {largest:,} (half of `worker_message_max_bytes`). Send less, or call tasks in turn."
            )

    def _with_address(self, fields: dict[str, Any]) -> dict[str, Any]:
        """Return headers with the address of the caller, if workers are to send it anything."""
        if self._address is None or (fields.get("ignore_result") and not self._sends_outcomes):
            return fields
        return {**fields, "reply_to": self._address()}

    def _too_large(self, body: bytes) -> MessageTooLarge:
        return MessageTooLarge(
            f"The arguments of {self._task} are {len(body):,} bytes, more than `message_max_bytes` allows "
            f"({self._limit:,}). Store the data where the task can read it, and pass its path or key."
        )

    def _specialised(self, options: Mapping[str, Any], now: float,
                     request: Request | None) -> tuple[Dumps, dict[str, Any]]:  # fmt: skip
        """Return the encoder and the headers of a call that has options, or is made inside a task."""
        dumps, fields = self._dumps, self._with_address({**self._fields, **self._option_fields(options, now)})
        if options.get("serializer") is not None:
            chosen = serializer(options["serializer"])
            dumps, fields["content_type"] = self._dumps_by(chosen), chosen.content_type
        if not LIMITS.isdisjoint(options):
            check_limits(fields.get("soft_time_limit"), fields.get("time_limit"), f"{self._task}: ")
        if request is not None:
            fields["parent_id"] = request.id
            fields["root_id"] = request.root_id
        return dumps, fields

    def _option_fields(self, options: Mapping[str, Any], now: float) -> dict[str, Any]:
        """Return the headers that the options of a call set."""
        if not options and self._expires is None:
            return {}
        options = check_call(options)
        if "headers" in options and "headers" in self._fields:
            options["headers"] = {**self._fields["headers"], **options["headers"]}
        options.setdefault("expires", self._expires)
        return self._fields_of(options, now)

    def _fields_of(self, options: Mapping[str, Any], now: float) -> dict[str, Any]:
        """Return the headers that checked options set."""
        fields = {name: options[name] for name in COPIED_OPTIONS if name in options}
        if "task_id" in options:
            fields["id"] = options["task_id"]
        if "queue" in options:
            self._app.check_queue(options["queue"])
            fields["queue"] = options["queue"]
        if options.get("countdown"):
            fields["due_at"], fields["countdown"] = now + options["countdown"], options["countdown"]
        elif "eta" in options:
            fields["due_at"] = instant(options["eta"])
        expires = options.get("expires")
        if expires is not None:
            fields["expires_at"] = instant(expires) if isinstance(expires, datetime) else now + expires
        for name in ("link", "link_error"):
            if options.get(name):
                fields[name] = [self._link(name, entry) for entry in listed(options[name])]
        return fields

    def _link(self, name: str, entry: Any) -> Link:
        signature = self._app.signature(entry) if isinstance(entry, Mapping) else entry
        try:
            link = as_link(signature, signature.message())
        except AttributeError:
            raise UnknownOption(f"{name} must be signatures (task.s(...)), not {entry!r}.") from None
        check_callback(self._app, name, signature)
        if name == "link" and not link.immutable:
            check_takes_result(link.message)
        return link


def as_link(signature: Signature[Any], message: Message) -> Link:
    """Return the link of a signature, whose message this is. Its durations count from when it is sent."""
    expires: float | None = None
    if message.expires_at is not None and not isinstance(signature.options.get("expires"), datetime):
        expires = message.expires_at - message.sent_at
    return Link(message, signature.immutable, expires)


def _address(app: App) -> Callable[[], str] | None:
    """Return what gives the address of this process: the reply queue (`rpc://`), or the channel for notices."""
    if app.sends_outcomes:
        return lambda: app.backend.reply_to
    return own_channel if app.sends_notices else None


def check_same_app(app: App, signature: Signature[Any]) -> None:
    """Raise `WorkflowError` for a task of another app, whose workers may not receive from this app's broker."""
    if signature.app is not app and signature.task not in app.tasks:
        raise WorkflowError(
            f"{signature!r} is a task of another app than the rest, which {app!r} sends. Send it separately; or, if "
            f"both apps use the same broker, name the task: app.signature({signature.task!r}, …)."
        )


def check_callback(app: App, name: str, signature: Signature[Any]) -> None:
    """Raise if a linked signature is a task of another app, or if its arguments will not fit."""
    check_same_app(app, signature)
    task = app.tasks.get(signature.task)
    if task is None or not task.checks_arguments:
        return
    args = signature.args
    if not signature.immutable:
        args = (*(None for _ in range(error_callback_count(task, len(args)) if name == "link_error" else 1)), *args)
    task.arguments.check(args, signature.kwargs)


def check_takes_result(message: Message) -> None:
    """Raise `WorkflowError` for a message whose body is not JSON, so that no result can be inserted."""
    if message.content_type != JSON.content_type:
        raise WorkflowError(f"{message.task} would receive a result, which is sent as JSON, but its arguments are "
                            f"{message.content_type}. Set its serializer to 'json', or make it immutable with .si()."
                            )  # fmt: skip


def _fit(calls: Sequence[Any], arguments: Arguments | None) -> bool:
    """Return whether all these calls have positional arguments only, and fit the function."""
    return set(map(type, calls)) == {tuple} and (arguments is None or arguments.fit(calls))


def checked_call(call: Any, arguments: Arguments | None) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return the checked arguments and named arguments of one of many calls."""
    if isinstance(call, tuple):
        args, kwargs = call, NO_KWARGS
    elif isinstance(call, Mapping):
        args, kwargs = (), kwargs_of(call)
    else:
        raise TypeError(f"delay_many needs tuples of arguments (or dicts of named ones), not {call!r}. "
                        f"For one argument write ({call!r},), or use app.map.")  # fmt: skip
    if arguments is not None:
        arguments.check(args, kwargs)
    return args, kwargs
