"""`manage.py celeriac …`: the command `celeriac`, with Django's settings and the project's app."""

from __future__ import annotations

import argparse
import os
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError, CommandParser

from celeriac.cli import main

__all__ = ["Command"]

APP = "CELERIAC_APP"


class Command(BaseCommand):
    """Hands everything after its name on to the command line of Celeriac."""

    help = "Run a command of Celeriac: worker, beat, status, call, tasks, … (--help lists them)."
    requires_system_checks: list[str] = []  # a worker runs them itself

    def run_from_argv(self, argv: list[str]) -> None:
        """Run the command line, but for the options that Django itself reads before."""
        parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
        parser.add_argument("--settings")
        parser.add_argument("--pythonpath")
        _, rest = parser.parse_known_args(argv[2:])
        self._run(rest, f"{os.path.basename(argv[0])} {argv[1]}", standalone=True)

    def add_arguments(self, parser: CommandParser) -> None:
        """Take all arguments of `call_command("celeriac", "status")`."""
        parser.add_argument("args", nargs=argparse.REMAINDER, metavar="COMMAND")

    def handle(self, *args: Any, **options: Any) -> None:
        """Run the command of `call_command`. Raises `CommandError` if it fails."""
        self._run([str(part) for part in args], "manage.py celeriac", standalone=False)

    def _run(self, args: list[str], name: str, standalone: bool) -> None:
        os.environ.setdefault(APP, _project())
        if standalone:
            main(args, prog_name=name)
        else:
            try:
                main(args, prog_name=name)
            except SystemExit as stop:
                if stop.code:
                    raise CommandError(f"celeriac {' '.join(args)} has failed.", returncode=stop.code) from None


def _project() -> str:
    """Return the module of the project's app: the package of its settings (`shop` for `shop.settings.production`)."""
    module: str | None = settings.SETTINGS_MODULE
    if not module:
        raise CommandError("Say which app to use: manage.py celeriac -A shop …, or set CELERIAC_APP=shop.")
    return module.partition(".")[0]
