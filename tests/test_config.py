"""Settings, from wherever they come; and the routing table."""

from __future__ import annotations

import re
import types
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from celeriac import Celeriac
from celeriac.config.celery_settings import NOT_NEEDED
from celeriac.config.definitions import DEFINITIONS
from celeriac.config.settings import Settings
from celeriac.errors import ImproperlyConfigured
from celeriac.model.routing import Routes


def test_every_setting_has_a_type_a_default_and_a_meaning() -> None:
    settings = Settings()
    assert set(settings) == set(DEFINITIONS)
    assert all(setting.help for setting in DEFINITIONS.values())
    assert settings.changed() == {}


def test_values_are_checked_and_brought_into_their_plain_form() -> None:
    settings = Settings({"task_time_limit": timedelta(minutes=1), "task_queues": ("a", "b"), "result_expires": None})
    assert settings.changed() == {"task_time_limit": 60.0, "task_queues": ["a", "b"], "result_expires": None}
    settings.worker_lease_seconds = timedelta(seconds=5)  # type: ignore[assignment]
    assert settings.worker_lease_seconds == 5.0


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("worker_concurrency", 0), ("worker_concurrency", "two"), ("task_acks_late", "yes"),
        ("task_default_priority", 10),
        ("worker_pool", "gevent"), ("task_queues", "mail"), ("worker_lease_seconds", 0), ("result_expires", "1d"),
        ("message_max_bytes", -1), ("task_routes", "mail"), ("task_routes", {"a": {"nope": 1}}), ("broker_url", 3),
        ("sqlite_synchronous", "off"), ("task_time_limit", float("nan")), ("broker_url", b"x"),
        ("task_serializer", "yaml"), ("result_serializer", "yaml"), ("accept_content", ["jason"]),
        ("task_default_rate_limit", "x"), ("task_default_rate_limit", "0/s"), ("result_expires", -1),
        ("task_time_limit", 0), ("task_soft_time_limit", timedelta()),
        ("task_time_limit", -1), ("task_max_retries", -1), ("worker_grace_seconds", timedelta(seconds=-1)),
    ],
)  # fmt: skip
def test_a_value_of_the_wrong_kind_is_refused_and_its_setting_named(name: str, value: Any) -> None:
    with pytest.raises(ImproperlyConfigured, match=name):
        Settings({name: value})
    settings = Settings()
    with pytest.raises(ImproperlyConfigured, match=name):
        setattr(settings, name, value)
    assert settings.changed() == {}


def test_results_that_expire_after_no_time_are_kept_for_ever_as_in_celery() -> None:
    for nothing in (0, 0.0, timedelta()):
        assert Settings({"result_expires": nothing}).result_expires is None
    assert Settings(environ={"CELERIAC_RESULT_EXPIRES": "0"}).result_expires is None


def test_a_serializer_that_is_unknown_is_refused_with_the_nearest_and_the_known() -> None:
    with pytest.raises(ImproperlyConfigured, match=r"^accept_content: .*'jason'. Did you mean 'json'\? Known: js"):
        Settings({"accept_content": ["json", "jason"]})
    with pytest.raises(ImproperlyConfigured, match=r"CELERIAC_RESULT_SERIALIZER in the environment.*register_serial"):
        Settings(environ={"CELERIAC_RESULT_SERIALIZER": "yaml"})


def test_an_unknown_setting_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(ImproperlyConfigured, match=r"no setting 'task_ack_late'. Did you mean 'task_acks_late'"):
        Settings({"task_ack_late": True})
    settings = Settings()
    with pytest.raises(ImproperlyConfigured, match="Did you mean 'broker_url'"):
        settings.brokr_url = "x"  # type: ignore[attr-defined]
    with pytest.raises(AttributeError, match="Did you mean 'broker_url'"):
        _ = settings.brokr_url


