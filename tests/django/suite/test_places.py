"""How entries of DATABASES become arguments of drivers: nothing of the entry is lost, no password is in a URL."""

from __future__ import annotations

from typing import Any

import pytest
from django.db import connections
from django.db.backends.postgresql.base import DatabaseWrapper

from celeriac.contrib.django.db import place
from celeriac.contrib.django.db.alias import alias_of
from celeriac.drivers.sql.address import Address
from celeriac.errors import ImproperlyConfigured
from tests import test_public_names as public_names


def test_modules_with_models_say_exactly_what_they_offer() -> None:
    modules = public_names.read(public_names.OF_DJANGO)
    public_names.test_all_is_exact(modules)
    public_names.test_every_module_says_what_it_is(modules)
    public_names.test_every_public_class_and_function_is_offered(modules)
    public_names.test_a_name_that_another_module_imports_is_offered_by_the_module_that_defines_it(modules)


def postgresql(**settings: Any) -> tuple[str, dict[str, Any]]:
    connections.settings["elsewhere"] = connections.configure_settings(
        {"default": {}, "elsewhere": {"ENGINE": "django.db.backends.postgresql", "NAME": "shop", **settings}}
    )["elsewhere"]
    try:
        found = place.place_of("elsewhere")
    finally:
        del connections.settings["elsewhere"]
        del connections["elsewhere"]
    return found.url, found.arguments


def test_a_server_its_user_and_its_options() -> None:
    url, arguments = postgresql(HOST="db.example", PORT="5433", USER="ann", PASSWORD="p@ss/word",
                                OPTIONS={"sslmode": "verify-full", "sslrootcert": "/ca.crt", "application_name": "shop",
                                         "options": "-c search_path=app", "isolation_level": 3, "pool": False,
                                         "server_side_binding": True})  # fmt: skip
    assert url == "db+postgresql+psycopg://ann@db.example:5433/shop"
    assert Address(url).host == "db.example:5433"
    chosen = {name: arguments.get(name) for name in ("dbname", "user", "password", "host", "port", "sslmode",
                                                     "sslrootcert", "application_name", "options")}  # fmt: skip
    assert chosen == {"dbname": "shop", "user": "ann", "password": "p@ss/word", "host": "db.example", "port": "5433",
                      "sslmode": "verify-full", "sslrootcert": "/ca.crt", "application_name": "shop",
                      "options": "-c search_path=app"}  # fmt: skip
    assert not {"context", "cursor_factory", "isolation_level", "pool", "server_side_binding"} & set(arguments)


@pytest.mark.parametrize("host", ["/var/run/postgresql", "one.example,two.example"])
def test_sockets_and_several_hosts_are_left_to_the_driver(host: str) -> None:
    url, arguments = postgresql(HOST=host)
    assert url == "db+postgresql+psycopg:///shop"
    assert arguments["host"] == host


def test_a_service_needs_no_name() -> None:
    url, arguments = postgresql(NAME="", OPTIONS={"service": "shop"})
    assert url == "db+postgresql+psycopg://"
    assert arguments["service"] == "shop"


def test_the_role_that_django_assumes_is_assumed() -> None:
    _, arguments = postgresql(OPTIONS={"assume_role": "the owner", "options": "-c search_path=app"})
    assert arguments["options"] == "-c search_path=app -c role=the\\ owner"


@pytest.mark.parametrize(("url", "why"), [
    ("django-db://nowhere", "DATABASES has no 'nowhere'"),
    ("django-db://archiv", "Did you mean 'archive'"),
    ("django-db://default/table", "more than an alias"),
    ("django-db://ann@default", "more than an alias"),
])  # fmt: skip
def test_other_urls_are_refused(url: str, why: str) -> None:
    with pytest.raises(ImproperlyConfigured, match=why):
        alias_of(url)


def test_kinds_that_cannot_keep_results_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(DatabaseWrapper, "vendor", "oracle")
    with pytest.raises(ImproperlyConfigured, match=r"another URL, such as db\+oracle"):
        postgresql()
