"""Write the pages of the reference, and a part of brokers.md, from the code: `python docs/generate.py`.

    celeriac               api.md
    celeriac.config        settings.md
    celeriac.cli           cli.md
    celeriac.errors        errors.md
    celeriac.signals       signals.md
    lacks of each adapter  ../brokers.md, between two comments

`tests/test_docs.py` fails if a page differs from what this would write.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator
from datetime import timedelta
from functools import cached_property
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, get_args, get_origin

import click

import celeriac
from celeriac import errors, inspector, progress, signals, testing
from celeriac.app import control
from celeriac.backends.amqp import RpcBackend
from celeriac.backends.memory import MemoryBackend
from celeriac.backends.redis import RedisBackend
from celeriac.backends.sqlite import SQLiteBackend
from celeriac.brokers.amqp import AmqpBroker
from celeriac.brokers.memory import MemoryBroker
from celeriac.brokers.redis import RedisBroker
from celeriac.brokers.sqlite import SQLiteBroker
from celeriac.cli import main
from celeriac.config import definitions as config
from celeriac.ports.abilities import BACKEND_ABILITIES, BROKER_ABILITIES, Ability, Port

__all__ = ["pages"]

FOLDER = Path(__file__).parent / "reference"
WIDTH = 88  # characters of a line of help
NOTE = "<!-- Written by docs/generate.py from the code. Change the code, and run it. -->\n"


def pages() -> dict[str, str]:
    """Return all generated pages, by their paths from `docs/reference`."""
    made = {"api.md": _api(), "settings.md": _settings(), "cli.md": _cli(), "errors.md": _errors(),
            "signals.md": _signals()}  # fmt: skip
    return {"../brokers.md": _brokers(), **{name: f"{NOTE}\n{text.strip()}\n" for name, text in made.items()}}


# --- Brokers and backends -----------------------------------------------------------------------------

BROKERS: dict[str, type[Port]] = {
    "SQLite": SQLiteBroker, "Redis": RedisBroker, "RabbitMQ": AmqpBroker, "memory": MemoryBroker
}  # fmt: skip
BACKENDS: dict[str, type[Port]] = {
    "SQLite": SQLiteBackend, "Redis": RedisBackend, "`rpc://` (RabbitMQ)": RpcBackend, "memory": MemoryBackend
}  # fmt: skip
BEGIN = "<!-- Written by docs/generate.py from `lacks` of each adapter. Change the code, and run it. -->\n"
END = "<!-- The end of what is written by docs/generate.py. -->\n"


def _brokers() -> str:
    """Return brokers.md with its generated part renewed."""
    page = (FOLDER.parent / "brokers.md").read_text(encoding="utf-8")
    before, _, rest = page.partition(BEGIN)
    text = _abilities("A broker …", BROKERS, BROKER_ABILITIES) + "\n"
    text += _abilities("A backend …", BACKENDS, BACKEND_ABILITIES)
    return before + BEGIN + "\n" + text + "\n" + END + rest.partition(END)[2]


def _abilities(title: str, adapters: dict[str, type[Port]], abilities: Iterable[Ability]) -> str:
    rows = [[title, *adapters], ["---", *["---"] * len(adapters)]]
    rows += [
        [ability.value, *["no" if ability in adapter.lacks else "yes" for adapter in adapters.values()]]
        for ability in abilities
    ]
    return "".join(f"| {' | '.join(row)} |\n" for row in rows).replace("| ---", "|---").replace("--- |", "---|")


# --- The API ------------------------------------------------------------------------------------------

CLASSES = [
    celeriac.Celeriac, celeriac.Task, celeriac.AsyncResult, celeriac.GroupResult, celeriac.Signature, celeriac.Workflow,
    celeriac.Request, control.Control, inspector.Inspector,
]  # fmt: skip
FUNCTIONS = [
    celeriac.shared_task, celeriac.current_app, celeriac.current_request, celeriac.signature, celeriac.chain,
    celeriac.group, celeriac.chord, celeriac.chunks, celeriac.xmap, celeriac.xstarmap, progress.track, progress.atrack,
    testing.running_worker,
]  # fmt: skip


def _api() -> str:
    text = """\
