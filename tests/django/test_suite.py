"""A Django project's own tests (`suite/`), on each version of Django that is here, in few processes.

Django's settings hold for a whole process, so these tests cannot run in this one. A process takes three seconds to
import all of it and to make its tables, so files with the same settings share one. Django 5.2 is installed beside
Celeriac; the newest version needs Python 3.12, and an environment of its own (`make django`).
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

import pytest

from tests.django.projects import ROOT, in_postgresql, in_sqlite, run_tests
from tests.django.pythons import NEWEST
from tests.mariadb_server import MariaDBServer
from tests.patience import FOR_EVER, PATIENCE
from tests.postgresql_server import PostgreSQLServer
from tests.rabbitmq_server import Place

SUITE = ROOT / "tests" / "django" / "suite"


class Group(NamedTuple):
    """Files that run in one process, in this order: they have the same settings, and may share a worker."""

    python: str
    files: tuple[str, ...]
    at_length: bool = False


DJANGO52: Final = sys.executable
NEWEST_DJANGO: Final = str(NEWEST if NEWEST.exists() else sys.executable)
"""Without an environment for it, all runs are on Django 5.2."""
ON_SQLITE: Final = {
    # What depends on Django's version, on both; what depends on a database, once on each, with either version.
    "results-in-django52": Group(DJANGO52, ("test_database_conformance.py", "test_periodic_tasks.py", "test_admin.py",
                                            "test_database.py")),  # the last has a worker, which the others lack
    "results-in-newest": Group(NEWEST_DJANGO, ("test_admin.py", "test_places.py")),
    "results-in-sqlite-django52": Group(DJANGO52, ("test_on_commit.py", "test_task_backend.py")),
    "results-in-sqlite-newest": Group(NEWEST_DJANGO, ("test_migrate_beat.py", "test_mail.py", "test_project.py",
                                                      "test_task_backend.py", "test_views.py")),
    "shared-file": Group(NEWEST_DJANGO, ("test_shared_file.py",)),
    "without-time-zones": Group(NEWEST_DJANGO, ("test_without_time_zones.py",)),
    "others-with-django52": Group(DJANGO52, ("test_mail.py", "test_project.py", "test_views.py"), at_length=True),
    "places-with-django52": Group(DJANGO52, ("test_places.py",), at_length=True),
    "shared-file-with-django52": Group(DJANGO52, ("test_shared_file.py",), at_length=True),
}  # fmt: skip
ON_POSTGRESQL: Final = {
    "results-in-django": Group(NEWEST_DJANGO, ("test_database_conformance.py", "test_periodic_tasks.py",
                                               "test_database.py")),
    "results-in-sqlite": Group(NEWEST_DJANGO, ("test_connections.py", "test_arguments.py", "test_on_commit.py")),
    "connections-with-django52": Group(DJANGO52, ("test_connections.py", "test_arguments.py"), at_length=True),
}  # fmt: skip
ON_MARIADB: Final = {
    "database": Group(DJANGO52, ("test_database.py",)),
    "others": Group(DJANGO52, ("test_database_conformance.py", "test_periodic_tasks.py"), at_length=True),
}
IN_DJANGO: Final = {"test_admin.py", "test_database.py", "test_periodic_tasks.py", "test_without_time_zones.py"}
"""The files that have their results in `django-db://`."""
WITH_MODELS: Final = {*IN_DJANGO, "test_database_conformance.py", "test_places.py"}
"""The files that need `celeriac.contrib.django.db`. For the others it would make each process slower to start."""
SHARING: Final = "test_shared_file.py"
"""The file whose broker is in Django's database."""


def run(group: Group, folder: Path, **environment: str) -> None:
    """Run files of the suite. Fails with what they have printed."""
    variables = {"BAZAAR_FOLDER": str(folder), **environment}
    files = set(group.files)
    if "test_without_time_zones.py" in files:
        variables["BAZAAR_WITHOUT_ZONES"] = "1"
    if not files & WITH_MODELS:
        variables["BAZAAR_WITHOUT_MODELS"] = "1"
    if files & IN_DJANGO:
        variables["BAZAAR_RESULT_BACKEND"] = "django-db://"
    if SHARING in files and "BAZAAR_DATABASE" not in environment:
        shared = folder / "bazaar.sqlite3"
        variables |= {"BAZAAR_DATABASE": in_sqlite(shared), "BAZAAR_BROKER_URL": f"sqlite:///{shared}",
                      "BAZAAR_RESULT_BACKEND": f"sqlite:///{shared}"}  # fmt: skip
    run_tests(group.python, SUITE, *(str(SUITE / file) for file in group.files), **variables)


def each(groups: Mapping[str, Group]) -> list[Any]:
    """Return the parameters of runs."""
    return [
        pytest.param(group, id=name, marks=[pytest.mark.at_length] if group.at_length else [])
        for name, group in groups.items()
    ]


def test_each_file_of_the_suite_is_run() -> None:
    groups = [*ON_SQLITE.values(), *ON_POSTGRESQL.values()]
    run = {file for group in groups if not group.at_length for file in group.files}
    assert {found.name for found in SUITE.glob("test_*.py")} == run


@pytest.mark.timeout(FOR_EVER)
@pytest.mark.parametrize("group", each(ON_SQLITE))
def test_with_sqlite(group: Group, tmp_path: Path) -> None:
    """The tests of these files pass with Django's tables in SQLite."""
    run(group, tmp_path)


@pytest.mark.timeout(FOR_EVER)
@pytest.mark.parametrize("group", each(ON_POSTGRESQL))
def test_with_postgresql(group: Group, tmp_path: Path, shared_postgresql: PostgreSQLServer) -> None:
    """The tests of these files pass with Django's tables in PostgreSQL."""
    run(group, tmp_path, BAZAAR_DATABASE=in_postgresql(shared_postgresql))


@pytest.mark.timeout(FOR_EVER)
@pytest.mark.parametrize("group", each(ON_MARIADB))
def test_with_mariadb(group: Group, tmp_path: Path, shared_mariadb: MariaDBServer) -> None:
    """The tests of these files pass with Django's tables in MariaDB."""
    database = {"ENGINE": "django.db.backends.mysql", "NAME": shared_mariadb.database(), "HOST": "127.0.0.1",
                "PORT": shared_mariadb.port, "USER": "root"}  # fmt: skip
    run(group, tmp_path, BAZAAR_DATABASE=json.dumps(database))


@pytest.mark.timeout(FOR_EVER)
def test_task_backend_on_a_broker_that_finds_no_message_by_its_id(tmp_path: Path, place: Place) -> None:
    """The backend of Django's tasks does what it does elsewhere, with RabbitMQ and results in SQLite."""
    run(Group(DJANGO52, ("test_task_backend.py",)), tmp_path, BAZAAR_BROKER_URL=place.url,
        CELERIAC_BROKER_PUBLISH_TIMEOUT=str(PATIENCE))  # fmt: skip
