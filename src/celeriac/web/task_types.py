"""Types of tasks: what can be sent, and the parameters of each as a JSON Schema."""

from __future__ import annotations

import inspect
from typing import Any, get_type_hints

import msgspec
from starlette.responses import Response

from celeriac.model.masks import masked
from celeriac.web.answers.sending import TaskType
from celeriac.web.endpoints import Call, Endpoints, json_answer
from celeriac.web.site import Site

__all__ = ["ENDPOINTS", "parameters_schema"]

ENDPOINTS = Endpoints()
SHOWN = ("queue", "priority", "expires", "acks_late", "ignore_result", "track_started", "soft_time_limit", "time_limit",
         "rate_limit", "max_retries", "default_retry_delay")  # fmt: skip
DIALECT = "https://json-schema.org/draft/2020-12/schema"


@ENDPOINTS.add("GET", "/task-types", "tasks:read", {200: list[TaskType]})
async def _list(site: Site, call: Call) -> Response:
    """List the tasks that can be sent."""
    return json_answer([_document(task) for _, task in sorted(site.app.tasks.items())])


@ENDPOINTS.add("GET", "/task-types/{name:path}", "tasks:read", {200: TaskType}, problems=("unknown-task",))
async def _show(site: Site, call: Call) -> Response:
    """Show a task that can be sent."""
    return json_answer(_document(site.task(call.path["name"])))


def _document(task: Any) -> dict[str, Any]:
    options = {name: task.options[name] for name in SHOWN if name in task.options}
    return {
        "name": task.name,
        "doc": inspect.getdoc(task),
        "kind": task.lane,
        "signature": f"{task.name}{task.arguments.signature}",
        "parameters": parameters_schema(task.function, task.arguments.signature),
        "options": masked(options),
    }


def parameters_schema(function: Any, signature: inspect.Signature) -> dict[str, Any]:
    """Return the JSON Schema of the named arguments of a call; a parameter of any other type takes anything.

    The properties are in the order of the parameters, so that `args` can be made from them.
    """
    try:
        hints = get_type_hints(function, include_extras=True)
    except Exception:  # noqa: BLE001 - annotations of users may raise anything
        hints = {}
    properties: dict[str, Any] = {}
    required: list[str] = []
    definitions: dict[str, Any] = {}
    more: Any = False
    for name, parameter in signature.parameters.items():
        if parameter.kind is parameter.VAR_POSITIONAL:
            continue
        schema = _schema(hints[name], definitions) if name in hints else {}
        if parameter.kind is parameter.VAR_KEYWORD:
            more = schema or True
            continue
        if parameter.default is not parameter.empty:
            _add_default(schema, parameter.default)
        else:
            required.append(name)
        properties[name] = schema
    found = {"$schema": DIALECT, "type": "object", "properties": properties, "required": required,
             "additionalProperties": more}  # fmt: skip
    return {**found, "$defs": definitions} if definitions else found


def _schema(hint: Any, definitions: dict[str, Any]) -> dict[str, Any]:
    """Return the schema of an annotation, and add what it refers to."""
    try:
        (schema,), components = msgspec.json.schema_components([hint], ref_template="#/$defs/{name}",
                                                               schema_hook=_of_model)  # fmt: skip
    except Exception:  # noqa: BLE001 - a type that msgspec does not know, or a model that refuses
        return {}
    definitions.update(components)
    return dict(schema)


def _of_model(kind: type) -> dict[str, Any]:
    """Return the schema of a model of pydantic. Raises `NotImplementedError` for any other class."""
    make = getattr(kind, "model_json_schema", None)
    if make is None:
        raise NotImplementedError(kind)
    return dict(make())


def _add_default(schema: dict[str, Any], default: Any) -> None:
    try:
        value = msgspec.json.decode(msgspec.json.encode(default))
    except (TypeError, ValueError):
        return
    if "$ref" not in schema:
        schema["default"] = value
