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
    "NOT_NEEDED",
    "RENAMED",
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

RENAMED = {
    "include": "imports",
    "worker_enable_remote_control": "worker_remote_control",
    "acks_late": "task_acks_late",
    "always_eager": "task_always_eager",
    "celerybeat_schedule": "beat_schedule",
    "celeryd_concurrency": "worker_concurrency",
    "celeryd_hijack_root_logger": "worker_hijack_root_logger",
    "celeryd_log_format": "worker_log_format",
    "celeryd_max_tasks_per_child": "worker_max_tasks_per_child",
    "celeryd_pool": "worker_pool",
    "celeryd_task_log_format": "worker_task_log_format",
    "celeryd_task_soft_time_limit": "task_soft_time_limit",
    "celeryd_task_time_limit": "task_time_limit",
    "create_missing_queues": "task_create_missing_queues",
    "default_queue": "task_default_queue",
    "default_rate_limit": "task_default_rate_limit",
    "eager_propagates_exceptions": "task_eager_propagates",
    "enable_remote_control": "worker_remote_control",
    "ignore_result": "task_ignore_result",
    "queues": "task_queues",
    "routes": "task_routes",
    "task_result_expires": "result_expires",
    "track_started": "task_track_started",
}
"""Celery's settings that have another name here, and names of Celery 3 without the `CELERY_` that they begin with."""

