"""Every setting: its name, type, default, meaning and rules.

Names are Celery's where Celery has one. `settings.py` holds values; `checks.py` checks them. Adapters of other packages
define their own settings in the same form (`definitions_of`): see docs/howto/adapters.md.
"""

import logging
import re
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Annotated, Any, get_args, get_origin, get_type_hints

import msgspec

from celeriac.lazy import LazyModule
from celeriac.model.clock import Duration
from celeriac.model.compression import method
from celeriac.model.options import rate
from celeriac.model.routing import Routes
from celeriac.model.serialization import serializer

if TYPE_CHECKING:
    from celeriac.model import callback_hosts, filters, keys, mail_server, webhook_signatures
    from celeriac.schedules import zones
else:  # what only the values of a few settings need
    callback_hosts = LazyModule("celeriac.model.callback_hosts")
    filters = LazyModule("celeriac.model.filters")
    keys = LazyModule("celeriac.model.keys")
    mail_server = LazyModule("celeriac.model.mail_server")
    webhook_signatures = LazyModule("celeriac.model.webhook_signatures")
    zones = LazyModule("celeriac.schedules.zones")

__all__ = [
    "DEFINITIONS",
    "JSON",
    "LOG_FORMAT",
    "Definitions",
    "OneOf",
    "Setting",
    "definitions_of",
    "positive",
]

JSON = "json"
SHORTEST_SECRET = 32  # characters
LOG_FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"
TASK_LOG_FORMAT = "%(asctime)s %(levelname)s %(name)s: %(task_name)s[%(task_id)s]: %(message)s"

if TYPE_CHECKING:
    Seconds = float  # the type when read; a `timedelta` is accepted too, and converted
else:
    Seconds = Duration

Rule = Callable[[Any], Any]
"""Takes a value of the right type and returns it, or its plain form. Raises `ValueError` if it is not allowed."""


class Setting(msgspec.Struct, frozen=True):
    """The definition of one setting."""

    type: Any
    default: Any
    help: str
    rules: tuple[Rule, ...] = ()


class OneOf:
    """The rule that a value is one of a few."""

    def __init__(self, *choices: str) -> None:
        self.choices = choices

    def __call__(self, value: str) -> str:
        """Return a value that is one of them."""
        if value not in self.choices:
            raise ValueError(f"one of {', '.join(self.choices)}, not {value!r}.")
        return value


def positive(value: float) -> float:
    """Return a number that is more than 0."""
    if value <= 0:
        raise ValueError(f"more than 0, not {value!r}.")
    return value


def _priority(value: int) -> int:
    if not 0 <= value <= 9:
        raise ValueError(f"from 0 to 9, not {value!r}.")
    return value


def _none_if_zero(value: float) -> float | None:
    return value or None  # as in Celery


def _serializers(names: list[str]) -> list[str]:
    for name in names:
        serializer(name)
    return names


def _zone(name: str) -> str:
    zones.zone_name(name)
    return name


def _keys(texts: list[str]) -> list[str]:
    for text in texts:
        keys.parse_key(text)
    return texts


def _webhook_secrets(texts: list[str]) -> list[str]:
    for text in texts:
        webhook_signatures.parse_secret(text)
    return texts


def _port(value: int) -> int:
    if not 0 <= value <= 65535:
        raise ValueError(f"from 0 to 65535, not {value!r}.")
    return value


def _base_url(value: str) -> str:
    if not value.startswith(("http://", "https://")):
        raise ValueError(f"a URL that begins with http:// or https://, not {value!r}.")
    return value.rstrip("/")


def _secret(value: str) -> str:
    if len(value) < SHORTEST_SECRET:
        raise ValueError(f"at least {SHORTEST_SECRET} characters (`celeriac keys` makes one), not {len(value)}.")
    return value


def _failures(value: Any) -> list[str]:
    """Return which failures are meant: filters with the conditions `task:` and `error:` alone, or exception classes."""
    if isinstance(value, str | type) or not isinstance(value, Iterable):
        raise ValueError(f"a list, ['ValueError', 'task:shop.*'], not {value!r}.")
    found = []
    for one in value:
        if isinstance(one, type) and issubclass(one, BaseException):
            one = f"error:{one.__module__}.{one.__qualname__}"
        if not isinstance(one, str) or not one.strip():
            raise ValueError(f"names of exceptions, or filters such as 'task:shop.*', not {one!r}.")
        text = one if ":" in one else f"error:{one}"
        parsed = filters.parse_filter(text, 0.0)
        if parsed != filters.Filter(tasks=parsed.tasks, errors=parsed.errors):
            raise ValueError(f"{one!r} has other conditions than task: and error:.")
        found.append(text)
    return found


