"""Sending tasks: one, or many that are all sent or none."""

from __future__ import annotations

from collections.abc import Sequence
from http import HTTPStatus
from typing import Any
from urllib.parse import quote

import msgspec
from starlette.responses import Response

from celeriac.documents import instant, view_document
from celeriac.errors import AddressRefused, CeleriacError, EncodeError, ImproperlyConfigured
from celeriac.http.callbacks import with_callback
from celeriac.inspector import TaskView
from celeriac.model.message import Message
from celeriac.model.status_urls import signed_path
from celeriac.states import PENDING
from celeriac.web.answers.sending import BatchSent, Sent
from celeriac.web.answers.tasks import View
from celeriac.web.bodies import NDJSON, content_type, converted
from celeriac.web.endpoints import Call, Endpoints, json_answer, link
from celeriac.web.idempotency import sent_once
from celeriac.web.problems import Problem, problem_of
from celeriac.web.shapes import Batch, BatchCall, BatchQuery, Callback, Options, Task, WaitQuery
from celeriac.web.site import API, Site

__all__ = ["ENDPOINTS", "call_options", "check_allowed", "message_of"]

ENDPOINTS = Endpoints()
STATUS_SECONDS = 3600.0
SENDING = ("bad-request", "unknown-task", "unknown-queue", "bad-arguments", "too-large", "broker-unavailable")


@ENDPOINTS.add("POST", "/tasks", "tasks:send", {202: Sent, 200: View}, query=WaitQuery, body=Task,
               problems=(*SENDING, "key-reused", "outstanding", "not-configured"))  # fmt: skip
async def _send(site: Site, call: Call) -> Response:
    """Send a task. With `wait`, the whole view if it ends in time."""
    body: Task = call.body
    message = message_of(site, call, body.task, body.args, body.kwargs, body.options)
    if body.callback is not None:
        message = _with_callback(site, message, body.callback)
    (message,), ran = await sent_once(site, call, [message], body.options.id is not None)
    outcome = ran.get(message.id)
    if outcome is None and call.query.wait and not message.ignore_result:
        outcome = (await site.ended(call.request, [message.id], call.query.wait)).get(message.id)
    if outcome is not None:
        view = TaskView(message.id, message=message, outcome=outcome)
        return json_answer(view_document(view, site.app, call.may("results:traceback")) | {"place": None})
    own = link(call.request, f"{API}/tasks/{quote(message.id, safe='')}")
    links = {"self": own, "revoke": f"{own}/revoke", "result": f"{own}/result",
             "events": link(call.request, f"{API}/events?ids={quote(message.id, safe='')}")}  # fmt: skip
    secret: str | None = site.app.conf.web_secret
    if secret is not None and call.may("results:read"):
        until = int(message.sent_at + STATUS_SECONDS)  # a repeated request gets the same link
        links["status"] = link(call.request, signed_path(secret, message.id, until, True))
    return json_answer({"id": message.id, "task": message.task, "state": PENDING, "queue": message.queue,
                        "due_at": instant(message.due_at), "links": links},
                       HTTPStatus.ACCEPTED, {"Location": own})  # fmt: skip


@ENDPOINTS.add("POST", "/tasks/batch", "tasks:send", {202: BatchSent}, query=BatchQuery, body=Batch, lines=True,
               batch=True, problems=(*SENDING, "key-reused", "outstanding"))  # fmt: skip
async def _send_batch(site: Site, call: Call) -> Response:
    """Send many calls of a task: all of them, or none. Lines of JSON are calls of the task in the query."""
    if content_type(call.request) == NDJSON:
        if call.query.task is None:
            raise Problem("bad-query", "task: name the task that the lines call: ?task=….", parameter="task")
        lines = [converted(line, BatchCall, f"/{index}") for index, line in enumerate(call.body)]
        body = Batch(task=call.query.task, calls=lines)
    else:
        body = call.body
    if body.options.id is not None:
        raise Problem("bad-body", "/options/id: each of many calls gets an id of its own.",
                      errors=[{"pointer": "/options/id", "detail": "each of many calls gets an id of its own"}])
    if len(body.calls) > site.limits.calls:
        raise Problem("too-large", f"A batch has at most {site.limits.calls:,} calls.", limit=site.limits.calls)
    messages, errors = [], []
    for index, one in enumerate(body.calls):
        try:
            messages.append(message_of(site, call, body.task, one.args, one.kwargs, body.options))
        except Problem as problem:
            if problem.kind.name not in ("bad-arguments", "too-large"):
                raise
            faults = problem.more.get("errors", [{"pointer": "", "detail": problem.detail}])
            errors += [{"index": index, **fault} for fault in faults]
    if errors:
        wrong = len({error["index"] for error in errors})
        raise Problem("bad-arguments", f"{wrong:,} of {len(body.calls):,} calls are wrong. None was sent.",
                      errors=errors)
    sent, _ = await sent_once(site, call, messages, False)
    return json_answer({"ids": [message.id for message in sent]}, HTTPStatus.ACCEPTED)


def _with_callback(site: Site, message: Message, callback: Callback) -> Message:
    try:
        return with_callback(site.app, message, callback.url, callback.include_result)
    except AddressRefused as error:
        raise Problem("bad-body", f"/callback/url: {error}",
                      errors=[{"pointer": "/callback/url", "detail": str(error)}]) from None  # fmt: skip
    except ImproperlyConfigured as error:
        raise Problem("not-configured", str(error)) from None


def message_of(site: Site, call: Call, name: str, args: Sequence[Any], kwargs: dict[str, Any],
               options: Options, pointer: str = "") -> Message:  # fmt: skip
    """Return the message of a call, checked. Raises a `Problem`; `pointer` leads to the call."""
    task = site.task(name)
    check_allowed(call, name)
    try:
        faults = task.arguments.problems(args, kwargs) if task.checks_arguments else []
        if faults:
            why = f"These arguments do not fit {name}{task.arguments.signature}: {faults[0][2]}."
            raise Problem("bad-arguments", why,
                          errors=[{"pointer": f"{pointer}/{where}/{step}", "detail": fault}
                                  for where, step, fault in faults])  # fmt: skip
        message: Message = site.app.message_template(name).message(tuple(args), kwargs, call_options(options))
    except EncodeError as error:
        named = task.arguments.with_name(error, tuple(args), kwargs)
        raise Problem("bad-arguments", str(named), errors=[{"pointer": pointer, "detail": str(named)}]) from None
    except CeleriacError as error:
        if isinstance(error, TypeError):  # an option
            raise _bad_options(error, pointer) from None
        raise problem_of(error) from None
    except (TypeError, ValueError) as error:
        raise _bad_options(error, pointer) from None
    return message


def check_allowed(call: Call, task: str) -> None:
    """Raise a `Problem` if the user may not send this task."""
    if not call.user.may_send(task):
        raise Problem("scope", f"{call.user.name} may not send {task}.", needed=f"tasks:send:{task}")


def call_options(options: Options) -> dict[str, Any]:
    """Return options as `apply_async` takes them."""
    given = msgspec.structs.asdict(options)
    found = {name: value for name, value in given.items() if value is not msgspec.UNSET and value is not None}
    found |= {name: None for name in ("time_limit", "soft_time_limit") if given[name] is None}
    if "id" in found:
        found["task_id"] = found.pop("id")
    return found


def _bad_options(error: Exception, pointer: str) -> Problem:
    return Problem("bad-body", f"{pointer}/options: {error}", errors=[{"pointer": f"{pointer}/options",
                                                                      "detail": str(error)}])  # fmt: skip
