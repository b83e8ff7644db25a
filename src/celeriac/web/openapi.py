"""The OpenAPI 3.1 document, written from the endpoints and their Structs."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any, Final

import msgspec

from celeriac import __version__
from celeriac.web.answers.callbacks import CallbackEvent
from celeriac.web.answers.problem import Problem
from celeriac.web.bodies import JSON, NDJSON
from celeriac.web.endpoints import Endpoint
from celeriac.web.problems import KINDS
from celeriac.web.scopes import SCOPES
from celeriac.web.shapes import AnyQuery, BatchCall, Flow, Leaf

__all__ = ["openapi"]

REFERENCE: Final = "#/components/schemas/{name}"
PARAMETER: Final = re.compile(r"\{(\w+)(?::\w+)?\}")
ALWAYS: Final = ("bad-query", "unauthenticated", "scope", "too-many", "internal", "not-supported", "broker-unavailable")
WITH_BODY: Final = ("bad-json", "bad-body", "too-large", "too-slow", "wrong-content-type")
STATUSES: Final = {200: "Done", 201: "Made", 202: "Accepted", 204: "Nothing to tell", 503: "Not ready"}
DRAWINGS: Final = (JSON, "text/vnd.mermaid", "text/vnd.graphviz", "text/plain")
KEYED: Final = ("/api/v1/tasks", "/api/v1/tasks/batch")

CALLBACK_HEADERS: Final = {
    "webhook-id": "The id of the event, the same in each attempt",
    "webhook-timestamp": "When this attempt was signed, in seconds since the epoch",
    "webhook-signature": "v1,… (HMAC-SHA256 in Base64), one for each secret",
}

INFO: Final = {
    "title": "Celeriac",
    "version": __version__,
    "description": "The HTTP API of a Celeriac app: send tasks, follow them, and operate queues and workers.",
    "license": {"name": "MIT", "identifier": "MIT"},
}


def openapi(endpoints: Sequence[Endpoint]) -> dict[str, Any]:
    """Return the document that describes endpoints."""
    kinds = {id(kind): kind for kind in _kinds(endpoints)}
    schemas, components = msgspec.json.schema_components(kinds.values(), ref_template=REFERENCE)
    by_kind = dict(zip(kinds, schemas, strict=True))
    components["Flow"] = _flow(components.pop("Flow"))
    paths: dict[str, dict[str, Any]] = {}
    for endpoint in endpoints:
        path = PARAMETER.sub(r"{\1}", endpoint.path)
        paths.setdefault(path, {})[endpoint.method.lower()] = _operation(endpoint, by_kind, components)
    tokens = {"type": "http", "scheme": "bearer", "description": "A token of `celeriac web token add`."}
    return {
        "openapi": "3.1.0",
        "info": INFO,
        "paths": paths,
        "webhooks": {"celeriac.task.ended": {"post": _callback(by_kind)}},
        "components": {"schemas": components, "securitySchemes": {"token": tokens}},
        "x-scopes": SCOPES,
    }


def _kinds(endpoints: Iterable[Endpoint]) -> Iterable[Any]:
    yield from (Problem, CallbackEvent, BatchCall, Leaf)
    for endpoint in endpoints:
        yield endpoint.query
        if endpoint.body is not None and not isinstance(endpoint.body, str):
            yield endpoint.body
        yield from (kind for kind in endpoint.answers.values() if kind is not None and not isinstance(kind, str))


def _operation(endpoint: Endpoint, schemas: dict[int, Any], components: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {
        "operationId": f"{endpoint.method.lower()}_{re.sub(r'[^a-z0-9]+', '_', endpoint.path.lower()).strip('_')}",
        "summary": endpoint.summary,
        "parameters": list(_parameters(endpoint, components)),
        "responses": {str(status): _response(endpoint, status, schemas) for status in endpoint.answers},
    }
    if endpoint.scope is not None:
        found["security"] = [{"token": []}]
        found["description"] = f"Needs the scope `{endpoint.scope}`."
    if endpoint.body is not None:
        found["requestBody"] = {"required": not endpoint.optional, "content": _content(endpoint, schemas)}
    problems = [*endpoint.problems, *(ALWAYS if endpoint.scope is not None else ("bad-query", "internal")),
                *(WITH_BODY if endpoint.body is not None else ())]  # fmt: skip
    by_status: dict[int, list[str]] = {}
    for name in dict.fromkeys(problems):
        by_status.setdefault(KINDS[name].status, []).append(name)
    for status, names in sorted(by_status.items()):
        if str(status) not in found["responses"]:
            found["responses"][str(status)] = {
                "description": "; ".join(f"{KINDS[name].title} (`{name}`)" for name in names),
                "content": {"application/problem+json": {"schema": schemas[id(Problem)]}},
            }
    return found


def _callback(schemas: dict[int, Any]) -> dict[str, Any]:
    """Return what a server receives that a call names in `callback`."""
    return {
        "operationId": "task_ended",
        "summary": "A task has ended, for which its call named a callback",
        "description": "Signed as Standard Webhooks define it. It is sent again, up to nine times in three days, until "
        "the answer is 2xx, or 410.",
        "parameters": [
            {"name": name, "in": "header", "required": True, "description": meaning, "schema": {"type": "string"}}
            for name, meaning in CALLBACK_HEADERS.items()
        ],
        "requestBody": {"required": True,
                        "content": {"application/cloudevents+json": {"schema": schemas[id(CallbackEvent)]}}},
        "responses": {"2XX": {"description": "Received"}, "410": {"description": "Do not send this again"}},
        "security": [],
    }  # fmt: skip


def _parameters(endpoint: Endpoint, components: dict[str, Any]) -> Iterable[dict[str, Any]]:
    for name in PARAMETER.findall(endpoint.path):
        yield {"name": name, "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}}
    if endpoint.query is not AnyQuery:
        schema = components[endpoint.query.__name__]
        for name, inner in schema["properties"].items():
            yield {"name": name, "in": "query", "required": name in schema.get("required", ()), "schema": inner}
    if endpoint.path in KEYED and endpoint.method == "POST":
        yield {"name": "Idempotency-Key", "in": "header", "required": False,
               "description": "A request that is repeated with its key, within a day, sends nothing new.",
               "schema": {"type": "string", "minLength": 1, "maxLength": 255, "pattern": "^[!#-Z^-~]+$"}}  # fmt: skip


def _content(endpoint: Endpoint, schemas: dict[int, Any]) -> dict[str, Any]:
    if endpoint.body == "form":
        return {"application/x-www-form-urlencoded": {"schema": {"type": "object"}}}
    if isinstance(endpoint.body, str):
        return {JSON: {"schema": {"type": "object"}}}
    content = {JSON: {"schema": schemas[id(endpoint.body)]}}
    if endpoint.lines:
        content[NDJSON] = {"schema": schemas[id(BatchCall)]}
    return content


def _response(endpoint: Endpoint, status: int, schemas: dict[int, Any]) -> dict[str, Any]:
    answer = endpoint.answers[status]
    found: dict[str, Any] = {"description": STATUSES[status]}
    if answer == "graph":
        found["content"] = {kind: {} for kind in DRAWINGS}
    elif isinstance(answer, str):
        found["content"] = {answer: {}}
    elif answer is Any:
        found["content"] = {"*/*": {}}
    elif answer is not None:
        found["content"] = {JSON: {"schema": schemas[id(answer)]}}
    return found


def _flow(schema: dict[str, Any]) -> dict[str, Any]:
    """Return the schema of a workflow, which refers to itself."""
    part = {"anyOf": [{"$ref": REFERENCE.format(name="Flow")}, {"$ref": REFERENCE.format(name=Leaf.__name__)}]}
    parts = {"type": "array", "items": part, "minItems": 1}
    chord = {"type": "object", "properties": {"header": parts, "body": part}, "required": ["header", "body"],
             "additionalProperties": False}  # fmt: skip
    choices = {"chain": parts, "group": parts, "chord": chord}
    assert choices.keys() == schema["properties"].keys(), Flow
    return {
        "title": schema["title"],
        "description": schema["description"],
        "oneOf": [
            {"type": "object", "properties": {name: inner}, "required": [name], "additionalProperties": False}
            for name, inner in choices.items()
        ],
    }
