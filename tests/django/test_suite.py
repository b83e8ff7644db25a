"""A Django project's own tests (`suite/`), on each version of Django that is here, each file in a process of its own.

Django's settings hold for a whole process, so these tests cannot run in this one. Django 5.2 is installed beside
Celeriac; the newest version needs Python 3.12, and an environment of its own (`make django`).
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final

import pytest

from tests.django.projects import ROOT, in_postgresql, in_sqlite, run_tests
from tests.django.pythons import NEWEST
from tests.mariadb_server import MariaDBServer
from tests.patience import FOR_EVER
from tests.postgresql_server import PostgreSQLServer
from tests.rabbitmq_server import Place

SUITE = ROOT / "tests" / "django" / "suite"

BOTH: Final = ("django52", "newest")
EITHER: Final = ("newest", "django52 at length")
ON_SQLITE: Final = {
    # What depends on Django's version, on both; what depends on a database, once on each, with either version.
    "test_admin.py": BOTH,
    "test_database.py": ("django52",),
    "test_database_conformance.py": ("django52",),
    "test_mail.py": EITHER,
    "test_migrate_beat.py": ("newest",),
    "test_on_commit.py": ("django52",),
    "test_periodic_tasks.py": ("django52",),
    "test_places.py": EITHER,
    "test_project.py": EITHER,
    "test_shared_file.py": EITHER,
    "test_task_backend.py": BOTH,
    "test_views.py": EITHER,
    "test_without_time_zones.py": ("newest",),
}
ON_POSTGRESQL: Final = {
    "test_arguments.py": EITHER,
    "test_connections.py": EITHER,
    "test_database.py": ("newest",),
    "test_database_conformance.py": ("newest",),
    "test_on_commit.py": ("newest",),
    "test_periodic_tasks.py": ("newest",),
}
ON_MARIADB: Final = {
    "test_database.py": ("django52",),
    "test_database_conformance.py": ("django52 at length",),
    "test_periodic_tasks.py": ("django52 at length",),
}
IN_DJANGO: Final = ("test_admin.py", "test_database.py", "test_periodic_tasks.py", "test_without_time_zones.py")
"""The files that have their results in `django-db://`."""
WITH_MODELS: Final = (*IN_DJANGO, "test_database_conformance.py", "test_places.py")
"""The files that need `celeriac.contrib.django.db`. For the others it would make each process slower to start."""
SHARING: Final = "test_shared_file.py"
"""The file whose broker is in Django's database."""


def run(python: str, file: str, folder: Path, **environment: str) -> None:
    """Run a file of the suite. Fails with what it has printed."""
    variables = {"BAZAAR_FOLDER": str(folder), **environment}
    if file == "test_without_time_zones.py":
        variables["BAZAAR_WITHOUT_ZONES"] = "1"
    if file not in WITH_MODELS:
        variables["BAZAAR_WITHOUT_MODELS"] = "1"
    if file in IN_DJANGO:
        variables["BAZAAR_RESULT_BACKEND"] = "django-db://"
    if file == SHARING and "BAZAAR_DATABASE" not in environment:
        shared = folder / "bazaar.sqlite3"
        variables |= {"BAZAAR_DATABASE": in_sqlite(shared), "BAZAAR_BROKER_URL": f"sqlite:///{shared}",
                      "BAZAAR_RESULT_BACKEND": f"sqlite:///{shared}"}  # fmt: skip
    run_tests(python, SUITE, str(SUITE / file), **variables)


def each(runs: Mapping[str, Iterable[str]]) -> list[Any]:
    """Return the parameters of runs: without an environment for the newest Django, all are on the other one."""
    return [
        pytest.param(file, str(NEWEST if version == "newest" else sys.executable), id=f"{file}-{version}",
                     marks=[pytest.mark.at_length] if version.endswith("at length") else [])
        for file, versions in runs.items()
        for version in (versions if NEWEST.exists() else ["django52"])
    ]


def test_each_file_of_the_suite_is_run() -> None:
    assert {found.name for found in SUITE.glob("test_*.py")} == {*ON_SQLITE, *ON_POSTGRESQL}


@pytest.mark.timeout(FOR_EVER)
@pytest.mark.parametrize(("file", "python"), each(ON_SQLITE))
def test_with_sqlite(file: str, python: str, tmp_path: Path) -> None:
    """The tests of a file pass with Django's tables in SQLite."""
    run(python, file, tmp_path)


@pytest.mark.timeout(FOR_EVER)
@pytest.mark.parametrize(("file", "python"), each(ON_POSTGRESQL))
def test_with_postgresql(file: str, python: str, tmp_path: Path, shared_postgresql: PostgreSQLServer) -> None:
    """The tests of a file pass with Django's tables in PostgreSQL."""
    run(python, file, tmp_path, BAZAAR_DATABASE=in_postgresql(shared_postgresql))


@pytest.mark.timeout(FOR_EVER)
@pytest.mark.parametrize(("file", "python"), each(ON_MARIADB))
def test_with_mariadb(file: str, python: str, tmp_path: Path, shared_mariadb: MariaDBServer) -> None:
    """The tests of a file pass with Django's tables in MariaDB."""
    database = {"ENGINE": "django.db.backends.mysql", "NAME": shared_mariadb.database(), "HOST": "127.0.0.1",
                "PORT": shared_mariadb.port, "USER": "root"}  # fmt: skip
    run(python, file, tmp_path, BAZAAR_DATABASE=json.dumps(database))


@pytest.mark.timeout(FOR_EVER)
def test_task_backend_on_a_broker_that_finds_no_message_by_its_id(tmp_path: Path, place: Place) -> None:
    """The backend of Django's tasks does what it does elsewhere, with RabbitMQ and results in SQLite."""
    run(sys.executable, "test_task_backend.py", tmp_path, BAZAAR_BROKER_URL=place.url)