@pytest.mark.parametrize(
    ("name", "meant"),
    [("include", "imports"), ("CELERY_BROKER_URL", "broker_url"), ("CELERIAC_BROKER_URL", "broker_url"),
     ("BROKER_URL", "broker_url"), ("CELERY_INCLUDE", "imports"), ("CELERY_TASK_ACK_LATE", "task_acks_late"),
     ("CELERYD_CONCURRENCY", "worker_concurrency"), ("CELERY_ALWAYS_EAGER", "task_always_eager")],
)  # fmt: skip
def test_a_setting_by_celerys_name_or_in_capitals_is_answered_with_its_name_here(name: str, meant: str) -> None:
    with pytest.raises(ImproperlyConfigured, match=f"no setting '{name}'. Did you mean '{meant}'"):
        Settings({name: "x"})


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [("worker_concurrency", "4", "takes a whole number or None, not '4'."),
     ("task_acks_late", "yes", "takes True or False, not 'yes'."),
     ("broker_url", 3, "takes text or None, not 3."), ("imports", "shop", "takes a list of names, not 'shop'.")],
)  # fmt: skip
def test_a_value_of_a_wrong_type_is_an_error_that_names_the_right_one(name: str, value: Any, words: str) -> None:
    with pytest.raises(ImproperlyConfigured, match=re.escape(f"{name} {words}")):
        Settings({name: value})


def test_a_setting_of_celerys_that_is_not_needed_says_why() -> None:
    for name, why in NOT_NEEDED.items():
        with pytest.raises(ImproperlyConfigured, match=re.escape(f"{name} is not needed: {why}.")):
            Settings({name: 1})


def test_every_mistake_is_reported_at_once() -> None:
    with pytest.raises(ImproperlyConfigured) as caught:
        Settings(
            {"nope": 1, "worker_pool": "green"}, {"CELERIAC_TASK_DEFAULT_PRIORITY": "99", "CELERIAC_BROKR_URL": "x"}
        )
    text = str(caught.value)
    assert text.startswith("4 mistakes")
    for part in ("'nope'", "worker_pool", "CELERIAC_TASK_DEFAULT_PRIORITY in the environment", "CELERIAC_BROKR_URL"):
        assert part in text


def test_nothing_is_set_when_anything_is_wrong() -> None:
    settings = Settings()
    with pytest.raises(ImproperlyConfigured):
        settings.update(task_acks_late=False, nope=1)
    assert settings.changed() == {}


# --- The environment ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("variable", "text", "value"),
    [
        ("TASK_ACKS_LATE", "0", False), ("TASK_ACKS_LATE", "Yes", True), ("WORKER_CONCURRENCY", "4", 4),
        ("WORKER_CONCURRENCY", "", None), ("TASK_QUEUES", "a, b", ["a", "b"]), ("TASK_QUEUES", '["a"]', ["a"]),
        ("BROKER_URL", "123", "123"), ("RESULT_EXPIRES", "1.5", 1.5), ("TASK_ROUTES", '{"a.*": "b"}', {"a.*": "b"}),
    ],
)  # fmt: skip
def test_the_environment_is_read_as_the_settings_type(variable: str, text: str, value: Any) -> None:
    assert getattr(Settings(environ={f"CELERIAC_{variable}": text}), variable.lower()) == value


def test_json_that_is_broken_in_the_environment_is_no_name() -> None:
    with pytest.raises(ImproperlyConfigured, match="CELERIAC_TASK_QUEUES in the environment: this is no JSON"):
        Settings(environ={"CELERIAC_TASK_QUEUES": '["mail"'})


def test_the_environment_beats_the_file_and_an_assignment_beats_both() -> None:
    environ = {"CELERIAC_WORKER_CONCURRENCY": "2", "CELERIAC_APP": "x", "PATH": "y"}
    settings = Settings({"worker_concurrency": 1}, environ)
    assert settings.worker_concurrency == 2
    settings.update(worker_concurrency=3, task_track_started=True)
    assert (settings.worker_concurrency, settings.task_track_started) == (2, True)
    settings.worker_concurrency = 4
    assert settings.worker_concurrency == 4