NOT_NEEDED = {
    "worker_prefetch_multiplier": "a worker receives only what its free slots can start; remove it",
    "broker_transport_options": "liveness is by heartbeat, so there is no visibility time-out; remove it",
    "broker_connection_retry_on_startup": "workers always wait for their broker; remove it",
    "task_acks_on_failure_or_timeout": "failures and time-outs are settled like every ending; remove it",
    "task_reject_on_worker_lost": "a lost message is always sent again, `task_max_deliveries` times; remove it",
    "worker_cancel_long_running_tasks_on_connection_loss": "a lost lease always cancels; remove it",
    "worker_redirect_stdouts": "what tasks print is written as it is; remove it",
    "worker_redirect_stdouts_level": "what tasks print is written as it is; remove it",
    "worker_log_color": "the log has no colours; remove it",
    "beat_scheduler": "there is one scheduler, and `app.schedules` changes entries while it runs; remove it",
    "beat_schedule_filename": "entries keep what they have sent, in the broker or the result backend; remove it",
    "beat_sync_every": "each tick is recorded in the step that sends it; remove it",
    "beat_max_loop_interval": "a scheduler wakes up for each tick, and sees changes within a second; remove it",
    "beat_cron_starting_deadline": "the policy `window` of an entry says how old a tick may be that is sent",
    "result_accept_content": "results are decoded by `accept_content`, like all else: set that",
    "result_backend_always_retry": "workers keep outcomes until the result backend takes them; remove it",
    "result_backend_max_retries": "workers keep outcomes until the result backend takes them; remove it",
    "result_backend_base_sleep_between_retries_ms": "the pause grows from 0.1 to 1 second; remove it",
    "result_backend_max_sleep_between_retries_ms": "the pause grows from 0.1 to 1 second; remove it",
    "result_backend_thread_safe": "results can be used in every thread; remove it",
    "result_backend_transport_options": "what the server needs is part of the URL in `result_backend`; remove it",
    "result_cache_max": "callers keep no results, except with `rpc://`, which keeps those it has read; remove it",
    "result_chord_join_timeout": "the body of a chord starts when its last task has ended, and nobody waits; remove it",
    "result_chord_retry_interval": "the tasks of a chord are counted as they end, not polled; remove it",
    "result_exchange": "with `rpc://`, results go straight to the queue of their caller; remove it",
    "result_exchange_type": "with `rpc://`, results go straight to the queue of their caller; remove it",
    "result_persistent": "results survive a restart of the server, also with `rpc://`; remove it",
    "override_backends": "a package brings a result backend by its entry point, see docs/howto/adapters.md; remove it",
    "cache_backend": "the URL in `result_backend` names the servers; remove it",
    "cache_backend_options": "what the server needs is part of the URL in `result_backend`; remove it",
    "mongodb_backend_settings": "the URL in `result_backend` names the server and its database; remove it",
    "redis_backend_use_ssl": "set `result_backend` to a URL that begins with rediss://; remove it",
    "redis_backend_health_check_interval": "a lost connection is noticed, and opened again; remove it",
    "redis_backend_credential_provider": "the URL in `result_backend` has the user and the password; remove it",
    "redis_max_connections": "a process opens one connection for each thread or event loop that needs it; remove it",
    "redis_socket_timeout": "`broker_publish_timeout` bounds how long a server may take to answer: set that",
    "redis_socket_connect_timeout": "`broker_publish_timeout` bounds how long a server may take to answer: set that",
    "redis_socket_keepalive": "a lost connection is noticed, and opened again; remove it",
    "redis_retry_on_timeout": "requests are sent again after a lost connection, without doing them twice; remove it",
    "enable_utc": "instants are always UTC inside; remove it",
    "database_table_names": "set `sql_table_prefix`",
    "database_table_schemas": "set `sql_schema`",
    "database_create_tables_at_setup": "tables are made on first use; remove it",
    "database_short_lived_sessions": "connections that were lost are opened again; remove it",
    "database_engine_options": "write what the driver takes after the ? of the URL; remove it",
    "broker_read_url": "workers and callers use the same broker: set `broker_url`",
    "broker_write_url": "workers and callers use the same broker: set `broker_url`",
    "broker_transport": "the URL in `broker_url` names the kind of server; remove it",
    "broker_host": "the URL in `broker_url` has it; remove it",
    "broker_port": "the URL in `broker_url` has it; remove it",
    "broker_user": "the URL in `broker_url` has it; remove it",
    "broker_password": "the URL in `broker_url` has it; remove it",
    "broker_vhost": "the URL in `broker_url` has it; remove it",
    "broker_use_ssl": "set `broker_url` to a URL that begins with amqps:// or rediss://",
    "broker_connection_timeout": "`broker_publish_timeout` bounds how long a server may take to answer: set that",
    "broker_connection_retry": "workers always wait for their broker; remove it",
    "broker_connection_max_retries": "workers always wait for their broker; remove it",
    "broker_channel_error_retry": "workers always wait for their broker; remove it",
    "broker_heartbeat": "a lost connection is noticed, and opened again; remove it",
    "broker_heartbeat_checkrate": "a lost connection is noticed, and opened again; remove it",
    "broker_pool_limit": "a process opens one connection for each thread or event loop that needs it; remove it",
    "broker_pool_acquire_timeout": "a process opens one connection for each thread or event loop; remove it",
    "broker_native_delayed_delivery_queue_type": "`broker_delays` says where messages wait until they are due",
    "control_queue_ttl": "control commands need no queues; remove it",
    "control_queue_expires": "control commands need no queues; remove it",
    "control_queue_exclusive": "control commands need no queues; remove it",
    "control_queue_durable": "control commands need no queues; remove it",
    "control_exchange": "control commands need no queues; remove it",
    "event_queue_expires": "Celery's events are not sent; remove it",
    "event_queue_ttl": "Celery's events are not sent; remove it",
    "event_queue_prefix": "Celery's events are not sent; remove it",
    "event_queue_exclusive": "Celery's events are not sent; remove it",
    "event_queue_durable": "Celery's events are not sent; remove it",
    "event_serializer": "Celery's events are not sent; remove it",
    "event_exchange": "Celery's events are not sent; remove it",
    "task_send_sent_event": "Celery's events are not sent; remove it",
    "worker_send_task_events": "Celery's events are not sent; remove it",
    "redis_host": "the URL in `result_backend` has it; remove it",
    "redis_port": "the URL in `result_backend` has it; remove it",
    "redis_db": "the URL in `result_backend` has it; remove it",
    "redis_username": "the URL in `result_backend` has it; remove it",
    "redis_password": "the URL in `result_backend` has it; remove it",
    "database_url": "set `result_backend` to a URL that begins with db+",
    "task_acks_on_failure": "failures are settled like every ending; remove it",
    "task_acks_on_timeout": "time-outs are settled like every ending; remove it",
    "task_allow_error_cb_on_chord_header": "the error callbacks of a chord are called once, whichever of its tasks "
    "has failed; remove it",
    "task_annotations": "set options in the decorator of a task, as attributes of its class, or for all tasks by "
    "settings such as `task_default_rate_limit`",
    "task_compression": "messages are not compressed; remove it",
    "task_create_missing_queue_type": "`amqp_queue_type` is for all queues: set that",
    "task_create_missing_queue_exchange_type": "a queue is just a name; remove it",
    "task_default_delivery_mode": "messages are always stored; remove it",
    "task_default_exchange": "a queue is just a name; remove it",
    "task_default_exchange_type": "a queue is just a name; remove it",
    "task_default_queue_type": "`amqp_queue_type` is for all queues: set that",
    "task_default_routing_key": "a queue is just a name; remove it",
    "task_inherit_parent_priority": "a priority comes from the call, a route or the task: set it there",
    "task_protocol": "messages have one format; remove it",
    "task_publish_retry": "`broker_publish_timeout` says how long a call tries: set that",
    "task_publish_retry_policy": "`broker_publish_timeout` says how long a call tries: set that",
    "task_queue_max_priority": "every queue has the priorities 0 to 9; remove it",
    "task_remote_tracebacks": "exceptions come with their tracebacks; remove it",
    "task_retry_on_worker_lost": "a lost message is always sent again, `task_max_deliveries` times; remove it",
    "task_store_errors_even_if_ignored": "failures are always stored; remove it",
    "worker_agent": "a worker's parts cannot be replaced; remove it",
    "worker_autoscaler": "a worker's parts cannot be replaced; remove it",
    "worker_consumer": "a worker's parts cannot be replaced; remove it",
    "worker_timer": "a worker's parts cannot be replaced; remove it",
    "worker_timer_precision": "a worker's parts cannot be replaced; remove it",
    "worker_deduplicate_successful_tasks": "a message that has ended is not run again; remove it",
    "worker_detect_quorum_queues": "`amqp_queue_type` says which queues there are; remove it",
    "worker_direct": "start a worker with a queue of its own: `celeriac worker -Q NAME`",
    "worker_disable_prefetch": "a worker receives only what its free slots can start; remove it",
    "worker_disable_rate_limits": "remove the rate limits of the tasks",
    "worker_enable_prefetch_count_reduction": "a worker receives only what its free slots can start; remove it",
    "worker_enable_soft_shutdown_on_idle": "what waits for its time waits in the broker; remove it",
    "worker_eta_task_limit": "what waits for its time waits in the broker; remove it",
    "worker_log_datefmt": "for another format of times, configure logging in the app",
    "worker_task_log_datefmt": "for another format of times, configure logging in the app",
    "worker_lost_wait": "the end of a child is noticed at once; remove it",
    "worker_pool_putlocks": "a worker receives only what its free slots can start; remove it",
    "worker_pool_restarts": "`celeriac worker --reload` replaces a worker when code changes; remove it",
    "worker_pool_start_method": "children are forked from a clean process; remove it",
    "worker_soft_shutdown_timeout": "set `worker_grace_seconds`",
    "worker_state_db": "what was revoked is stored in the broker; remove it",
    "security_key_password": "messages are signed with secrets, not certificates: set `security_keys`",
    "security_key": "messages are signed with secrets, not certificates: set `security_keys`",
    "security_certificate": "messages are signed with secrets, not certificates: set `security_keys`",
    "security_cert_store": "messages are signed with secrets, not certificates: set `security_keys`",
    "security_digest": "signatures are HMAC-SHA256; remove it",
}
