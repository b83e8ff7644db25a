"""The tests of the example `examples/django_shop` (`shop/`), on each version of Django and each of two databases."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.django.projects import ROOT, in_postgresql, in_sqlite, run_tests
from tests.django.pythons import NEWEST, PYTHONS, needs_newest
from tests.patience import FOR_EVER
from tests.postgresql_server import PostgreSQLServer

SHOP = ROOT / "tests" / "django" / "shop"


@pytest.mark.timeout(FOR_EVER)
def test_the_shop_with_sqlite(tmp_path: Path) -> None:
    run_tests(sys.executable, SHOP, SHOP_DATABASE=in_sqlite(tmp_path / "shop.sqlite3"))


@pytest.mark.timeout(FOR_EVER)
@needs_newest
def test_the_shop_with_postgresql_and_the_newest_django(shared_postgresql: PostgreSQLServer) -> None:
    run_tests(str(NEWEST), SHOP, SHOP_DATABASE=in_postgresql(shared_postgresql))


@pytest.mark.at_length
@pytest.mark.timeout(FOR_EVER)
@pytest.mark.parametrize("python", PYTHONS)
def test_the_shop_with_each_django_on_each_database(python: str, tmp_path: Path,
                                                    shared_postgresql: PostgreSQLServer) -> None:  # fmt: skip
    for database in (in_sqlite(tmp_path / "shop.sqlite3"), in_postgresql(shared_postgresql)):
        run_tests(python, SHOP, SHOP_DATABASE=database)
