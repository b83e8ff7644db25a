"""Runs `celeriac` in this process, for an app that is not in a module."""

from __future__ import annotations

import sys
from types import ModuleType

from click.testing import CliRunner, Result

from celeriac import Celeriac
from celeriac.cli import main

__all__ = ["command"]

MODULE = "app_of_a_test"


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