def _accepted(check: Callable[[Any], Any]) -> Rule:
    """Return the rule that a check accepts the value."""

    def rule(value: Any) -> Any:
        check(value)
        return value

    return rule


def _release(value: str | None) -> str | None:
    if value is not None and not (value.isprintable() and 0 < len(value) <= 100):
        raise ValueError(f"up to 100 characters that can be printed, such as a commit, not {value!r}.")
    return value


def _table_prefix(value: str) -> str:
    if not re.fullmatch("[a-z][a-z0-9_]{0,15}", value):  # some databases limit names to 30 characters
        raise ValueError(f"up to 16 lower-case letters, digits and _, a letter first, not {value!r}.")
    return value


def _log_format(value: str) -> str:
    """Return a format of `logging` that can be filled in."""
    record = logging.makeLogRecord({"task_name": "shop.add", "task_id": "1", "trace_id": "-", "span_id": "-"})
    try:
        logging.Formatter(value).format(record)
    except ValueError as error:
        raise ValueError(f"a format of the module logging, not {value!r}: {error}.") from None
    return value


def _log_format_or_json(value: str) -> str:
    return value if value == JSON else _log_format(value)


class Definitions:
    """The settings. Each is `name: Annotated[type, "meaning", rules…] = default`."""

    # Broker and backend
    broker_url: Annotated[str | None, "where messages go; None: the file celeriac.db beside the app"] = None
    result_backend: Annotated[str | None, "where outcomes go; None: the broker itself, where it can"] = None
    broker_publish_timeout: Annotated[
        Seconds, "`delay()` raises when the broker has not answered by then", positive
    ] = 10.0
    broker_delays: Annotated[
        str, "where messages wait until they are due: 'server', 'store' (the result backend), or 'auto': the server, "
        "unless it holds no delayed messages or may lose them", OneOf("auto", "server", "store")
    ] = "auto"
    message_max_bytes: Annotated[int, "a larger message is refused at the call", positive] = 1_048_576
    worker_message_max_bytes: Annotated[
        int, "a larger message that comes in becomes a dead letter, and a task that would get larger results fails; at "
        "least twice the sum of `message_max_bytes` and `result_max_bytes` counts", positive
    ] = 67_108_864  # fmt: skip
    sqlite_synchronous: Annotated[
        str, "'normal' survives killed processes; 'full' also a power cut", OneOf("normal", "full")
    ] = "normal"
    redis_prefix: Annotated[str, "what the keys of this app begin with"] = "celeriac"
    mongodb_prefix: Annotated[str, "what the names of this app's collections begin with"] = "celeriac"
    amqp_prefix: Annotated[str, "what names on the server begin with, except those of the queues"] = "celeriac"
    amqp_queue_type: Annotated[
        str, "'quorum', 'classic', or 'auto': quorum on clusters, and from 4.0 on", OneOf("auto", "quorum", "classic")
    ] = "auto"
    stomp_prefix: Annotated[str, "what names on a STOMP server begin with, except those of the queues"] = "celeriac"
    amqp10_prefix: Annotated[str, "what names on an AMQP 1.0 server begin with, except the queues'"] = "celeriac"
    zmq_server_key: Annotated[str | None, "the hub's public key, as `celeriac hub keys` prints it"] = None
    zmq_key_file: Annotated[str | None, "the file with this client's own keys, NAME.key_secret"] = None
    memcached_prefix: Annotated[str, "what the keys of this app begin with"] = "celeriac"
    tyrant_prefix: Annotated[str, "what the keys of this app begin with"] = "celeriac"
    sql_schema: Annotated[str | None, "the schema of the tables in a db+…:// backend; None: the user's own"] = None
    sql_table_prefix: Annotated[
        str, "what the names of these tables begin with", _table_prefix
    ] = "celeriac_"

    # Security
    security_keys: Annotated[
        list[str], "secrets that sign and check all that is stored or sent: the first signs, all are accepted", _keys
    ] = []
    security_encrypt: Annotated[bool, "encrypt it too, with keys that are derived from those"] = False
    security_accept_unsigned: Annotated[bool, "accept what is not signed, while senders are given keys"] = False

    # Tasks
    task_default_queue: Annotated[str, "the queue of tasks that no route and no option names one for"] = "default"
    task_queues: Annotated[list[str], "queues that exist besides those that tasks and routes name"] = []
    task_create_missing_queues: Annotated[bool, "let a call or a worker name any queue"] = False
    task_routes: Annotated[
        Any, "{'mail.*': 'mail'} or {'mail.*': {'queue': 'mail', 'priority': 9}}", _accepted(Routes)
    ] = None
    task_default_priority: Annotated[int, "0 to 9, higher is sooner", _priority] = 5
    task_acks_late: Annotated[bool, "run at least once (True) or at most once (False)"] = True
    task_ignore_result: Annotated[bool, "keep no return values"] = False
    task_track_started: Annotated[bool, "record the state STARTED"] = False
    task_soft_time_limit: Annotated[Seconds | None, "raise SoftTimeLimitExceeded inside the task after this"] = None
    task_time_limit: Annotated[Seconds | None, "end the attempt after this"] = None
    task_default_rate_limit: Annotated[str | None, "'10/s': per task and worker", _accepted(rate)] = None
    task_max_retries: Annotated[int | None, "retries after the first attempt; None: no bound"] = 3
    task_max_deliveries: Annotated[
        int, "a message that was lost with its process so often becomes a dead letter", positive
    ] = 3
    task_keep_failed: Annotated[
        bool, "keep the message of a failed task with its outcome, so that `celeriac tasks retry` can send it again"
    ] = True
    task_serializer: Annotated[str, "how arguments are encoded", _accepted(serializer)] = "json"
    task_always_eager: Annotated[bool, "run calls at once, in the caller (for tests)"] = False
    task_eager_propagates: Annotated[bool, "with task_always_eager: raise what the task raises"] = False
    task_store_eager_result: Annotated[bool, "store what runs in the caller in the result backend"] = False
    accept_content: Annotated[list[str], "serialisers that are decoded here", _serializers] = ["json"]

    # Schedules
    timezone: Annotated[str, "the zone of schedules that name none", _zone] = "UTC"
    beat_schedule: Annotated[
        dict[str, Any], "{'nightly': {'task': 'shop.report', 'schedule': crontab(hour=3, minute=0)}}"
    ] = {}

    # Results
    result_expires: Annotated[
        Seconds | None, "how long outcomes are kept; None or 0: for ever", _none_if_zero
    ] = 86400.0
    result_serializer: Annotated[str, "how return values are encoded", _accepted(serializer)] = "json"
    result_max_bytes: Annotated[int, "a larger return value fails its task", positive] = 16_777_216
    result_compression: Annotated[
        str | None, "'zlib', 'bzip2' or 'lzma': how return values of 1 KiB and more are compressed", _accepted(method)
    ] = None
    result_extended: Annotated[
        bool, "store the arguments, the queue and the time of the call with the outcome; arguments up to 64 KiB"
    ] = False

    # History
    history: Annotated[
        str, "'on': counts, failures and a sample of successes; 'all': every attempt; 'off'", OneOf("on", "off", "all")
    ] = "on"
    history_url: Annotated[str | None, "where workers write it; None: the result backend, if it keeps history"] = None
    history_expires: Annotated[
        Seconds, "how long failures are kept (with 'all': all attempts); counters are kept for years", positive
    ] = 14 * 86400.0
    history_max_attempts: Annotated[int, "failures that are kept at most, and as many successes", positive] = 100_000

    release: Annotated[
        str | None, "the version of your code, such as a commit: failures are recorded with it", _release
    ] = None

    # Traces
    otel: Annotated[
        str, "OpenTelemetry: 'auto': where a tracer provider is set; 'on': the same, and an error without the package; "
        "'off'", OneOf("auto", "on", "off")
    ] = "auto"  # fmt: skip
    otel_parent: Annotated[
        str, "whether the span of a send is the parent of the span that processes it: 'auto': if the message was sent "
        "alone, to run at once; 'always'; 'never': they are linked", OneOf("auto", "always", "never")
    ] = "auto"  # fmt: skip

    # Mails to the administrators
    mail_admins: Annotated[
        Any, "who is told of failures: `['Ann <ann@example.org>', …]`, or `(name, address)` as in Celery",
        lambda value: mail_server.addresses(value)
    ] = []  # fmt: skip
    mail_from: Annotated[
        str | None, "the sender of mails; None: celeriac@ and the name of the machine",
        lambda value: mail_server.check_address(value)
    ] = None
    mail_url: Annotated[
        str, "the mail server: `smtp://user:password@host:587?tls=starttls` (or `ssl`, `none`)",
        _accepted(lambda url: mail_server.MailServer.of(url))
    ] = "smtp://localhost:25?tls=none"  # fmt: skip
    mail_timeout: Annotated[Seconds, "how long the mail server may take for each answer", positive] = 10.0
    mail_max_per_hour: Annotated[int, "mails about failures per hour at most; the last one says so", positive] = 20
    mail_on: Annotated[
        Any, "mail about these failures alone: exceptions, or filters such as `'task:shop.*'`; none: all", _failures
    ] = []  # fmt: skip
    mail_not_on: Annotated[Any, "never mail about these failures", _failures] = []
    task_send_error_emails: Annotated[
        bool | None, "whether failures are mailed; None: if there are `mail_admins`"
    ] = None  # fmt: skip

    # Workers
    imports: Annotated[list[str], "modules that define tasks, imported by workers"] = []
    worker_concurrency: Annotated[int | None, "children for plain functions; None: one per core", positive] = None
    worker_coroutine_children: Annotated[int, "children for coroutines, if there are coroutine tasks", positive] = 1
    worker_coroutine_concurrency: Annotated[int, "coroutines at a time in each of those", positive] = 100
    worker_pool: Annotated[str, "'processes', 'threads' or 'solo'", OneOf("processes", "threads", "solo")] = "processes"
    worker_max_tasks_per_child: Annotated[int | None, "replace a child after so many tasks", positive] = None
    worker_max_memory_per_child: Annotated[
        int | None, "replace a child whose peak memory passes this (KiB)", positive
    ] = None
    worker_beat: Annotated[bool, "run a scheduler in every worker, as `celeriac worker --beat` does"] = False
    worker_lease_seconds: Annotated[
        Seconds, "the messages of a worker that is silent for so long go to other workers", positive
    ] = 15.0
    worker_grace_seconds: Annotated[Seconds, "how long running tasks may take to end when a worker stops"] = 25.0
    worker_remote_control: Annotated[bool, "whether workers obey control commands"] = True
    worker_hijack_root_logger: Annotated[
        bool, "log as if the app had not configured logging: the handlers of the root logger are replaced"
    ] = False
    worker_log_format: Annotated[
        str, "the format of log lines, for Python's `logging`; or 'json'", _log_format_or_json
    ] = LOG_FORMAT
    worker_task_log_format: Annotated[
        str, "the format of lines that are logged while a task runs, with %(task_name)s and %(task_id)s", _log_format
    ] = TASK_LOG_FORMAT
    worker_unknown_task_seconds: Annotated[
        Seconds, "a message for a task that no worker knows becomes a dead letter after this"
    ] = 3600.0

    # The HTTP API
    web_host: Annotated[str, "the address that `celeriac web` listens on"] = "127.0.0.1"
    web_port: Annotated[int, "its port; 0: any that is free", _port] = 8000
    web_url: Annotated[str | None, "where others reach it, for the URLs that it is asked for", _base_url] = None
    web_tokens: Annotated[list[str], "tokens as hashes: what `celeriac web token add --print` prints"] = []
    web_token_file: Annotated[
        str | None, "the file with more of them; None: the file celeriac.tokens beside the app"
    ] = None
    web_allowed_hosts: Annotated[
        list[str], "hosts that requests may be addressed to; none: any, once there are tokens"
    ] = []
    web_rate: Annotated[
        int, "requests that each token may make per second; twice as many at once after a pause", positive
    ] = 100
    web_secret: Annotated[str | None, "the secret that signs status URLs, of 32 characters or more", _secret] = None
    web_origins: Annotated[list[str], "sites whose pages may read status URLs ('*': all)"] = []
    web_callback_hosts: Annotated[
        list[str], "hosts that callbacks may go to, by https unless they begin with http://, and networks that these "
        "may lead to although they are not public; none: no callbacks",
        _accepted(lambda entries: callback_hosts.CallbackHosts(entries))
    ] = []  # fmt: skip
    web_callback_secrets: Annotated[
        list[str], "secrets (whsec_…) that sign callbacks, each with all of them", _webhook_secrets
    ] = []
    web_callback_queue: Annotated[str | None, "the queue of callbacks; None: that of the task"] = None


def definitions_of(kind: type) -> dict[str, Setting]:
    """Return the settings that a class defines, by name. Raises `TypeError` for one without type, meaning or default.

    >>> class Mine:
    ...     shelf_width: Annotated[int, "books on a shelf", positive] = 30
    >>> definitions_of(Mine)["shelf_width"].default
    30
    """
    found = {}
    for name, hint in get_type_hints(kind, include_extras=True).items():
        type_, *rest = get_args(hint) if get_origin(hint) is Annotated else (hint,)
        if not rest or not isinstance(rest[0], str) or name not in vars(kind):
            raise TypeError(f'define the setting {name} as `{name}: Annotated[type, "meaning"] = default`')
        found[name] = Setting(type_, vars(kind)[name], rest[0], tuple(rest[1:]))
    return found


DEFINITIONS = definitions_of(Definitions)
