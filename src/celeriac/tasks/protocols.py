"""The app and its tasks, as the modules below the app see them.

`Celeriac` wires everything together, so it imports tasks, results and workflows, which hold the app in turn. They name
it by the protocols here, each with the members that they use. So the imports form no cycle, annotations included.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol, Unpack

from celeriac.model.options import CallOptions
from celeriac.tasks.tracing import Sending, Tracing

if TYPE_CHECKING:
    from celeriac.config.settings import Settings
    from celeriac.model.arguments import Arguments
    from celeriac.model.clock import Clock
    from celeriac.model.message import Message
    from celeriac.model.outcome import Outcome
    from celeriac.model.retry import RetryPolicy
    from celeriac.model.routing import Routes
    from celeriac.ports.backend import Backend
    from celeriac.ports.broker import Broker
    from celeriac.ports.framework import Framework
    from celeriac.ports.history import History

__all__ = ["AnyTask", "App", "Control", "Spot", "Template", "Workflows"]


class Template(Protocol):
    """Builds the messages of one task; see `MessageTemplate`."""

    def message(self, args: tuple[Any, ...], kwargs: dict[str, Any], options: Mapping[str, Any] | None = None, *,
                group_id: str | None = None) -> Message:  # fmt: skip
        """Return the message of one call."""


class AnyTask(Protocol):
    """A task with any signature; see `Task`."""

    name: str
    lane: str
    is_coroutine: bool
    function: Callable[..., Any]
    bind: bool
    options: dict[str, Any]
    arguments: Arguments
    checks_arguments: bool
    hooks: frozenset[str]
    autoretry_for: tuple[type[BaseException], ...]
    dont_autoretry_for: tuple[type[BaseException], ...]

    @property
    def app(self) -> App:
        """The app that the task is registered with."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the function."""

    def call(self, request: Any) -> Any:
        """Call the function for an attempt."""

    def run_eagerly(self, message: Message) -> Any:
        """Run a message in this process; return its result."""

    def retry_policy(self, message: Message) -> RetryPolicy:
        """Return how often and when an attempt of a message is retried."""

    def apply(self, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None,
              **options: Unpack[CallOptions]) -> Any:  # fmt: skip
        """Run the task in this process."""

    def apply_async(self, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None,
                    **options: Unpack[CallOptions]) -> Any:  # fmt: skip
        """Send a message."""

    async def aapply_async(self, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None,
                           **options: Unpack[CallOptions]) -> Any:  # fmt: skip
        """Coroutine version of `apply_async`."""


class Control(Protocol):
    """`app.control`, as results use it."""

    def revoke(self, ids: str | Sequence[str], terminate: bool = False) -> None:
        """Prevent tasks from being started."""

    async def arevoke(self, ids: str | Sequence[str], terminate: bool = False) -> None:
        """Coroutine version of `revoke`."""


class Spot(Protocol):
    """The node of a workflow that a result belongs to; see `canvas/results.py`."""

    @property
    def app(self) -> App:
        """The app of the workflow."""

    @property
    def workflow_id(self) -> str:
        """The id of the workflow."""

    def parent(self) -> Any:
        """Return the result of the node before it, or None."""

    def children(self) -> list[Any]:
        """Return the results of the nodes after it."""


class Workflows(Protocol):
    """`app.workflows`, as tasks and results use it; see `canvas/workflows.py`."""

    replacements: dict[str, Any]
    """Workflows that replaced tasks run in this process, by workflow id."""

    def run_message(self, message: Message) -> Outcome:
        """Run one message in this process, with its retries, its links and its replacements."""

    def replacement(self, request: Any, part: Any) -> list[Message]:
        """Store the replacement of a running task; return the messages to send first."""

    def spot(self, place: Any) -> Spot | None:
        """Return the node of a place, or None if the workflow is no longer stored."""

    def send(self, part: Any, args: Sequence[Any], kwargs: Mapping[str, Any] | None, options: Mapping[str, Any]) -> Any:
        """Send a workflow; return its result."""

    async def asend(self, part: Any, args: Sequence[Any], kwargs: Mapping[str, Any] | None,
                    options: Mapping[str, Any]) -> Any:  # fmt: skip
        """Coroutine version of `send`."""

    def run(self, part: Any, args: Sequence[Any], kwargs: Mapping[str, Any] | None, options: Mapping[str, Any]) -> Any:
        """Run a workflow in this process."""

    def save(self, group: Any) -> None:
        """Store the ids of a group under the group's id."""

    def restore(self, id: str) -> Any:
        """Return a group that was saved, or None."""


class App(Protocol):
    """An app; see `Celeriac`."""

    main: str | None
    conf: Settings
    clock: Clock
    tracing: Tracing

    @property
    def tasks(self) -> Mapping[str, AnyTask]:
        """The registered tasks, by name."""

    @property
    def builtin_tasks(self) -> Mapping[str, AnyTask]:
        """The tasks that every worker knows, by name."""

    @property
    def broker_url(self) -> str:
        """The URL of the broker."""

    @property
    def broker(self) -> Broker:
        """The broker; opened on first use."""

    @property
    def backend(self) -> Backend:
        """The result backend; opened on first use."""

    @property
    def history(self) -> History | None:
        """The history; opened on first use. None: none is kept."""

    @property
    def sends_outcomes(self) -> bool:
        """Whether outcomes are sent to their callers (`rpc://`)."""

    @property
    def sends_notices(self) -> bool:
        """Whether callers are told that outcomes were stored, on a channel that each message names."""

    @property
    def routes(self) -> Routes:
        """The routing table."""

    @property
    def workflows(self) -> Workflows:
        """Sends, runs and finds workflows."""

    @property
    def framework(self) -> Framework | None:
        """The web framework of the project, if the app reads its settings."""

    @property
    def control(self) -> Control:
        """Sends commands to workers."""

    @property
    def canvas(self) -> Any:
        """The module `canvas.functions`."""

    def register(self, function: Callable[..., Any], name: str | None, bind: bool, base: Any,
                 options: Mapping[str, Any]) -> Any:  # fmt: skip
        """Register a function as a task; return the task."""

    def known_task(self, name: str) -> AnyTask:
        """Return a task by its name. Raises `NotRegistered`."""

    def check_queue(self, queue: str) -> None:
        """Raise `UnknownQueue` for a queue that nothing declares."""

    def message_template(self, task: str) -> Template:
        """Return the template of a task's messages."""

    def signature(self, task: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None, *,
                  immutable: bool = False, **options: Any) -> Any:  # fmt: skip
        """Return a signature by the task's name, or from the data of `to_dict`."""

    def publish(self, messages: Sequence[Message], batch: Sending | None = None) -> bool:
        """Send messages. False with `task_always_eager`: the caller runs them."""

    async def apublish(self, messages: Sequence[Message], batch: Sending | None = None) -> bool:
        """Coroutine version of `publish`."""

    def send_task(self, name: str, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None,
                  **options: Unpack[CallOptions]) -> Any:  # fmt: skip
        """Send a message for a task by its name; return its result."""

    async def asend_task(self, name: str, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None,
                         **options: Unpack[CallOptions]) -> Any:  # fmt: skip
        """Coroutine version of `send_task`."""
