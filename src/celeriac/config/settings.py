"""The configuration: every setting, its type, its default and its meaning, in one list.

Names are Celery's where Celery has one. Values come from keywords, a module or object, a TOML file, and the
environment (`CELERIAC_TASK_ACKS_LATE=0`), the later over the earlier; an assignment to `app.conf.name` beats
them all. Every mistake is reported at once.
"""

import importlib
import os
import tomllib
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import timedelta
from types import ModuleType, UnionType
from typing import TYPE_CHECKING, Annotated, Any, get_args

import msgspec

from celeriac.errors import ImproperlyConfigured, nearest
from celeriac.model.clock import Duration, seconds
from celeriac.model.options import rate
from celeriac.model.routing import Routes
from celeriac.model.serialization import serializer

__all__ = ["DEFAULTS", "HELP", "Settings", "from_object", "from_toml"]

ENVIRONMENT_PREFIX = "CELERIAC_"
NOT_SETTINGS = ("CELERIAC_APP", "CELERIAC_TEST_", "CELERIAC_DEMO_")
"""Environment variables that begin like a setting and are none."""

if TYPE_CHECKING:
    Seconds = float  # what reading gives; `timedelta` is taken too, and turned into it
else:
    Seconds = Duration


class Settings:
    """`app.conf`: read and assign settings as attributes; an assignment is checked."""

    # Broker and backend
    broker_url: Annotated[str | None, "where messages go; None: the file celeriac.db beside the app"] = None
    result_backend: Annotated[str | None, "where outcomes go; None: the broker itself, where it can"] = None
    broker_publish_timeout: Annotated[Seconds, "`delay()` raises when the broker has not answered by then"] = 10.0
    message_max_bytes: Annotated[int, "a larger message is refused at the call"] = 1_048_576
    sqlite_synchronous: Annotated[str, "'normal' survives killed processes; 'full' also a power cut"] = "normal"
    redis_prefix: Annotated[str, "what the keys of this app begin with"] = "celeriac"
    amqp_prefix: Annotated[str, "what names on the server begin with, but for the queues themselves"] = "celeriac"
    amqp_queue_type: Annotated[str, "'quorum', 'classic', or 'auto': quorum on RabbitMQ 4.0 or later"] = "auto"

    # Tasks
    task_default_queue: Annotated[str, "the queue of tasks that nothing else routes"] = "default"
    task_queues: Annotated[list[str], "queues that exist besides those that tasks and routes name"] = []
    task_create_missing_queues: Annotated[bool, "let a call or a worker name any queue"] = False
    task_routes: Annotated[Any, "{'mail.*': 'mail'} or {'mail.*': {'queue': 'mail', 'priority': 9}}"] = None
    task_default_priority: Annotated[int, "0 to 9, higher is sooner"] = 5
    task_acks_late: Annotated[bool, "run at least once (True) or at most once (False)"] = True
    task_ignore_result: Annotated[bool, "keep no return values"] = False
    task_track_started: Annotated[bool, "record the state STARTED"] = False
    task_soft_time_limit: Annotated[Seconds | None, "raise SoftTimeLimitExceeded inside the task after this"] = None
    task_time_limit: Annotated[Seconds | None, "end the attempt after this"] = None
    task_default_rate_limit: Annotated[str | None, "'10/s': per task and worker"] = None
    task_max_retries: Annotated[int | None, "retries after the first attempt; None: no bound"] = 3
    task_max_deliveries: Annotated[int, "a message that was lost with its process so often is put aside"] = 3
    task_serializer: Annotated[str, "how arguments are encoded"] = "json"
    task_always_eager: Annotated[bool, "run calls at once, in the caller (for tests)"] = False
    task_eager_propagates: Annotated[bool, "with task_always_eager: raise what the task raises"] = False
    accept_content: Annotated[list[str], "serialisers that are decoded here"] = ["json"]

    # Results
    result_expires: Annotated[Seconds | None, "outcomes are kept so long; None or 0: for ever"] = 86400.0
    result_serializer: Annotated[str, "how return values are encoded"] = "json"
    result_max_bytes: Annotated[int, "a larger return value fails its task"] = 16_777_216

    # Workers
    imports: Annotated[list[str], "modules that define tasks, imported by workers"] = []
    worker_concurrency: Annotated[int | None, "children for plain functions; None: one per core"] = None
    worker_coroutine_children: Annotated[int, "children for coroutines, if there are coroutine tasks"] = 1
    worker_coroutine_concurrency: Annotated[int, "coroutines at a time in each of those"] = 100
    worker_pool: Annotated[str, "'processes', 'threads' or 'solo'"] = "processes"
    worker_max_tasks_per_child: Annotated[int | None, "replace a child after so many tasks"] = None
    worker_max_memory_per_child: Annotated[int | None, "replace a child whose peak memory passes this (KiB)"] = None
    worker_lease_seconds: Annotated[Seconds, "a worker silent for so long has lost its messages to others"] = 15.0
    worker_grace_seconds: Annotated[Seconds, "running tasks may take so long to end when a worker stops"] = 25.0
    worker_unknown_task_seconds: Annotated[Seconds, "a task nobody knows is a dead letter after this"] = 3600.0

    def __init__(self, values: Mapping[str, Any] | None = None, environ: Mapping[str, str] | None = None) -> None:
        self.__dict__["_pinned"] = frozenset()
        self.__dict__["_on_change"] = []
        for name, default in DEFAULTS.items():
            self.__dict__[name] = list(default) if isinstance(default, list) else default
        problems: list[str] = []
        found = _from_environment(environ or {}, problems)
        self.update(values or {}, _problems=problems)
        self.update(found)
        self.__dict__["_pinned"] = frozenset(found)

    def update(self, values: Mapping[str, Any] | None = None, /, *, _problems: Iterable[str] = (),
               **more: Any) -> None:  # fmt: skip
        """Set many at once; names that the environment sets keep its values. All mistakes in one error."""
        problems = list(_problems)
        checked: dict[str, Any] = {}
        for name, value in {**(values or {}), **more}.items():
            try:
                checked[name] = _check(name, value)
            except ImproperlyConfigured as error:
                problems.append(str(error))
        if problems:
            raise ImproperlyConfigured(_report(problems))
        self.__dict__.update({name: value for name, value in checked.items() if name not in self._pinned})
        self._changed()

    def __setattr__(self, name: str, value: Any) -> None:
        self.__dict__[name] = _check(name, value)
        self._changed()

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(f"There is no setting {name!r}.{nearest(name, DEFAULTS)}")

    def __iter__(self) -> Iterator[str]:
        return iter(DEFAULTS)

    def __repr__(self) -> str:
        return f"<Settings {self.changed()!r}>"

    def changed(self) -> dict[str, Any]:
        """Return the settings that differ from their defaults."""
        return {name: self.__dict__[name] for name in DEFAULTS if self.__dict__[name] != DEFAULTS[name]}

    def watch(self, callback: Callable[[], None]) -> None:
        """Call back after every change; what is derived from settings is thrown away then."""
        self.__dict__["_on_change"].append(callback)

    def _changed(self) -> None:
        for callback in self.__dict__["_on_change"]:
            callback()


