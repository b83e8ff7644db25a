"""A Django project's own tests (`suite/`), on each version of Django that is here, each file in a process of its own.

Django's settings hold for a whole process, so these tests cannot run in this one. Django 5.2 is installed beside
Celeriac; the newest version needs Python 3.12, and an environment of its own (`make django`).
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.environment import without_settings
from tests.mariadb_server import MariaDBServer
from tests.patience import FOR_EVER
from tests.postgresql_server import PostgreSQLServer
from tests.rabbitmq_server import Place

ROOT = Path(__file__).resolve().parents[2]
SUITE = ROOT / "tests" / "django" / "suite"
NEWEST = ROOT / ".venv" / "peers" / "django" / "bin" / "python"

PYTHONS = [
    pytest.param(sys.executable, id="django52"),
    pytest.param(
        str(NEWEST),
        id="newest",
        marks=pytest.mark.skipif(not NEWEST.exists(), reason="Django 6 needs Python 3.12 or later: make django"),
    ),
]
ON_POSTGRESQL = ("test_connections.py", "test_on_commit.py", "test_arguments.py", "test_database_conformance.py",
                 "test_database.py", "test_periodic_tasks.py")  # fmt: skip
ON_MARIADB = ("test_database_conformance.py", "test_database.py", "test_periodic_tasks.py")
IN_DJANGO = ("test_admin.py", "test_database.py", "test_periodic_tasks.py")
"""The files that have their results in `django-db://`."""
SHARING = "test_shared_file.py"
"""The file whose broker is in Django's database."""


def run(python: str, file: str, folder: Path, **environment: str) -> None:
    """Run a file of the suite. Fails with what it has printed."""
    path = f"{ROOT / 'src'}{os.pathsep}{ROOT}"
    variables = {**without_settings(), "BAZAAR_FOLDER": str(folder), "PYTHONPATH": path, **environment}
    if file in IN_DJANGO:
        variables["BAZAAR_RESULT_BACKEND"] = "django-db://"
    if file == SHARING and "BAZAAR_DATABASE" not in environment:
        shared = f"{folder}/bazaar.sqlite3"
        database = {"ENGINE": "django.db.backends.sqlite3", "NAME": shared,
                    "OPTIONS": {"timeout": 60, "transaction_mode": "IMMEDIATE"}}  # fmt: skip
        variables |= {"BAZAAR_DATABASE": json.dumps(database), "BAZAAR_BROKER_URL": f"sqlite:///{shared}",
                      "BAZAAR_RESULT_BACKEND": f"sqlite:///{shared}"}  # fmt: skip
    options = ["-c", str(SUITE / "pytest.ini"), "--rootdir", str(SUITE), "--confcutdir", str(SUITE)]
    done = subprocess.run([python, "-m", "pytest", *options, str(SUITE / file)], env=variables, cwd=SUITE,
                          capture_output=True, text=True, timeout=FOR_EVER)  # fmt: skip
    assert done.returncode == 0, f"{done.stdout[-20_000:]}\n{done.stderr[-2_000:]}"


@pytest.mark.timeout(FOR_EVER)
@pytest.mark.parametrize("python", PYTHONS)
@pytest.mark.parametrize("file", sorted(found.name for found in SUITE.glob("test_*.py")))
def test_with_sqlite(file: str, python: str, tmp_path: Path) -> None:
    """The tests of a file pass with Django's tables in SQLite."""
    if file == "test_connections.py":
        pytest.skip("it looks at sessions of PostgreSQL")
    if file == "test_database_conformance.py" and python != sys.executable:
        pytest.skip("it is run on PostgreSQL there")
    run(python, file, tmp_path)


@pytest.mark.timeout(FOR_EVER)
@pytest.mark.parametrize("python", PYTHONS)
@pytest.mark.parametrize("file", ON_POSTGRESQL)
def test_with_postgresql(file: str, python: str, tmp_path: Path, shared_postgresql: PostgreSQLServer) -> None:
    """The tests of a file pass with Django's tables in PostgreSQL."""
    if file in ON_MARIADB and python == sys.executable and NEWEST.exists():
        pytest.skip("it is run on the newest version here")
    database = {"ENGINE": "django.db.backends.postgresql", "NAME": shared_postgresql.database(), "HOST": "127.0.0.1",
                "PORT": shared_postgresql.port, "USER": "postgres"}  # fmt: skip
    run(python, file, tmp_path, BAZAAR_DATABASE=json.dumps(database))


@pytest.mark.timeout(FOR_EVER)
@pytest.mark.parametrize("file", ON_MARIADB)
def test_with_mariadb(file: str, tmp_path: Path, shared_mariadb: MariaDBServer) -> None:
    """The tests of a file pass with Django's tables in MariaDB."""
    database = {"ENGINE": "django.db.backends.mysql", "NAME": shared_mariadb.database(), "HOST": "127.0.0.1",
                "PORT": shared_mariadb.port, "USER": "root"}  # fmt: skip
    run(sys.executable, file, tmp_path, BAZAAR_DATABASE=json.dumps(database))


@pytest.mark.timeout(FOR_EVER)
@pytest.mark.parametrize("python", PYTHONS)
def test_task_backend_on_a_broker_that_finds_no_message_by_its_id(python: str, tmp_path: Path, place: Place) -> None:
    """The backend of Django's tasks does what it does elsewhere, with RabbitMQ and results in SQLite."""
    run(python, "test_task_backend.py", tmp_path, BAZAAR_BROKER_URL=place.url)
