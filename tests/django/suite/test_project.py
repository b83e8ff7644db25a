"""Settings, discovery, the command of manage.py, and what a worker does before it starts."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from bazaar import app
from django.core.management import CommandError, call_command

from celeriac import Celeriac
from celeriac.errors import ImproperlyConfigured
from conftest import FOLDER, HERE
from tests.patience import PATIENCE


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *arguments], cwd=HERE, env={**os.environ, **environment}, timeout=PATIENCE,
                          capture_output=True, text=True)  # fmt: skip


def test_settings_with_the_prefix_are_read() -> None:
    assert app.conf.result_backend == f"sqlite:///{FOLDER}/celeriac.db"
    assert app.conf.worker_lease_seconds == 60


def test_names_that_celery_has_too_are_read_under_its_prefix() -> None:
    from django.conf import settings

    settings.CELERY_TASK_ACKS_LATE = False
    try:
        other = Celeriac("other", environ={})
        other.config_from_object("django.conf:settings", namespace="CELERY")
    finally:
        del settings.CELERY_TASK_ACKS_LATE
    assert other.conf.task_acks_late is False


def read(app: Celeriac) -> Celeriac:
    app.config_from_object("django.conf:settings", namespace="CELERY")
    return app


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("CELERY_TASK_ACK_LATE", True, r"CELERY_TASK_ACK_LATE: .*'task_acks_late'"),
        ("CELERY_RESULT_BACKEND", "django-db", r"django-db"),
        ("CELERY_BEAT_SCHEDULER", "django_celery_beat.schedulers:DatabaseScheduler", "CELERY_BEAT_SCHEDULER: .*remove"),
        ("CELERY_TASK_TIME_LIMIT", "long", r"CELERY_TASK_TIME_LIMIT: task_time_limit"),
    ],
)
def test_settings_of_celery_that_mean_nothing_here_are_refused(name: str, value: object, text: str) -> None:
    from django.conf import settings

    setattr(settings, name, value)
    try:
        other = Celeriac("other", environ={})
        with pytest.raises(ImproperlyConfigured, match=text):
            _ = read(other).backend
    finally:
        delattr(settings, name)


def test_all_mistakes_are_in_one_error() -> None:
    other = Celeriac("other", environ={})
    with pytest.raises(ImproperlyConfigured, match=r"2 mistakes[\s\S]*SHOP_BROKER_URI: [\s\S]*SHOP_TASK_ACKS_LATE: "):
        other.config_from_object({"SHOP_BROKER_URI": "", "SHOP_TASK_ACKS_LATE": 3, "OTHER": 1}, namespace="SHOP")


def test_tasks_of_installed_apps_are_found_and_not_those_of_celeriac_itself() -> None:
    app.import_tasks()
    assert {"shop.tasks.add", "shop.tasks.total", "django.run", "django.arun"} <= set(app.tasks)
    assert "celeriac.contrib.django" not in app.framework.packages()


def test_discovery_without_packages_needs_a_project() -> None:
    other = Celeriac("other", environ={})
    other.autodiscover_tasks()
    with pytest.raises(ImproperlyConfigured, match=r"config_from_object\(\"django.conf:settings\""):
        other.import_tasks()


def test_sending_on_commit_needs_a_project() -> None:
    other = Celeriac("other", environ={})
    task = other.task(name="nothing")(lambda: None)
    with pytest.raises(ImproperlyConfigured, match="delay_on_commit"):
        task.delay_on_commit()


@pytest.mark.parametrize("command", [["manage.py", "celeriac"], ["-m", "celeriac", "-A", "bazaar"]])
def test_the_command_finds_the_app(command: list[str]) -> None:
    done = run(*command, "call", "shop.tasks.add", "--args", "[2, 2]")
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.strip()) == 36


def test_options_of_django_may_stand_after_the_command() -> None:
    done = run("manage.py", "celeriac", "--settings=bazaar.settings", "queues", DJANGO_SETTINGS_MODULE="no")
    assert done.returncode == 0, done.stderr
    assert "urgent" in done.stdout, done.stdout


def test_help_is_that_of_the_command_line() -> None:
    done = run("manage.py", "celeriac", "worker", "--help")
    assert "Run a worker until it is stopped." in done.stdout


def test_a_failing_command_has_its_exit_code() -> None:
    assert run("manage.py", "celeriac", "work").returncode == 2
    with pytest.raises(CommandError):
        call_command("celeriac", "work")


def test_a_worker_refuses_to_start_with_errors_of_the_system_checks() -> None:
    done = run("manage.py", "celeriac", "worker", BAZAAR_BROKEN="1")
    assert done.returncode == 2
    assert "Django's system checks found 1 error" in done.stderr
    assert "bazaar.E001" in done.stderr


def test_a_worker_can_be_told_to_skip_the_checks(start_worker) -> None:
    start_worker(BAZAAR_BROKEN="1", CELERIAC_SKIP_CHECKS="1").ready()


def test_a_worker_logs_warnings_of_the_system_checks(start_worker) -> None:
    assert "bazaar.W001" in start_worker(BAZAAR_WARNS="1").ready().text()


def test_a_worker_refuses_to_fork_within_a_transaction() -> None:
    done = run("manage.py", "celeriac", "worker", BAZAAR_IN_TRANSACTION="1")
    assert done.returncode == 2
    assert "A transaction of the database 'default' is open while the worker starts" in done.stderr