HINTS: dict[str, Any] = dict(Settings.__annotations__)  # evaluated: this module does without the future import
DEFAULTS: dict[str, Any] = {name: getattr(Settings, name) for name in HINTS}
TYPES: dict[str, Any] = {name: get_args(hint)[0] for name, hint in HINTS.items()}
HELP: dict[str, str] = {name: get_args(hint)[1] for name, hint in HINTS.items()}
for _name in DEFAULTS:
    delattr(Settings, _name)  # so that a wrong name fails, and the values live in the instance alone

CHOICES = {
    "worker_pool": ("processes", "threads", "solo"),
    "sqlite_synchronous": ("normal", "full"),
    "amqp_queue_type": ("auto", "quorum", "classic"),
}
CHECKS: dict[str, Callable[[Any], Any]] = {
    "accept_content": lambda names: list(map(serializer, names)),
    "result_serializer": serializer,
    "task_default_rate_limit": rate,
    "task_serializer": serializer,
}
"""What raises where a value of the right type makes no sense."""

POSITIVE = frozenset(
    {
        "broker_publish_timeout",
        "message_max_bytes",
        "result_max_bytes",
        "task_max_deliveries",
        "worker_concurrency",
        "worker_coroutine_children",
        "worker_coroutine_concurrency",
        "worker_lease_seconds",
        "worker_max_memory_per_child",
        "worker_max_tasks_per_child",
    }
)
WORDS = {
    bool: "True or False",
    int: "a whole number",
    list[str]: "a list of names",
    str: "text",
    type(None): "None",
}
RENAMED = {"include": "imports"}
"""Celery's settings that have another name here."""

