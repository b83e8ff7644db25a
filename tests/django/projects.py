"""Runs the tests of a Django project in a process of their own: Django's settings hold for a whole process."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Final

from tests.environment import without_settings
from tests.patience import FOR_EVER
from tests.postgresql_server import PostgreSQLServer

__all__ = ["ROOT", "in_postgresql", "in_sqlite", "run_tests"]

ROOT: Final = Path(__file__).resolve().parents[2]


def run_tests(python: str, project: Path, *arguments: str, **environment: str) -> None:
    """Run pytest in the folder of a project. Fails with what it has printed.

    Plugins that are installed for other tests are left out: to import them takes as long as all else that pytest does.
    """
    variables = {**without_settings(), "PYTHONPATH": f"{ROOT / 'src'}{os.pathsep}{ROOT}",
                 "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", **environment}  # fmt: skip
    options = ["-p", "pytest_timeout", "-p", "pytest_celeriac",
               "-c", str(project / "pytest.ini"), "--rootdir", str(project), "--confcutdir", str(project)]  # fmt: skip
    done = subprocess.run([python, "-m", "pytest", *options, *arguments], env=variables, cwd=project,
                          capture_output=True, text=True, timeout=FOR_EVER)  # fmt: skip
    assert done.returncode == 0, f"{done.stdout[-20_000:]}\n{done.stderr[-2_000:]}"


def in_sqlite(path: Path) -> str:
    """Return an entry of DATABASES, as JSON: a file whose transactions take the lock first."""
    return json.dumps({"ENGINE": "django.db.backends.sqlite3", "NAME": str(path),
                       "OPTIONS": {"timeout": 60, "transaction_mode": "IMMEDIATE"}})  # fmt: skip


def in_postgresql(server: PostgreSQLServer) -> str:
    """Return an entry of DATABASES, as JSON: a new database."""
    return json.dumps({"ENGINE": "django.db.backends.postgresql", "NAME": server.database(), "HOST": "127.0.0.1",
                       "PORT": server.port, "USER": "postgres"})  # fmt: skip