# --- Files and modules --------------------------------------------------------------------------------


def test_settings_come_from_a_toml_file(tmp_path: Path, app: Celeriac) -> None:
    file = tmp_path / "celeriac.toml"
    file.write_text('worker_concurrency = 3\n[task_routes]\n"mail.*" = "mail"\n')
    app.config_from_file(file)
    assert app.conf.worker_concurrency == 3
    assert "mail" in app.queues


def test_settings_come_from_the_table_of_a_pyproject(tmp_path: Path, app: Celeriac) -> None:
    file = tmp_path / "pyproject.toml"
    file.write_text("[project]\nname = 'x'\n[tool.celeriac]\ntask_acks_late = false\n")
    app.config_from_file(file)
    assert app.conf.changed()["task_acks_late"] is False


def test_a_file_that_is_missing_or_no_toml_is_named(tmp_path: Path, app: Celeriac) -> None:
    (tmp_path / "bad.toml").write_text("= 3")
    (tmp_path / "latin1.toml").write_bytes("# größer\n".encode("latin-1"))
    for name in ("bad.toml", "latin1.toml", "missing.toml"):
        with pytest.raises(ImproperlyConfigured, match=name):
            app.config_from_file(tmp_path / name)


def test_settings_come_from_a_module(monkeypatch: pytest.MonkeyPatch, app: Celeriac) -> None:
    module = types.ModuleType("shop_settings")
    exec("import os\nfrom datetime import timedelta\nworker_concurrency = 5\nDEBUG = True\n_x = 1\ndef helper(): ...",
         module.__dict__)  # fmt: skip
    monkeypatch.setitem(__import__("sys").modules, "shop_settings", module)
    app.config_from_object("shop_settings")
    assert app.conf.worker_concurrency == 5
    module.worker_concurency = 5  # type: ignore[attr-defined]
    with pytest.raises(ImproperlyConfigured, match="Did you mean 'worker_concurrency'"):
        app.config_from_object("shop_settings")


def test_settings_in_capitals_are_refused_and_not_overlooked(app: Celeriac) -> None:
    class OfCelery3:
        BROKER_URL = "redis://localhost"
        CELERY_RESULT_BACKEND = "redis://localhost"
        CELERYD_CONCURRENCY = 4
        CELERY_LOG_FOLDER = "/var/log"
        DEBUG = True

    with pytest.raises(ImproperlyConfigured) as caught:
        app.config_from_object(OfCelery3)
    lines = str(caught.value).splitlines()
    assert lines[0] == "3 mistakes in the configuration:"
    assert lines[1] == "  - There is no setting 'BROKER_URL'. Did you mean 'broker_url'?"
    assert lines[2] == "  - There is no setting 'CELERYD_CONCURRENCY'. Did you mean 'worker_concurrency'?"
    assert app.conf.worker_concurrency is None


def test_a_constant_in_capitals_beside_its_setting_is_no_mistake(app: Celeriac) -> None:
    class Both:
        BROKER_URL = "memory://there"
        broker_url = BROKER_URL

    app.config_from_object(Both)
    assert app.conf.broker_url == "memory://there"


@pytest.mark.parametrize("name", ["task_send_sent_event", "broker_pool_limit", "task_annotations", "worker_state_db"])
def test_a_setting_of_celerys_is_not_mistaken_for_another(name: str) -> None:
    with pytest.raises(ImproperlyConfigured, match=f"^{name} is not needed: "):
        Settings({name: "x"})


def test_settings_come_from_an_object_with_a_namespace(app: Celeriac) -> None:
    class DjangoSettings:
        DEBUG = True
        CELERIAC_WORKER_CONCURRENCY = 6
        celeriac_lower = 1

    app.config_from_object(DjangoSettings, namespace="CELERIAC")
    assert app.conf.worker_concurrency == 6
    DjangoSettings.CELERIAC_NOPE = 1  # type: ignore[attr-defined]
    with pytest.raises(ImproperlyConfigured, match="nope"):
        app.config_from_object(DjangoSettings, namespace="CELERIAC")


