"""What Celery's command line has and this one has not, and what to do instead."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final, TypeVar

import click

__all__ = ["BEAT", "COMMANDS", "CONTROL", "INSPECT", "POOLS", "WORKER", "CeleryGroup", "refused_options"]

Command = TypeVar("Command", bound=Callable[..., Any])

COMMANDS: Final = {
    "amqp": "Look into queues with `celeriac queues`, and into the server with its own tools.",
    "events": "`celeriac tasks` shows what happens, and `celeriac web` shows it live.",
    "flower": "`celeriac web` serves the dashboard.",
    "list": "`celeriac queues` lists the queues, and `celeriac tasks` the tasks.",
    "migrate": "Messages stay on their broker: let its workers empty it, see docs/howto/from-celery.md.",
    "multi": "Start several workers with systemd or your container platform: see docs/howto/deploy.md.",
    "shell": "Start `python` and import the app.",
    "upgrade": "Settings have lower-case names: the worker says what is wrong with one.",
}

INSPECT: Final = {
    "active_queues": "`celeriac status` shows the queues of each worker.",
    "clock": "Workers keep no common clock.",
    "conf": "`celeriac report` prints the settings that differ from their defaults.",
    "memdump": "`celeriac inspect stats --json` has the peak memory of workers.",
    "memsample": "`celeriac inspect stats --json` has the peak memory of workers.",
    "query_task": "`celeriac tasks show ID` shows what is known of a task.",
    "report": "It is `celeriac report`.",
    "revoked": "`celeriac explain ID` says whether a task was revoked.",
}

CONTROL: Final = {
    "autoscale": "Change the number of children with `celeriac control pool-grow` and `pool-shrink`.",
    "disable_events": "Celery's events are not sent; `celeriac tasks` shows what happens.",
    "enable_events": "Celery's events are not sent; `celeriac tasks` shows what happens.",
    "heartbeat": "Workers renew their leases by themselves.",
    "pool_restart": "Restart the workers: running tasks have their grace time, see docs/howto/deploy.md.",
    "revoke_by_stamped_headers": "Search for a header in the dashboard (`celeriac web`), and revoke all that is found.",
}

POOLS: Final = {
    "prefork": "Celery's pool 'prefork' is called 'processes' here",
    "eventlet": "async def tasks need no special pool here: use 'processes'",
    "gevent": "async def tasks need no special pool here: use 'processes'",
}

BEAT: Final = {
    ("-s", "--schedule"): "Remove -s: entries keep what they have sent, in the broker or the result backend.",
    ("-S", "--scheduler"): "Remove -S: entries can be changed while schedulers run, with `celeriac schedules`.",
    ("--pidfile",): "Remove --pidfile: any number of schedulers may run, and each tick is sent once.",
    ("--max-interval",): "Remove --max-interval: a scheduler wakes up for each tick, and sees changes within a second.",
}

WORKER: Final = {
    ("-E", "--task-events"): "Remove -E: Celery's events are not sent; `celeriac tasks` shows what happens.",
    ("-O", "--optimization"): "Remove -O: a worker receives only what its free slots can start.",
    ("--prefetch-multiplier",): "Remove --prefetch-multiplier: a worker receives only what its free slots can start.",
    ("--autoscale",): "--autoscale is not in this version; `celeriac control pool-grow` changes a worker.",
    ("--without-gossip",): "Remove --without-gossip: workers do not talk to each other.",
    ("--without-mingle",): "Remove --without-mingle: workers do not talk to each other.",
    ("--without-heartbeat",): "Remove --without-heartbeat: a worker without heartbeats loses what it runs.",
    ("--time-limit",): "Remove --time-limit: set `task_time_limit`, or `time_limit` of the task.",
    ("--soft-time-limit",): "Remove --soft-time-limit: set `task_soft_time_limit`, or `soft_time_limit` of the task.",
    ("-I", "--include"): "Remove -I: the setting `imports` names the modules that a worker imports.",
    ("-S", "--statedb"): "Remove -S: what was revoked is stored in the broker.",
    ("-f", "--logfile"): "Remove -f: the log goes to stderr. Redirect it, or see docs/howto/logging.md.",
    ("-D", "--detach"): "Remove -D: a service manager starts workers, see docs/howto/deploy.md.",
    ("--pidfile",): "Remove --pidfile: a service manager starts workers, see docs/howto/deploy.md.",
}

FLAGS: Final = ("-E", "--without-gossip", "--without-mingle", "--without-heartbeat", "-D")  # they take no value


class CeleryGroup(click.Group):
    """A group whose commands may be typed with Celery's underscores, and which answers those that only Celery has."""

    def __init__(self, *args: Any, hints: Mapping[str, str], **attributes: Any) -> None:
        super().__init__(*args, **attributes)
        self.hints = hints

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Return a command by its name, or by Celery's."""
        return super().get_command(ctx, cmd_name.replace("_", "-"))

    def resolve_command(self, ctx: click.Context,
                        args: list[str]) -> tuple[str | None, click.Command | None, list[str]]:  # fmt: skip
        """Find the command, or say what to do instead."""
        if not ctx.resilient_parsing and args[0] in self.hints:
            ctx.fail(f"There is no command {args[0]!r}. {self.hints[args[0]]}")
        return super().resolve_command(ctx, args)


def refused_options(table: Mapping[tuple[str, ...], str]) -> Callable[[Command], Command]:
    """Let a command refuse options of Celery's, and say what to do instead."""

    def add(command: Command) -> Command:
        for names, why in table.items():

            def refuse(context: click.Context, parameter: click.Parameter, value: Any, why: str = why) -> None:
                if value:
                    raise click.UsageError(why)

            option = click.option(*names, hidden=True, expose_value=False, callback=refuse, is_flag=names[0] in FLAGS)
            command = option(command)
        return command

    return add
