"""This process is the shop's web process, and its worker in threads: on memory, with a clock that leaps."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path

import pytest

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parents[2]), str(HERE.parents[2] / "examples" / "django_shop")]
os.environ["DJANGO_SETTINGS_MODULE"] = "settings_of_tests"

import django  # noqa: E402

django.setup()

from django.contrib.auth.models import User  # noqa: E402
from django.core import mail  # noqa: E402
from django.core.management import call_command  # noqa: E402
from django.db import connections  # noqa: E402
from django.test import Client  # noqa: E402
from django.test.utils import setup_test_environment, teardown_test_environment  # noqa: E402
from orders.models import Order  # noqa: E402
from shop import app  # noqa: E402
from stock.models import PriceList, Product  # noqa: E402

from celeriac import Celeriac  # noqa: E402


@pytest.fixture(scope="session")
def celeriac_project() -> Celeriac:
    app.import_tasks()
    return app


@pytest.fixture(scope="session")
def database() -> Iterator[None]:
    setup_test_environment()
    call_command("migrate", verbosity=0, run_syncdb=True)
    yield
    teardown_test_environment()


@pytest.fixture(autouse=True)
def clean(database: None) -> Iterator[None]:
    mail.outbox.clear()
    yield
    for model in (Order, Product, PriceList, User):
        model.objects.all().delete()
    connections.close_all()


@pytest.fixture
def tea() -> Product:
    return Product.objects.create(name="Tea", price=Decimal("4.20"), pieces=10)


@pytest.fixture
def cake() -> Product:
    return Product.objects.create(name="Cake", price=Decimal("3.50"), pieces=10)


@pytest.fixture
def staff(clean: None) -> Client:
    """A browser in which a superuser has logged in."""
    client = Client()
    client.force_login(User.objects.create_superuser("ada", "ada@example.org", "secret"))
    return client