NOT_NEEDED = {
    "worker_prefetch_multiplier": "a worker receives only what its free slots can start; remove it",
    "broker_transport_options": "liveness is by heartbeat, so there is no visibility time-out; remove it",
    "broker_connection_retry_on_startup": "workers always wait for their broker; remove it",
    "task_acks_on_failure_or_timeout": "failures and time-outs are settled like every ending; remove it",
    "task_reject_on_worker_lost": "a lost message is always sent again, `task_max_deliveries` times; remove it",
    "worker_cancel_long_running_tasks_on_connection_loss": "a lost lease always cancels; remove it",
    "enable_utc": "instants are always UTC inside; remove it",
    "beat_schedule": "schedules are not part of this version",
}


def _check(name: str, value: Any) -> Any:
    """Return a value in its setting's plain form, or raise `ImproperlyConfigured` with the mistake."""
    if name not in DEFAULTS:
        if name in NOT_NEEDED:
            raise ImproperlyConfigured(f"{name} is not needed: {NOT_NEEDED[name]}.")
        raise ImproperlyConfigured(f"There is no setting {name!r}.{_meant(name)}")
    kind = TYPES[name]
    if value is None and type(None) in get_args(kind):
        return None
    if timedelta in get_args(kind):
        try:
            value = seconds(value)
        except (TypeError, ValueError) as error:
            raise ImproperlyConfigured(f"{name}: {error}.") from None
    elif isinstance(value, tuple | set | frozenset):
        value = list(value)
    try:
        value = msgspec.convert(value, kind) if kind is not Any else value
    except msgspec.ValidationError as error:
        if (wanted := _words(kind)) is None:
            raise ImproperlyConfigured(f"{name}: {error}, got {value!r}.") from None
        raise ImproperlyConfigured(f"{name} takes {wanted}, not {value!r}.") from None
    if name == "task_routes":
        Routes(value)
    if name in CHOICES and value not in CHOICES[name]:
        raise ImproperlyConfigured(f"{name}: one of {', '.join(CHOICES[name])}, not {value!r}.")
    if name in POSITIVE and value <= 0:
        raise ImproperlyConfigured(f"{name}: more than 0, not {value!r}.")
    if isinstance(value, int | float) and value < 0:
        raise ImproperlyConfigured(f"{name}: 0 or more, not {value!r}.")
    if name == "result_expires" and value == 0:
        return None  # as in Celery
    if name in CHECKS:
        try:
            CHECKS[name](value)
        except (ValueError, ImproperlyConfigured) as error:
            raise ImproperlyConfigured(f"{name}: {error}") from None
    if name == "task_default_priority" and not 0 <= value <= 9:
        raise ImproperlyConfigured(f"{name}: from 0 to 9, not {value!r}.")
    return value


