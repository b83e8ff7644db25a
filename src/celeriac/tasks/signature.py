"""A signature: a call that has not been made, with its task, arguments and options.

It can be stored, sent, changed and linked. `canvas` ties signatures together to workflows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from importlib import import_module
from types import MappingProxyType
from typing import Any, Generic, Self, TypeVar, cast

from celeriac.errors import UnknownOption, nearest
from celeriac.model.arguments import args_of, kwargs_of
from celeriac.model.message import Message
from celeriac.model.options import boolean, check_call
from celeriac.tasks.protocols import App
from celeriac.tasks.result import AsyncResult

__all__ = ["Sendable", "Signature", "listed", "plain_options", "read_options", "workflow_class"]

R = TypeVar("R", covariant=True)

INSTANTS = ("eta", "expires")  # options that may be datetimes


KINDS = ("chain", "chord", "group")
"""The kinds of workflows. Their modules, in `canvas`, are above this one and imported on first use."""


class Sendable:
    """The base class of whatever can be sent: signatures, and workflows made of them."""

    __slots__ = ()


class Signature(Sendable, Generic[R]):
    """One call that has not been made.

    `a | b` calls `b` with the result of `a`; see `chain`, `group` and `chord`.

    A signature may be partial: arguments given later are put before its own, so `add.s(2).delay(1)` calls `add(1, 2)`.
    An immutable one (`si`) ignores them. `to_dict` and `from_dict` turn it into plain data and back.
    """

    __slots__ = ("app", "args", "immutable", "kwargs", "options", "task")

    def __init__(self, app: App, task: str, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None,
                 options: Mapping[str, Any] | None = None, immutable: bool = False) -> None:  # fmt: skip
        self.app = app
        self.task = task
        self.args = args_of(args)
        self.kwargs = kwargs_of(kwargs)
        self.options = check_call(options) if options else {}
        self.immutable = boolean(immutable, "immutable")

    def set(self, immutable: bool | None = None, **options: Any) -> Self:
        """Change options in place, and return the signature: `add.s(2, 2).set(queue="math", countdown=10)`."""
        if immutable is not None:
            self.immutable = boolean(immutable, "immutable")
        self.options = check_call({**self.options, **options})
        return self

    def clone(self, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None, **options: Any) -> Self:
        """Return a copy with these arguments and options added."""
        merged, named = self.merged(args, kwargs)
        return type(self)(self.app, self.task, merged, named, {**self.options, **options}, self.immutable)

    def stamp(self, **stamps: Any) -> Self:
        """Add headers, in place: `add.s(2, 2).stamp(customer=7)`."""
        return self.set(headers={**self.options.get("headers", {}), **stamps})

    def link(self, callback: Any) -> Self:
        """Send `callback` when this succeeds, with the result as its first argument."""
        return self._linked("link", callback)

    def link_error(self, callback: Any) -> Self:
        """Send `callback` when this fails.

        Its first argument is the id of the failed task. If its function accepts three more arguments than the signature
        has, it receives the request, the exception and the traceback of the failed task instead.
        """
        return self._linked("link_error", callback)

    on_error = link_error

    def _linked(self, name: str, callback: Any) -> Self:
        self.options[name] = [*listed(self.options.get(name)), callback]
        return self

    def __or__(self, other: Any) -> Any:
        """Return a chain that calls `other` with the result of this."""
        return workflow_class("chain")(self, other) if isinstance(other, Sendable) else NotImplemented

    # --- Making the call ------------------------------------------------------------------------------

    def message(self, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None, *,
                group_id: str | None = None, **options: Any) -> Message:  # fmt: skip
        """Return the message of the call."""
        merged, named = self.merged(args, kwargs)
        template = self.app.message_template(self.task)
        return template.message(merged, named, {**self.options, **options}, group_id=group_id)

    def delay(self, *args: Any, **kwargs: Any) -> AsyncResult[R]:
        """Make the call."""
        return self.apply_async(args, kwargs)

    async def adelay(self, *args: Any, **kwargs: Any) -> AsyncResult[R]:
        """Coroutine version of `delay`."""
        return await self.aapply_async(args, kwargs)

    def apply_async(self, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None,
                    **options: Any) -> AsyncResult[R]:  # fmt: skip
        """Make the call with options, which override those of the signature."""
        if self.leads_on(options):
            return cast(AsyncResult[R], workflow_class("chain")(self).apply_async(args, kwargs, **options))
        merged, named = self._checked(args, kwargs)
        options = {**self.options, **options}
        if self.task in self.app.tasks:
            return cast(AsyncResult[R], self.app.tasks[self.task].apply_async(merged, named, **options))
        return cast(AsyncResult[R], self.app.send_task(self.task, merged, named, **options))

    async def aapply_async(self, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None,
                           **options: Any) -> AsyncResult[R]:  # fmt: skip
        """Coroutine version of `apply_async`."""
        if self.leads_on(options):
            return cast(AsyncResult[R], await workflow_class("chain")(self).aapply_async(args, kwargs, **options))
        merged, named = self._checked(args, kwargs)
        options = {**self.options, **options}
        if self.task in self.app.tasks:
            return cast(AsyncResult[R], await self.app.tasks[self.task].aapply_async(merged, named, **options))
        return cast(AsyncResult[R], await self.app.asend_task(self.task, merged, named, **options))

    def apply(self, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None,
              **options: Any) -> AsyncResult[R]:  # fmt: skip
        """Run the task in this process, and return its result."""
        if self.leads_on(options):
            return cast(AsyncResult[R], workflow_class("chain")(self).apply(args, kwargs, **options))
        task = self.app.known_task(self.task)
        merged, named = self._checked(args, kwargs)
        return cast(AsyncResult[R], task.apply(merged, named, **{**self.options, **options}))

    def leads_on(self, options: Mapping[str, Any] = MappingProxyType({})) -> bool:
        """Return whether a workflow is linked to it (not only tasks), so that the call must be sent as a workflow."""
        links = [*listed(self.options.get("link")), *listed(options.get("link"))]
        return any(isinstance(link, Sendable) and not isinstance(link, Signature) for link in links)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the task's function in this process, like any function."""
        merged, named = self.merged(args, kwargs)
        return self.app.known_task(self.task)(*merged, **named)

    def merged(self, args: Sequence[Any], kwargs: Mapping[str, Any] | None) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Return the arguments of the call, with the given ones put before its own."""
        if self.immutable:
            return self.args, self.kwargs
        return (*args_of(args), *self.args), {**self.kwargs, **kwargs_of(kwargs)}

    def _checked(self, args: Sequence[Any], kwargs: Mapping[str, Any] | None) -> tuple[tuple[Any, ...], dict[str, Any]]:
        merged, named = self.merged(args, kwargs)
        task = self.app.tasks.get(self.task)
        if task is not None and task.checks_arguments:
            task.arguments.check(merged, named)
        return merged, named

    # --- Plain data -----------------------------------------------------------------------------------

    def to_dict(self) -> dict[str, Any]:
        """Return the signature as plain data."""
        return {"task": self.task, "args": list(self.args), "kwargs": self.kwargs,
                "options": plain_options(self.options), "immutable": self.immutable}  # fmt: skip

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], app: App) -> Any:
        """Return the signature, chain, group or chord from the data of `to_dict`."""
        if "kind" in data:
            return workflow_class(data["kind"]).of_dict(data, app)
        return cls(app, data["task"], data.get("args", ()), data.get("kwargs"), read_options(data.get("options") or {}),
                   data.get("immutable", False))  # fmt: skip

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Signature) and other.to_dict() == self.to_dict()

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        named = [f"{name}={value!r}" for name, value in self.kwargs.items()]
        return f"{self.task}({', '.join([*map(repr, self.args), *named])})"


def listed(value: Any) -> list[Any]:
    """Return the value of a link option as a list: it may be one signature, several, or None."""
    if value is None:
        return []
    return list(value) if isinstance(value, list | tuple) else [value]


def workflow_class(kind: str) -> Any:
    """Return the class `chain`, `chord` or `group`. Raises `UnknownOption` for any other name."""
    if kind not in KINDS:
        raise UnknownOption(f"There is no kind of workflow named {kind!r}.{nearest(kind, KINDS)}")
    return getattr(import_module(f"celeriac.canvas.{kind}"), kind)


def plain_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return options as plain data, including the signatures and instants in them."""
    plain = dict(options)
    for name in ("link", "link_error"):
        if name in plain:
            plain[name] = [link if isinstance(link, Mapping) else link.to_dict() for link in listed(plain[name])]
    for name in INSTANTS:
        if isinstance(plain.get(name), datetime):
            plain[name] = plain[name].isoformat()
    return plain


def read_options(plain: Mapping[str, Any]) -> dict[str, Any]:
    """Return options from the data of `plain_options`; linked signatures stay plain data."""
    options = dict(plain)
    for name in INSTANTS:
        if isinstance(options.get(name), str):
            options[name] = datetime.fromisoformat(options[name])
    return options
