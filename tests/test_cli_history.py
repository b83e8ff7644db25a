"""`celeriac stats`, and what `celeriac tasks` shows of the history; failed tasks that are sent again."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
import pytest

from celeriac import Celeriac, states
from celeriac.cli import main
from celeriac.cli.audit import operator
from celeriac.errors import BackendError, ImproperlyConfigured
from celeriac.inspector import Inspector
from celeriac.model.history import SLOT, Attempt, Batch, FailureSignature, Key, Sums
from celeriac.model.message import Message
from celeriac.model.outcome import Outcome
from celeriac.model.spread import Spread
from celeriac.ports.broker import Delivery
from celeriac.testing import running_worker
from celeriac.worker.decide import Ending, decide
from tests.clock import FakeClock
from tests.commands import command
from tests.patience import wait_for
from tests.promises.harness import Stage

NOW = 1_800_000_000.0


@pytest.fixture
def app(make_app: Callable[..., Celeriac]) -> Celeriac:
    app = make_app(clock=FakeClock(NOW))
    assert app.history is not None
    app.broker.complete(app.history.record(a_batch(), NOW))
    return app


def a_batch() -> Batch:
    def sums(n: int, runtime: float) -> Sums:
        made = Sums(n, Spread(), Spread())
        made.runtime.add([runtime] * n)
        made.wait.add([2.0] * n)
        return made

    at = int(NOW) - 60
    failed = {"error": "builtins.ValueError", "signature": "f00d"}
    attempts = [
        Attempt(id="one", task="shop.add", queue="default", state="SUCCESS", done_at=NOW - 60, runtime=0.1, share=0.5),
        Attempt(id="two", task="shop.add", queue="default", state="FAILURE", done_at=NOW - 50, message="no \x1b[2J",
                **failed),
        Attempt(id="three", task="mail.send", queue="mail", state="FAILURE", done_at=NOW - 40, message="no", **failed),
    ]  # fmt: skip
    signature = FailureSignature(signature="f00d", task="shop.add", error="builtins.ValueError", title="ValueError: no",
                                 first=NOW - 50, last=NOW - 40)  # fmt: skip
    return Batch(lease="a", attempts=attempts, signatures=[signature], sums={
        Key(SLOT, at, "a", "shop.add", "default", "SUCCESS"): sums(90, 0.1),
        Key(SLOT, at, "a", "shop.add", "default", "FAILURE", **failed): sums(10, 3.0),
        Key(SLOT, at, "a", "mail.send", "mail", "FAILURE", **failed): sums(5, 3.0),
        Key(SLOT, at - 7200, "a", "old.one", "default", "SUCCESS"): sums(7, 1.0),
    })  # fmt: skip


def read(app: Celeriac, *arguments: str) -> Any:
    result = command(app, *arguments, "--json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def wrong(app: Celeriac, *arguments: str) -> str:
    with pytest.raises(AssertionError) as caught:
        command(app, *arguments)
    return str(caught.value)


# --- stats --------------------------------------------------------------------------------------------


def test_stats_of_the_last_hour_by_task(app: Celeriac) -> None:
    lines = command(app, "stats").stdout.splitlines()
    assert [line.split()[:5] for line in lines[1:]] == [
        ["mail.send", "5", "5", "100", "0"], ["shop.add", "100", "10", "10", "0"],
    ]  # fmt: skip
    document = read(app, "stats")
    assert [(point["task"], point["count"]) for point in document["points"]] == [
        ("mail.send", {"FAILURE": 5}), ("shop.add", {"FAILURE": 10, "SUCCESS": 90}),
    ]  # fmt: skip
    assert document["points"][1]["runtime"]["p50"] == pytest.approx(0.1, rel=0.03)
    assert document["points"][1]["wait"]["max"] == 2.0


def test_stats_by_time_queue_and_error_and_of_all_time(app: Celeriac) -> None:
    points = read(app, "stats", "--since", "3h", "--step", "1h")["points"]
    assert [(point["at"], point["task"]) for point in points] == [
        ("2027-01-15T05:00:00.000+00:00", "old.one"), ("2027-01-15T07:00:00.000+00:00", "mail.send"),
        ("2027-01-15T07:00:00.000+00:00", "shop.add"),
    ]  # fmt: skip
    by_queue = read(app, "stats", "--by", "queue")["points"]
    assert {point["queue"]: sum(point["count"].values()) for point in by_queue} == {"default": 100, "mail": 5}
    (point,) = read(app, "stats", "--by", "error", "--task", "shop.*")["points"]
    assert (point["error"], point["count"]) == ("shop.add: builtins.ValueError", {"FAILURE": 10})
    ever = read(app, "stats", "--ever", "--filter", "state:success")["points"]
    assert [(point["task"], point["count"]["SUCCESS"]) for point in ever] == [("old.one", 7), ("shop.add", 90)]


def test_wrong_options_of_stats_are_refused(app: Celeriac) -> None:
    assert "takes no --step" in wrong(app, "stats", "--ever", "--since", "1h")
    assert "Choose a longer one" in wrong(app, "stats", "--since", "90d", "--step", "10s")
    assert "not divided by runtime" in wrong(app, "stats", "--filter", "runtime:>5s")
    assert "is no duration" in wrong(app, "stats", "--step", "often")


def test_failures_are_listed_and_marked(app: Celeriac) -> None:
    (found,) = read(app, "stats", "failures")
    assert (found["signature"], found["count"], found["status"]) == ("f00d", 15, "open")
    assert command(app, "stats", "mark", "f00d", "resolved").stdout == "f00d is resolved now.\n"
    assert read(app, "stats", "failures", "--status", "open") == []
    assert read(app, "stats", "failures", "--status", "resolved")[0]["marked_by"] == operator()
    assert "no failure signature 'beef'" in command(app, "stats", "mark", "beef", "muted").stderr


# --- The audit ----------------------------------------------------------------------------------------

LOOKING = {
    "backend", "backend schema", "beat", "call", "completion", "demo", "explain", "hub", "hub clients", "hub keys",
    "keys", "mail", "mail test", "queues", "queues peek", "queues dead", "queues dead list", "report", "result",
    "schedules", "schedules list", "schedules next", "schedules show", "stats", "stats audit", "stats failures",
    "stats series", "status", "tasks", "tasks show", "web", "web token", "web token list",
    "worker",
}  # fmt: skip
"""Commands that change nothing on the servers, send tasks, or are written down by what they call."""


def commands(group: click.Command, path: str = "") -> Iterator[tuple[str, click.Command]]:
    if path:
        yield path, group
    if isinstance(group, click.Group):
        context = click.Context(group)
        for name in group.list_commands(context):
            found = group.get_command(context, name)
            assert found is not None
            yield from commands(found, f"{path} {name}".strip())


def test_each_command_that_changes_something_is_audited() -> None:
    audited = {path for path, found in commands(main) if getattr(found.callback, "audited", False)}
    others = {path for path, found in commands(main) if path not in audited and not path.startswith("inspect")}
    assert others - LOOKING - {"control"} == set()
    assert {"purge", "queues pause", "queues dead drop", "schedules remove", "control shutdown"} <= audited
    assert not audited & LOOKING


def test_a_command_is_written_down_with_who_ran_it(app: Celeriac) -> None:
    app.conf.task_queues = ["default", "mail"]
    assert command(app, "queues", "pause", "mail").exit_code == 0
    assert command(app, "queues", "resume", "mail", "default").exit_code == 0
    assert command(app, "queues", "pause", "mial").exit_code == 2
    resumed, paused = sorted(read(app, "stats", "audit"), key=lambda event: event["text"])
    assert (paused["kind"], paused["id"], paused["by"]) == ("action", "mail", operator())
    assert paused["data"] == {"command": "celeriac queues pause", "arguments": {"queues": ["mail"]}}
    assert (resumed["id"], resumed["data"]["arguments"]) == (None, {"queues": ["mail", "default"]})
    assert "Resume paused queues." in command(app, "stats", "audit").stdout


def test_who_makes_or_removes_a_token_is_written_down_without_it(app: Celeriac, tmp_path: Path) -> None:
    app.conf.web_token_file = str(tmp_path / "tokens")
    made = command(app, "web", "token", "add", "ci", "--scope", "viewer").stdout.strip()
    assert command(app, "web", "token", "remove", "ci").exit_code == 0
    events = {event["data"]["command"]: event for event in read(app, "stats", "audit")}
    assert set(events) == {"celeriac web token add", "celeriac web token remove"}
    assert {(event["id"], event["by"]) for event in events.values()} == {("ci", operator())}
    assert events["celeriac web token add"]["data"]["arguments"]["scopes"] == ["viewer"]
    assert made.startswith("clr_ci_")
    assert made not in repr(events)


@pytest.mark.parametrize("error", [BackendError("the history is away"), ImproperlyConfigured("a caller's key")])
def test_a_command_is_done_when_the_audit_cannot_be_written(
    app: Celeriac, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    async def fails(event: object) -> None:
        raise error

    monkeypatch.setattr(app.history, "audit", fails)
    done = command(app, "queues", "pause", "default")
    assert done.exit_code == 0
    assert f"missing in the audit: {error}" in done.stderr


# --- tasks --------------------------------------------------------------------------------------------


def test_tasks_are_searched_by_options_and_by_a_filter(app: Celeriac) -> None:
    document = read(app, "tasks", "--task", "shop.*", "--state", "FAILURE", "--since", "2h", "--error", "ValueError")
    assert [task["id"] for task in document["tasks"]] == ["two"]
    assert document["searched"]["of"] == 3
    assert [task["id"] for task in read(app, "tasks", "--filter", "queue:mail")["tasks"]] == ["three"]
    result = command(app, "tasks", "--since", "1d")
    assert [line.split()[0] for line in result.stdout.splitlines()[1:]] == ["three", "two", "one"]
    assert "\x1b" not in result.stdout
    assert "are a sample" in result.stderr
    assert "'state'" in wrong(app, "tasks", "--filter", "stat:failure")
    assert "keeps no arguments" in wrong(app, "tasks", "--filter", "args.x:1")


def test_pages_go_on_at_the_cursor(app: Celeriac) -> None:
    first = read(app, "tasks", "--since", "1d", "--limit", "2")
    second = read(app, "tasks", "--since", "1d", "--limit", "2", "--cursor", first["next"])
    assert [task["id"] for task in first["tasks"] + second["tasks"]] == ["three", "two", "one"]
    assert second["next"] is None
    assert "is not the cursor" in wrong(app, "tasks", "--since", "1d", "--cursor", "x")


def test_without_options_the_recent_outcomes_are_listed_as_ever(app: Celeriac) -> None:
    assert command(app, "tasks").stdout == "There are no outcomes.\n"


@pytest.mark.parametrize(
    ("settings", "hint"),
    [({"history": "off"}, "is 'off'"), ({"result_backend": "rpc://", "broker_url": "amqp://h"}, "history_url")],
)
def test_without_a_history_the_commands_say_what_to_set(
    make_app: Callable[..., Celeriac], settings: dict[str, Any], hint: str
) -> None:
    app = make_app(**settings)
    for arguments in (["stats"], ["tasks", "--since", "1h"], ["stats", "failures"]):
        result = command(app, *arguments)
        assert result.exit_code == 1
        assert hint in result.stderr


def test_a_task_whose_outcome_has_expired_is_shown_from_the_history(app: Celeriac) -> None:
    result = command(app, "tasks", "show", "three")
    assert "attempt 1 of mail.send in mail: FAILURE" in result.stdout
    assert "builtins.ValueError: no" in result.stdout
    assert [one["id"] for one in read(app, "tasks", "show", "three")["attempts"]] == ["three"]
    assert command(app, "tasks", "show", "none").exit_code == 1


# --- Failed tasks are sent again ----------------------------------------------------------------------


def ending(message: Message, state: str) -> Outcome | None:
    outcome = Outcome.failed(message, ValueError("no"), state, NOW)
    return decide(Ending(delivery=Delivery(message, "t"), outcome=outcome), NOW, 3, 1.0, keep_failed=True).outcome


def test_the_message_of_a_final_failure_is_kept_and_no_other() -> None:
    message = Message(id="x", task="t", body=b"[[1],{}]")
    failed, revoked = ending(message, states.FAILURE), ending(message, states.REVOKED)
    assert failed is not None
    assert failed.kept is not None
    assert b"[[1],{}]" in failed.kept
    assert revoked is not None
    assert revoked.kept is None
    large = ending(Message(id="x", task="t", body=b"x" * 300_000), states.FAILURE)
    assert large is not None
    assert large.kept is None


def test_a_failed_task_is_sent_again_and_succeeds_under_its_id(make_app: Callable[..., Celeriac]) -> None:
    app = make_app()
    good: list[int] = []

    @app.task(expires=3600)
    def add(x: int, y: int = 0) -> int:
        if not good:
            raise ValueError("not yet")
        return x + y

    with running_worker(app):
        result = add.delay(1, y=2)
        with pytest.raises(ValueError, match="not yet"):
            result.get(timeout=60)
        other = add.apply_async((5,))
        with pytest.raises(ValueError, match="not yet"):
            other.get(timeout=60)
        good.append(1)
        found = command(app, "tasks", "retry", result.id, "nobody")
        assert (found.exit_code, found.stdout) == (1, "Sent 1 again.\n")
        assert "nobody is not sent again: its message is not kept" in found.stderr
        assert result.get(timeout=60) == 3
        again = json.loads(command(app, "tasks", "retry", result.id, "--json").stdout)
        assert again == {"sent": 0, "refused": {result.id: "it has not failed: it is SUCCESS"}}
        assert other.state == states.FAILURE


def test_a_task_whose_outcome_has_expired_is_sent_again_from_the_history(make_app: Callable[..., Celeriac]) -> None:
    app = make_app()
    good: list[int] = []

    @app.task
    def add(x: int, y: int) -> int:
        if not good:
            raise ValueError("not yet")
        return x + y

    with running_worker(app):
        result = add.delay(1, 2)
        with pytest.raises(ValueError, match="not yet"):
            result.get(timeout=60)
        wait_for(lambda: read(app, "tasks", "--since", "1h")["tasks"], "the history of the failure")
        app.backend.forget([result.id])
        good.append(1)
        assert read(app, "tasks", "--since", "1h")["tasks"][0]["can_retry"]
        assert command(app, "tasks", "retry", result.id).stdout == "Sent 1 again.\n"
        assert result.get(timeout=60) == 3
        app.backend.forget([result.id])
        refused = command(app, "tasks", "retry", result.id)  # it may have succeeded
        assert (refused.exit_code, refused.stdout) == (1, "Nothing was sent again.\n")
    assert app.history is not None
    (event,) = app.broker.complete(app.history.events(["task.retried"]))
    assert event.id == result.id
    assert event.by


def test_messages_are_not_kept_if_the_settings_say_so(make_app: Callable[..., Celeriac]) -> None:
    app = make_app(task_keep_failed=False)

    @app.task
    def fail() -> None:
        raise ValueError("no")

    with running_worker(app):
        result = fail.delay()
        with pytest.raises(ValueError, match="no"):
            result.get(timeout=60)
    retried = app.broker.complete(Inspector(app).retry([result.id]))
    assert (retried.sent, list(retried.refused)) == ([], [result.id])
    assert "task_keep_failed" in retried.refused[result.id]


def test_a_failed_task_is_sent_again_on_a_real_worker(stage: Stage) -> None:
    stage.worker("-c", "1")
    result = stage.send("plain", "raises", "no")
    result.get(timeout=120, propagate=False)
    retried = stage.app.broker.complete(stage.inspector().retry([result.id]))
    assert retried.sent == [result.id]
    stage.wait(lambda: len([run for run in stage.runs(result) if run.what == "start"]) == 2, "the second run")
    result.get(timeout=120, propagate=False)
    assert result.state == states.FAILURE