def _meant(name: str) -> str:
    """Say which setting was probably meant by a name that is none: Celery's own, or one in capitals."""
    if name in RENAMED:
        return f" Did you mean {RENAMED[name]!r}?"
    if name.isupper():
        name = name.removeprefix("CELERY_").removeprefix(ENVIRONMENT_PREFIX).lower()
        return f" Did you mean {name!r}?" if name in DEFAULTS else _meant(name)
    return nearest(name, DEFAULTS)


def _words(kind: Any) -> str | None:
    """Say what values a type takes, where it is made of plain ones."""
    kinds = get_args(kind) if isinstance(kind, UnionType) else (kind,)
    words = [WORDS.get(one) for one in kinds]
    return None if None in words else " or ".join(filter(None, words))


def _report(problems: list[str]) -> str:
    if len(problems) == 1:
        return problems[0]
    return f"{len(problems)} mistakes in the configuration:\n" + "\n".join(f"  - {line}" for line in problems)


# --- Sources ------------------------------------------------------------------------------------------


def from_object(source: Any, namespace: str = "") -> dict[str, Any]:
    """Read settings from a module (or its dotted name), a class, an object or a mapping.

    With a namespace only names that begin with it count: `from_object("django.conf:settings", "CELERIAC")`
    reads `CELERIAC_BROKER_URL`. Without one, lower-case names count.
    """
    if isinstance(source, str):
        module, _, attribute = source.partition(":")
        try:
            source = importlib.import_module(module)
        except ModuleNotFoundError as error:
            raise ImproperlyConfigured(f"The configuration module {module!r} cannot be imported: {error}.") from error
        for part in filter(None, attribute.split(".")):
            try:
                source = getattr(source, part)
            except AttributeError as error:
                raise ImproperlyConfigured(f"There is no configuration {module}:{attribute}: {error}.") from error
    if isinstance(source, Mapping):
        items = dict(source)
    else:
        items = {name: getattr(source, name) for name in dir(source) if not name.startswith("__")}
    if namespace:
        prefix = namespace.upper() + "_"
        return {name[len(prefix) :].lower(): value for name, value in items.items() if name.startswith(prefix)}
    if isinstance(source, Mapping):
        return items
    return {
        name: value
        for name, value in items.items()
        if name == name.lower()
        and not name.startswith("_")
        and not isinstance(value, ModuleType | type)
        and (name in DEFAULTS or not callable(value))
    }


def from_toml(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read settings from a TOML file: the table `[tool.celeriac]` of a pyproject.toml, else the whole file."""
    try:
        with open(path, "rb") as file:
            data = tomllib.load(file)
    except (OSError, tomllib.TOMLDecodeError) as error:
        raise ImproperlyConfigured(f"The configuration file {os.fspath(path)!r} cannot be read: {error}.") from error
    if os.path.basename(path) == "pyproject.toml":
        found: dict[str, Any] = data.get("tool", {}).get("celeriac", {})
        return found
    return data


def _from_environment(environ: Mapping[str, str], problems: list[str]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for variable, text in environ.items():
        if not variable.startswith(ENVIRONMENT_PREFIX) or variable.startswith(NOT_SETTINGS):
            continue
        name = variable[len(ENVIRONMENT_PREFIX) :].lower()
        try:
            found[name] = _check(name, _parse(name, text))
        except ImproperlyConfigured as error:
            problems.append(f"{variable} in the environment: {error}")
    return found


def _parse(name: str, text: str) -> Any:
    """Read an environment variable as its setting's type: JSON where it is, else words separated by commas."""
    kind = TYPES.get(name, str)
    if text == "" and type(None) in get_args(kind):
        return None
    if kind is str or (kind != list[str] and str in get_args(kind)):
        return text
    if kind is bool and text.lower() in ("1", "true", "yes", "on", "0", "false", "no", "off"):
        return text.lower() in ("1", "true", "yes", "on")
    try:
        return msgspec.json.decode(text)
    except msgspec.DecodeError:
        return [word.strip() for word in text.split(",") if word.strip()] if kind == list[str] else text