# The API

What programs import, in the words of its docstrings. An `a` before a name is its twin for coroutines: `adelay`, `aget`.
Errors, signals and settings have pages of their own.

## Functions
"""
    for function in FUNCTIONS:
        text += f"\n### `{_path(function)}{_signature(function)}`\n\n{_told(function)}\n"
    for kind in CLASSES:
        text += f"\n## `{_path(kind)}`\n\n{_told(kind)}\n\n"
        for name, member in _members(kind):
            is_property = isinstance(member, property | cached_property)
            signature = "" if is_property else _signature(member)
            text += f"- **`{name}{signature}`**: {_told(member, whole=False)}\n"
    return text


def _path(found: Any) -> str:
    module = "celeriac" if getattr(celeriac, found.__name__, None) is found else found.__module__
    return f"{module}.{found.__name__}"


def _members(kind: type) -> Iterator[tuple[str, Any]]:
    """Yield what is public and said something about, in the order of the code; what it inherits comes first."""
    found: dict[str, Any] = {}
    for base in reversed(kind.__mro__[:-1]):
        if base.__module__.startswith("celeriac"):
            found |= {name: member for name, member in vars(base).items() if not name.startswith("_")}
    for name, member in found.items():
        plain = member.__func__ if isinstance(member, classmethod | staticmethod) else member
        if inspect.getdoc(plain) and (inspect.isfunction(plain) or isinstance(plain, property | cached_property)):
            yield name, plain


def _signature(function: Any) -> str:
    """Return parameters without their types, which the editor shows and a line has no room for."""
    parameters = [
        parameter.replace(annotation=parameter.empty)
        for name, parameter in inspect.signature(function).parameters.items()
        if name not in ("self", "cls")
    ]
    return str(inspect.Signature(parameters))


def _told(found: Any, whole: bool = True) -> str:
    """Return a docstring, or its first paragraph."""
    text = inspect.getdoc(found) or ""
    return text if whole else " ".join(text.partition("\n\n")[0].split())


# --- Settings -----------------------------------------------------------------------------------------

SECTIONS = {
    "Broker and backend": ("broker_", "result_backend", "message_", "sqlite_", "redis_", "amqp_"),
    "Tasks": ("task_", "accept_content"),
    "Results": ("result_",),
    "Workers": ("worker_", "imports"),
}


def _settings() -> str:
    text = """\
# Settings

Every setting, as `app.conf` has it. Four sources give values, each over the one before it: the keywords of
`Celeriac(...)`, `app.config_from_object(...)` or `app.config_from_file(...)`, and the environment, where the name is in
capitals after `CELERIAC_` (`CELERIAC_TASK_ACKS_LATE=0`). An assignment to `app.conf` beats them all. See
[how to configure](../howto/configure.md).

Durations are seconds or a `timedelta`. A name that is not here is an error, and so is a value of another type.
"""
    left = dict(config.DEFINITIONS)
    for title, prefixes in SECTIONS.items():
        names = [name for name in left if name.startswith(prefixes)]
        text += f"\n## {title}\n\n| setting | type | default | meaning |\n|---|---|---|---|\n"
        for name in names:
            setting = left.pop(name)
            text += f"| `{name}` | {_type(setting)} | `{setting.default!r}` | {_cell(setting.help)} |\n"
    assert not left, f"no section has {', '.join(left)}"
    text += "\n## Celery's settings that have no counterpart\n\nEach is refused with its reason.\n\n"
    text += "| setting | why not |\n|---|---|\n"
    for name, why in config.NOT_NEEDED.items():
        text += f"| `{name}` | {_cell(why)} |\n"
    return text


def _type(setting: config.Setting) -> str:
    for rule in setting.rules:
        if isinstance(rule, config.OneOf):
            return " or ".join(f"`'{choice}'`" for choice in rule.choices)
    text = "table or list of pairs" if setting.type is Any else _name(setting.type)
    return text + (", more than 0" if config.positive in setting.rules else "")


WORDS: dict[Any, str] = {str: "text", bool: "true or false", int: "whole number"}


def _name(kind: Any) -> str:
    """Return a type in words; `float | timedelta` is what a duration is."""
    if isinstance(kind, UnionType):
        parts = [part for part in get_args(kind) if part is not NoneType]
        text = "duration" if set(parts) == {float, timedelta} else " or ".join(map(_name, parts))
        return text + (" or none" if NoneType in get_args(kind) else "")
    if get_origin(kind) is list:
        return f"list of {_name(get_args(kind)[0])}"
    return WORDS[kind]


# --- The command --------------------------------------------------------------------------------------


def _cli() -> str:
    text = """\
