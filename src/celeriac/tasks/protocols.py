"""The app and its tasks, as the modules below the app see them.

`Celeriac` wires everything together and stands above all of it. Signatures, results and
workflows hold the app, and know it by the part that they use; so the imports form no cycle, annotations included.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol, Unpack

from celeriac.model.options import CallOptions

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

__all__ = ["AnyTask", "App", "Control", "Spot", "Template", "Workflows"]


class Template(Protocol):
    """What builds the messages of one task; see `MessageTemplate`."""

    def message(self, args: tuple[Any, ...], kwargs: dict[str, Any], options: Mapping[str, Any] | None = None, *,
                group_id: str | None = None) -> Message:  # fmt: skip
        """Return the message of one call."""


class AnyTask(Protocol):
    """A task of an app, whatever its signature; see `Task`."""

    name: str
    lane: str
    is_coroutine: bool
    options: dict[str, Any]
    arguments: Arguments
    checks_arguments: bool
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
        """Return when attempts of a message are followed by others."""

    def apply(self, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None,
              **options: Unpack[CallOptions]) -> Any:  # fmt: skip
        """Run the task in this process."""


class Control(Protocol):
    """`app.control`, as results use it."""

    def revoke(self, ids: str | Sequence[str], terminate: bool = False) -> None:
        """Prevent tasks from being started."""


class Spot(Protocol):
    """Where a result stands in a workflow; see `canvas/results.py`."""

    @property
    def app(self) -> App:
        """The app of the workflow."""

    @property
    def workflow_id(self) -> str:
        """The id of the workflow."""

    def parent(self) -> Any:
        """Return the result of what was before it."""

    def children(self) -> list[Any]:
        """Return the results of what comes after it."""


class Workflows(Protocol):
    """`app.workflows`, as tasks and results use it; see `canvas/workflows.py`."""

    replacements: dict[str, Any]
    """What replaced tasks that run in this process, by workflow id."""

    def run_message(self, message: Message) -> Outcome:
        """Run one message in this process, with its retries, its links and whatever replaces it."""

    def replacement(self, request: Any, part: Any) -> list[Message]:
        """Store what replaces a running task; return the messages that it begins with."""

    def spot(self, place: Any) -> Spot | None:
        """Return where a result stands, if its workflow is still known."""

    def send(self, part: Any, args: Sequence[Any], kwargs: Mapping[str, Any] | None, options: Mapping[str, Any]) -> Any:
        """Send a workflow; return the result of the whole."""

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

    conf: Settings
    clock: Clock

    @property
    def tasks(self) -> Mapping[str, AnyTask]:
        """The registered tasks, by name."""

    @property
    def builtin_tasks(self) -> Mapping[str, AnyTask]:
        """The tasks that every worker knows, by name."""

    @property
    def broker(self) -> Broker:
        """The broker; opened on first use."""

    @property
    def backend(self) -> Backend:
        """The result backend; opened on first use."""

    @property
    def sends_outcomes(self) -> bool:
        """Whether outcomes are sent to their callers (`rpc://`)."""

    @property
    def routes(self) -> Routes:
        """The routing table."""

    @property
    def workflows(self) -> Workflows:
        """Sends, runs and finds workflows."""

    @property
    def control(self) -> Control:
        """Sends commands to workers."""

    @property
    def canvas(self) -> Any:
        """The module `canvas.words`."""

    def register(self, function: Callable[..., Any], name: str | None, bind: bool, base: Any,
                 options: Mapping[str, Any]) -> Any:  # fmt: skip
        """Register a function as a task; return the task."""

    def known_task(self, name: str) -> AnyTask:
        """Return a task by its name. Raises `NotRegistered`."""

    def check_queue(self, queue: str) -> None:
        """Raise `UnknownQueue` for a queue that nothing declares."""

    def message_template(self, task: str) -> Template:
        """Return what the messages of a task have in common."""

    def signature(self, task: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None, *,
                  immutable: bool = False, **options: Any) -> Any:  # fmt: skip
        """Return a signature by the task's name, or from what `to_dict` gave."""

    def publish(self, messages: Sequence[Message]) -> bool:
        """Send messages. False with `task_always_eager`: the caller runs them."""

    async def apublish(self, messages: Sequence[Message]) -> bool:
        """Coroutine version of `publish`."""

    def send_task(self, name: str, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None,
                  **options: Unpack[CallOptions]) -> Any:  # fmt: skip
        """Send a message for a task by its name; return its result."""

    async def asend_task(self, name: str, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None,
                         **options: Unpack[CallOptions]) -> Any:  # fmt: skip
        """Coroutine version of `send_task`."""
