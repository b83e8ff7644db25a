"""Runs `celeriac` in this process, for an app that is not in a module."""

from __future__ import annotations

import sys
from types import ModuleType

from click.testing import CliRunner, Result

from celeriac import Celeriac
from celeriac.cli import main
from tests.patience import PATIENCE

__all__ = ["command", "patient"]

MODULE = "app_of_a_test"


def patient(*arguments: str) -> tuple[str, ...]:
    """Return the arguments, with a `--timeout` if the command asks workers, which may take their time, and has none."""
    asks_no_worker = arguments[:2] in (("control", "revoke"), ("inspect", "scheduled"))
    if arguments[0] not in ("control", "inspect", "status") or asks_no_worker or "--timeout" in arguments:
        return arguments
    return (*arguments, "--timeout", str(PATIENCE))


def command(app: Celeriac, *arguments: str) -> Result:
    """Run a command. It may fail, with a message; an exception that it lets out, and a wrong usage, are faults."""
    module = ModuleType(MODULE)
    module.__dict__["app"] = app
    sys.modules[MODULE] = module
    try:
        result = CliRunner().invoke(main, ["-A", MODULE, *arguments])
    finally:
        del sys.modules[MODULE]
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise AssertionError(f"celeriac {' '.join(arguments)} has raised an exception") from result.exception
    assert "Usage: " not in result.output, result.output
    assert "Traceback" not in result.stderr  # stdout may show that of a failed task
    return result