# The command

What `celeriac --help` and its commands say of themselves. Whatever prints a table prints one JSON document with
`--json`; errors go to stderr, and end with the next step.
"""
    for path, text_of in _helps(main, None, "celeriac"):
        level = min(4, 2 + path.count(" "))
        text += f"\n{'#' * level} {path}\n\n```text\n{text_of}\n```\n"
    return text


def _helps(command: click.Command, parent: click.Context | None, name: str) -> Iterator[tuple[str, str]]:
    context = click.Context(command, parent=parent, info_name=name, terminal_width=WIDTH, max_content_width=WIDTH,
                            help_option_names=["-h", "--help"])  # fmt: skip
    yield context.command_path, "\n".join(line.rstrip() for line in command.get_help(context).splitlines())
    if isinstance(command, click.Group):
        for child in command.list_commands(context):
            found = command.get_command(context, child)
            if found is not None and not found.hidden:
                yield from _helps(found, context, child)


# --- Errors -------------------------------------------------------------------------------------------


def _errors() -> str:
    text = """\
# Errors

Every error that Celeriac raises, in one tree: `except CeleriacError` catches them all. They live in
`celeriac.errors`; those that tasks and their callers meet are in `celeriac` too. Where a class is also one of Python's
own, `except TimeoutError` and the like work as one expects.

How an exception of *yours* comes back from a worker is told in [states](states.md#exceptions).

| error | is also | meaning |
|---|---|---|
"""
    for depth, kind in _tree(errors.CeleriacError, 0):
        others = [base.__name__ for base in kind.__bases__ if not issubclass(base, errors.CeleriacError)]
        also = ", ".join(f"`{name}`" for name in others if name != "Exception")
        meaning = " ".join((inspect.getdoc(kind) or "").split())
        text += f"| {'&nbsp;&nbsp;&nbsp;' * depth}`{kind.__name__}` | {also} | {_cell(meaning)} |\n"
    return text


def _tree(kind: type[BaseException], depth: int) -> Iterator[tuple[int, type[BaseException]]]:
    yield depth, kind
    order = list(vars(errors))  # the order in which they stand in the file
    children = [child for child in kind.__subclasses__() if vars(errors).get(child.__name__) is child]
    for child in sorted(children, key=lambda child: order.index(child.__name__)):
        yield from _tree(child, depth + 1)


# --- Signals ------------------------------------------------------------------------------------------


def _signals() -> str:
    text = """\
# Signals

Functions of yours that are called when something happens:

```python
from celeriac import signals


@signals.task_failure.connect
def tell(sender, task_id, exception, **more):
    print(f"{sender.name}[{task_id}] failed: {exception}")
```

`connect(receiver, sender=task)`, or `@signal.connect(sender=task)`, hears one sender alone. Task signals are sent in
the process that runs the task, worker signals in the worker's supervisor (`worker_process_…` in its children),
publish signals in the caller. A receiver that raises is logged to `celeriac.signals`, and does no harm. An attempt
that could not tell its own end (a killed child, a hard time limit on a plain function, a task revoked before it
started) sends no task signal.

| signal | arguments |
|---|---|
"""
    for name in signals.__all__:
        found = getattr(signals, name)
        if isinstance(found, signals.Signal):
            arguments = (found.__doc__ or "").removeprefix("Sent with: ").removesuffix(".")
            text += f"| `{name}` | {', '.join(f'`{one}`' for one in arguments.split(', '))} |\n"
    return text


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("*", "\\*")


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    for name, page in pages().items():
        (FOLDER / name).write_text(page, encoding="utf-8")