def test_a_module_or_a_part_of_it_that_does_not_exist_is_named(app: Celeriac) -> None:
    with pytest.raises(ImproperlyConfigured, match="no_such_module"):
        app.config_from_object("no_such_module")
    with pytest.raises(ImproperlyConfigured, match="os:nope"):
        app.config_from_object("os:nope")


def test_a_change_reaches_tasks_that_were_made_before(app: Celeriac) -> None:
    @app.task
    def add(x: int) -> int:
        return x

    assert add.s(1).message().queue == "default"
    app.conf.task_default_queue = "other"
    assert add.s(1).message().queue == "other"
    app.conf.task_routes = {"*": "routed"}
    assert add.s(1).message().queue == "routed"
    app.conf.task_max_retries = 9
    assert add.retry_policy(add.s(1).message()).max_retries == 9


def test_a_default_that_is_changed_in_place_is_changed_for_one_app_alone() -> None:
    for name, definition in DEFINITIONS.items():
        if isinstance(definition.default, list | dict):
            first, second = Settings(), Settings()
            value = getattr(first, name)
            value.append("x") if isinstance(value, list) else value.update(x={})
            assert first.changed() == {name: value}
            assert not first.is_default(name)
            assert (second.changed(), Settings().changed()) == ({}, {})


@pytest.mark.parametrize("url", ["redsi://x", "nonsense", "", "sqlite:/x"])
def test_a_url_that_nothing_serves_is_refused_with_what_is_known(url: str, app: Celeriac) -> None:
    app.conf.broker_url = url or "://"
    with pytest.raises(ImproperlyConfigured, match=r"Known: .*sqlite://"):
        _ = app.broker


def test_a_url_without_a_scheme_is_answered_with_one_and_with_the_setting(app: Celeriac) -> None:
    app.conf.broker_url = "localhost:6379"
    with pytest.raises(ImproperlyConfigured, match=r"the setting `broker_url`\. A URL begins with .* redis://local"):
        _ = app.broker


def test_a_mistyped_scheme_is_answered_with_the_nearest_one(app: Celeriac) -> None:
    app.conf.broker_url = "redsi://x"
    with pytest.raises(ImproperlyConfigured, match="Did you mean 'redis://'"):
        _ = app.broker


def test_an_app_without_settings_keeps_its_messages_beside_the_file_that_makes_it() -> None:
    assert Celeriac(environ={}).broker_url == f"sqlite:///{Path(__file__).resolve().parent / 'celeriac.db'}"


# --- Routes -------------------------------------------------------------------------------------------


def test_the_first_route_that_matches_counts() -> None:
    urgent = {"queue": "fast", "priority": 9}
    routes = Routes([("mail.urgent", urgent), ("mail.*", "mail"), (re.compile(r".*\.b"), "b")])
    assert routes.route("mail.urgent") == {"queue": "fast", "priority": 9}
    assert routes.route("mail.b") == {"queue": "mail"}
    assert routes.route("x.b") == {"queue": "b"}
    assert routes.route("x.c") == {}
    assert routes.queues() == {"fast", "mail", "b"}


def test_routes_are_written_as_a_dict_or_a_list_of_dicts_or_pairs() -> None:
    for written in ({"a.*": "q"}, [{"a.*": "q"}], [["a.*", "q"]], (("a.*", {"queue": "q"}),)):
        assert Routes(written).route("a.x") == {"queue": "q"}
    assert Routes(None).route("a") == {}


@pytest.mark.parametrize(
    "routes", ["mail", 3, {"a": 3}, {3: "a"}, {"a": {"exchange": "x"}}, [3], [("a", "b", "c")], [()]]
)
def test_routes_that_make_no_sense_are_refused(routes: Any) -> None:
    with pytest.raises(ImproperlyConfigured, match="task_routes"):
        Routes(routes)
