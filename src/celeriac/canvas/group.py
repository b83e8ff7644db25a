"""`group`: signatures that are sent together, whose result is the list of their results."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from celeriac.canvas.composite import Composite, parts_of
from celeriac.canvas.group_result import GroupResult
from celeriac.canvas.planner import Given, Planner, check_unique
from celeriac.model.message import Message, new_id
from celeriac.model.options import check_call
from celeriac.tasks.custom_ids import afree_ids, free_ids
from celeriac.tasks.message_template import PUBLISH_BATCH, check_same_app
from celeriac.tasks.result import AsyncResult
from celeriac.tasks.signature import Signature, workflow_class
from celeriac.tasks.tracing import LINKED_FROM

__all__ = ["group"]

R = TypeVar("R", covariant=True)

LINKS = ("link", "link_error")


class group(Composite, Generic[R]):  # noqa: N801 - Celery's name
    """Signatures that are sent together: `group(add.s(i, i) for i in range(10)).delay().get()`.

    The result of a group of one is a list of one, that of an empty group an empty list. A link of the group is sent
    once, with the list.
    """

    kind = "group"

    if TYPE_CHECKING:

        def delay(self, *args: Any, **kwargs: Any) -> GroupResult[R]:
            """Send all parts. The arguments are added to each of them."""

        async def adelay(self, *args: Any, **kwargs: Any) -> GroupResult[R]:
            """Coroutine version of `delay`."""

        def __call__(self, *args: Any, **kwargs: Any) -> GroupResult[R]: ...

    def __init__(self, *tasks: Signature[R] | Composite | Iterable[Signature[R] | Composite], **options: Any) -> None:
        super().__init__(parts_of("group", tasks), options)

    def __or__(self, other: Any) -> Any:
        """Return a chord that calls `other` with the list of the results."""
        return workflow_class("chain")(self, other)

    def apply_async(self, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None,
                    **options: Any) -> GroupResult[R]:  # fmt: skip
        """Send all parts. The arguments and options apply to each of them."""
        if not self._is_plain(options):
            return super().apply_async(args, kwargs, **options)  # type: ignore[no-any-return]
        id, messages = self._messages(args, kwargs, options)
        results: list[AsyncResult[R]] = []
        if (chosen := self._chosen()) and not self.app.conf.task_always_eager:
            free_ids(self.app, chosen)
        if not messages:
            return GroupResult(id, results)
        with self.app.tracing.batch("send group", are_linked=len(messages) > LINKED_FROM) as whole:
            for start in range(0, len(messages), PUBLISH_BATCH):
                batch = messages[start : start + PUBLISH_BATCH]
                if self.tasks[0].app.publish(batch, whole):
                    results += [AsyncResult(message.id, self.tasks[0].app, message.task) for message in batch]
                else:
                    results += self._run(batch)
        return GroupResult(id, results)

    async def aapply_async(self, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None,
                           **options: Any) -> GroupResult[R]:  # fmt: skip
        """Coroutine version of `apply_async`."""
        if not self._is_plain(options):
            return await super().aapply_async(args, kwargs, **options)  # type: ignore[no-any-return]
        id, messages = self._messages(args, kwargs, options)
        results: list[AsyncResult[R]] = []
        if (chosen := self._chosen()) and not self.app.conf.task_always_eager:
            await afree_ids(self.app, chosen)
        if not messages:
            return GroupResult(id, results)
        with self.app.tracing.batch("send group", are_linked=len(messages) > LINKED_FROM) as whole:
            for start in range(0, len(messages), PUBLISH_BATCH):
                batch = messages[start : start + PUBLISH_BATCH]
                if await self.tasks[0].app.apublish(batch, whole):
                    results += [AsyncResult(message.id, self.tasks[0].app, message.task) for message in batch]
                else:
                    results += self._run(batch)
        return GroupResult(id, results)

    def apply(self, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None,
              **options: Any) -> GroupResult[R]:  # fmt: skip
        """Run all parts in this process, in sequence."""
        if self._is_plain(options):
            id, messages = self._messages(args, kwargs, options)
            return GroupResult(id, self._run(messages))
        return super().apply(args, kwargs, **options)  # type: ignore[no-any-return]

    def empty_result(self) -> GroupResult[R]:
        return GroupResult(new_id(), [task.empty_result() for task in self.tasks])

    def _is_plain(self, options: Mapping[str, Any]) -> bool:
        """Return whether it has only tasks and no links: then no workflow is stored, only outcomes."""
        return not any(name in options or name in self.options for name in LINKS) and all(
            isinstance(task, Signature) and not task.leads_on() for task in self.tasks
        )

    def _messages(self, args: Sequence[Any], kwargs: Mapping[str, Any] | None,
                  options: Mapping[str, Any]) -> tuple[str, list[Message]]:  # fmt: skip
        options = {**self.options, **check_call(options)}
        id = options.pop("task_id", None) or new_id()  # the group's; each task has its own
        check_unique(self._chosen())
        for task in self.tasks:
            check_same_app(self.tasks[0].app, task)
            task._checked(args, kwargs)
        return id, [task.message(args, kwargs, group_id=id, **options) for task in self.tasks]

    def _run(self, messages: Sequence[Message]) -> list[AsyncResult[R]]:
        return [self.app.known_task(message.task).run_eagerly(message) for message in messages]

    def _chosen(self) -> list[str]:
        """Return the ids that the caller chose for the tasks."""
        return [task.options["task_id"] for task in self.tasks if "task_id" in task.options]

    def lay_out(self, planner: Planner, given: Given) -> int:
        inside, links, errors = self.prepare(given)
        end = planner.add_group(self.tasks, inside)
        planner.add_links(end, links, errors, inside)
        return end

    @classmethod
    def _of_parts(cls, tasks: Sequence[Any]) -> Any:
        return cls(list(tasks))

    def __repr__(self) -> str:
        return f"group({', '.join(map(repr, self.tasks))})"
