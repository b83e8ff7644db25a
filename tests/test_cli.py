"""The command: what it prints, for people and for programs, and its exit codes."""

from __future__ import annotations

import json
import os
import re
import resource
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import click
import psutil
import pytest
from click.testing import CliRunner, Result

from celeriac import Celeriac, TaskRevoked
from celeriac.cli import main, worker
from celeriac.inspector import Inspector
from celeriac.model.masks import masked
from celeriac.model.message import COROUTINE, PLAIN
from celeriac.ports.broker import Action, Settlement
from celeriac.ports.operations import WorkerInfo
from celeriac.tasks.shared import _apps
from tests.commands import patient
from tests.modules import forget_modules
from tests.patience import PATIENCE, wait_for

CELERIAC = str(Path(sys.executable).with_name("celeriac"))

SHOP = """
import time
from celeriac import Celeriac

app = Celeriac("shop", task_queues=["mail"])

@app.task
def add(x: int, y: int) -> int:
    return x + y

@app.task
async def fail(why: str) -> None:
    raise ValueError(why)

@app.task(ignore_result=True)
def forget() -> None:
    pass

@app.task
def sleep(seconds: float) -> str:
    time.sleep(seconds)
    return "slept"
"""

Run = Callable[..., Result]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with shop.py in it, and nothing that another test imported."""
    (tmp_path / "shop.py").write_text(SHOP)
    yield from _inside(tmp_path, monkeypatch)


def _inside(path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.chdir(path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delenv("CELERIAC_APP", raising=False)
    yield path
    forget_modules(path)


def run(*arguments: str, **options: Any) -> Result:
    """Call the command in this process."""
    result = CliRunner().invoke(main, list(arguments), prog_name="celeriac", **options)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def shop(*arguments: str, **options: Any) -> Result:
    """Call the command for the shop; where a test does not say how long, workers may take their time to answer."""
    return run("-A", "shop", *patient(*arguments), **options)


def read(*arguments: str) -> Any:
    """Call the command with --json, and return the document."""
    return json.loads(shop(*arguments, "--json").stdout)


def the_app() -> Celeriac:
    return _apps[-1]


# --- The root -----------------------------------------------------------------------------------------


def _commands(command: click.Command, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    yield path, command
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            found = command.get_command(context, name)
            assert found is not None
            yield from _commands(found, (*path, name))


@pytest.mark.parametrize("path", [path for path, _ in _commands(main)], ids="-".join)
def test_the_help_of_every_command_has_examples(path: tuple[str, ...]) -> None:
    result = run(*path, "--help")
    assert result.exit_code == 0
    assert "Examples:\n" in result.stdout
    assert "Exit codes:\n" in result.stdout or len(path) > 1 or path == ("completion",)


def test_version() -> None:
    assert run("--version").stdout.startswith("celeriac, version 0.")


def test_a_mistyped_command_is_answered_with_the_nearest_one() -> None:
    result = run("staus")
    assert (result.exit_code, "Did you mean 'status'?" in result.stderr) == (2, True)


def test_listing_the_commands_imports_none_of_them_nor_asyncio_nor_rich() -> None:
    code = (
        "import sys; from celeriac.cli import main\n"
        "main(['--help'], standalone_mode=False)\n"
        "sys.exit(' '.join({'rich', 'asyncio', 'celeriac.cli.status', 'celeriac.worker'} & set(sys.modules)) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_completion_script_is_printed(shell: str) -> None:
    assert "_CELERIAC_COMPLETE" in run("completion", shell).stdout


def test_commands_are_completed_from_the_table() -> None:
    environment = {**os.environ, "_CELERIAC_COMPLETE": "bash_complete", "COMP_WORDS": "celeriac c", "COMP_CWORD": "1"}
    done = subprocess.run([CELERIAC], capture_output=True, text=True, timeout=PATIENCE, env=environment, check=True)
    assert set(done.stdout.split()) == {"plain,call", "plain,completion", "plain,control"}


# --- Finding the app ----------------------------------------------------------------------------------


def test_without_an_app_the_command_says_how_to_name_one() -> None:
    result = run("queues")
    assert result.exit_code == 2
    assert "celeriac -A shop" in result.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ("-A", "shop", "queues"),
        ("-A", "shop:app", "queues"),
        ("queues", "-A", "shop"),
        ("queues", "peek", "mail", "-A", "shop"),
    ],
)
def test_the_app_is_found_before_or_after_the_command(folder: Path, arguments: tuple[str, ...]) -> None:
    assert run(*arguments).exit_code == 0


def test_the_app_is_named_by_the_environment(folder: Path) -> None:
    assert run("queues", env={"CELERIAC_APP": "shop"}).exit_code == 0


def test_the_app_is_looked_for_in_the_workdir(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "else").mkdir()
    monkeypatch.chdir(folder / "else")
    assert run("-A", "shop", "queues").exit_code == 2
    assert run("--workdir", str(folder), "-A", "shop", "queues").exit_code == 0


@pytest.mark.parametrize(
    ("source", "spec", "code", "words"),
    [
        ("tasks = Celeriac('x')", "mod", 0, "default"),
        ("a = Celeriac('x')\napp = Celeriac('y')", "mod", 0, "default"),
        ("a = Celeriac('x')\nb = a", "mod", 0, "default"),
        ("a = Celeriac('x')\nb = Celeriac('y')", "mod", 2, "-A mod:a or -A mod:b"),
        ("", "mod", 2, "app = Celeriac('mod')"),
        ("jobs = Celeriac('x')", "mod:jbos", 2, "Did you mean 'jobs'?"),
        ("jobs = 3", "mod:jobs", 2, "has no app 'jobs'"),
        ("jobs = Celeriac('x')", "mod.jobs", 2, "Did you mean 'mod:jobs'?"),
        ("", "mood", 2, "Did you mean 'mod'?"),
        ("", "a-b", 2, "-A takes a module"),
        ("", "celeriac", 2, "Call it jobs.py, and pass -A jobs"),
        ("x = 1\nx / 0", "mod", 2, "mod.py:3: x / 0"),
        ("def f(:", "mod", 2, "mod.py:2: def f(:"),
        ("import not_installed", "mod", 2, "ModuleNotFoundError: No module named 'not_installed'"),
        ("raise SystemExit(0)", "mod", 2, "SystemExit: 0"),
        ("app = Celeriac('x', task_ack_late=1)", "mod", 2, "Did you mean 'task_acks_late'?"),
        ("app = Celeriac('x', imports=['gone'])", "mod", 2, "No module named 'gone'"),
    ],
)  # fmt: skip
def test_an_app_is_found_or_the_error_says_why_not(folder: Path, source: str, spec: str, code: int, words: str) -> None:
    (folder / "mod.py").write_text(f"from celeriac import Celeriac\n{source}\n")
    result = run("-A", spec, "queues")
    assert (result.exit_code, words in result.output, "Traceback" in result.output) == (code, True, False), (
        result.output
    )


@pytest.mark.parametrize("module", ["celeriac", "celery"])
def test_a_package_may_keep_its_app_in_a_module_of_its_own(folder: Path, module: str) -> None:
    (folder / "proj").mkdir()
    (folder / "proj" / "__init__.py").touch()
    (folder / "proj" / f"{module}.py").write_text("from celeriac import Celeriac\napp = Celeriac('proj')\n")
    assert run("-A", "proj", "queues").exit_code == 0


# --- Without a worker ---------------------------------------------------------------------------------


def test_a_call_prints_its_id_and_waits_in_the_queue(folder: Path) -> None:
    id = shop("call", "shop.add", "--args", "[2, 2]").stdout.strip()
    [message] = read("queues", "peek", "default")
    assert (message["id"], message["args"]) == (id, [2, 2])
    assert "shop.add(2, 2)" in shop("queues", "peek", "default").stdout
    assert read("tasks", "show", id)["place"] == "ready"


@pytest.mark.parametrize("charset", ["ascii", "iso8859-1"])
def test_text_that_the_locale_cannot_show_is_escaped(folder: Path, charset: str) -> None:
    shop("call", "shop.fail", "--args", '["☃ 🎉"]')
    peek = ["-A", "shop", "queues", "peek", "default"]
    result = CliRunner(charset=charset).invoke(main, peek)
    assert (result.exit_code, "shop.fail('\\u2603 \\U0001f389')" in result.stdout) == (0, True), result.exception
    result = CliRunner(charset=charset).invoke(main, [*peek, "--json"])
    assert [message["args"] for message in json.loads(result.stdout)] == [["☃ 🎉"]], result.exception


@pytest.mark.parametrize("arguments", [("queues",), ("queues", "--json")])
def test_an_output_that_is_full_is_an_error_and_a_closed_one_is_none(folder: Path, arguments: tuple[str, ...]) -> None:
    command = [CELERIAC, "-A", "shop", *arguments]
    with open("/dev/full", "w") as full:
        result = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, timeout=PATIENCE)
    assert (result.returncode, result.stderr) == (1, "Error: Cannot write: [Errno 28] No space left on device\n")
    closed = ["sh", "-c", 'exec "$@" >&-', "sh", *command]
    result = subprocess.run(closed, capture_output=True, text=True, timeout=PATIENCE)
    assert (result.returncode, result.stderr) == (0, "")


def test_the_options_of_a_call_reach_its_message(folder: Path) -> None:
    shop("call", "shop.add", "-k", '{"x": 1, "y": 2}', "-q", "mail", "--priority", "9", "--eta", "2099-01-01T00:00:00Z")
    [message] = read("inspect", "scheduled")
    assert (message["queue"], message["priority"], message["kwargs"]) == ("mail", 9, {"x": 1, "y": 2})
    assert message["due_at"] == "2099-01-01T00:00:00.000+00:00"
    assert "shop.add(x=1, y=2)" in shop("inspect", "scheduled", "--queue", "mail").stdout


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("shop.ad",), 1, "Did you mean 'shop.add'?"),
        (("add",), 1, "Did you mean 'shop.add'?"),
        (("shop.add", "-a", "[1]"), 1, "do not fit shop.add(x: int, y: int) -> int: 'y' is missing."),
        (("shop.add", "-a", "[1, 2]", "-q", "mial"), 2, "Did you mean 'mail'?"),
        (("shop.add", "-a", "{}"), 2, "must be JSON, for example '[2, 2]'"),
        (("shop.add", "-k", "nope"), 2, "must be JSON, for example"),
        (("shop.add", "1", "two"), 2, """celeriac call shop.add --args '[1, "two"]'"""),
        (("shop.add", "--eta", "2030-01-01T00:00"), 2, "with a time zone"),
        (("shop.add", "--eta", "2030-01-01T00:00Z", "--countdown", "1"), 2, "not both"),
        (("shop.add", "--priority", "10"), 2, "'10' is not a whole number from 0 to 9"),
        (("shop.add", "--timeout", "1"), 2, "needs --wait"),
        (("shop.add", "--wait", "--timeout", "nan"), 2, "'nan' is not a number of seconds within a thousand years"),
        (("shop.add", "--countdown", "inf"), 2, "'inf' is not a number of seconds within a thousand years"),
        (("shop.add", "--expires", "1e300"), 2, "'1e300' is not a number of seconds within a thousand years"),
        (("shop.add", "--eta", "0001-01-01T00:00+14:00"), 2, "between the years 1 and 9999 in UTC"),
    ],
)
def test_a_wrong_call_is_refused(folder: Path, arguments: tuple[str, ...], code: int, words: str) -> None:
    result = shop("call", *arguments)
    assert (result.exit_code, words in result.stderr) == (code, True), result.output
    assert read("queues")[0]["ready"] == 0


def test_an_unregistered_task_is_sent_with_the_option_unregistered(folder: Path) -> None:
    assert shop("call", "other.task", "--unregistered").exit_code == 0
    assert read("queues", "peek", "default")[0]["task"] == "other.task"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--cursor", "abc"), "--cursor goes on with a search"),
        (("--offset", "20", "--task", "shop.*"), "a search goes on with --cursor"),
        (("--workflow", "x", "--task", "shop.*"), "only --state chooses some"),
    ],
)
def test_options_of_a_list_of_tasks_that_would_be_ignored_are_refused(
    folder: Path, arguments: tuple[str, ...], words: str
) -> None:
    result = shop("tasks", *arguments)
    assert (result.exit_code, words in result.stderr) == (2, True), result.output


def test_a_result_that_is_not_there_has_an_exit_code_of_its_own(folder: Path) -> None:
    id = shop("call", "shop.add", "-a", "[2, 2]").stdout.strip()
    result = shop("result", id)
    assert (result.exit_code, "it is waiting for a worker" in result.stderr) == (3, True)
    assert shop("result", id, "--wait", "--timeout", "0.05").exit_code == 3
    result = shop("result", "mistyped")
    assert (result.exit_code, "Unknown task" in result.stderr) == (3, True)
    assert shop("tasks", "show", "mistyped").exit_code == 1


@pytest.mark.parametrize("arguments", [("tasks",), ("result", "x"), ("result", "x", "--wait"), ("tasks", "show", "x")])
def test_over_rpc_only_the_caller_can_read_results(folder: Path, arguments: tuple[str, ...]) -> None:
    result = shop(*arguments, env={"CELERIAC_BROKER_URL": "amqp://127.0.0.1:1/", "CELERIAC_RESULT_BACKEND": "rpc://"})
    assert (result.exit_code, "result_backend='redis://…'" in result.stderr) == (1, True), result.output


def test_with_always_eager_a_call_runs_here_and_prints_its_result(folder: Path) -> None:
    eager = {"CELERIAC_TASK_ALWAYS_EAGER": "1"}
    for more in ((), ("--wait",)):
        result = shop("call", "shop.add", "-a", "[2, 2]", *more, env=eager)
        assert (result.exit_code, result.stdout) == (0, "4\n")
    result = shop("call", "shop.fail", "-a", '["no"]', env=eager)
    assert (result.exit_code, "ValueError: no" in result.stderr) == (1, True)


def test_somebody_who_waits_is_told_that_no_worker_has_come_and_ctrl_c_ends_the_wait_and_not_the_task(
    folder: Path,
) -> None:
    command = [CELERIAC, "-A", "shop", "call", "shop.add", "-a", "[2, 2]", "--wait"]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, cwd=folder, stdout=pipe, stderr=pipe, text=True) as caller:
        assert caller.stderr is not None
        warning = caller.stderr.readline()
        caller.send_signal(signal.SIGINT)
        _, told = caller.communicate(timeout=PATIENCE)
    [message] = read("queues", "peek", "default")
    assert warning == (
        f"No result yet: shop.add[{message['id']}] is PENDING; it is waiting for a worker. `celeriac -A shop status` "
        "shows workers and queues. Still waiting; Ctrl-C ends the waiting, not the task.\n"
    )
    later = f"Fetch its result later: celeriac -A shop result {message['id']}"
    assert (caller.returncode, told) == (130, f"Stopped waiting; the task keeps running. {later}\n")


def test_waiting_distinguishes_an_unknown_task_from_a_scheduled_one(folder: Path) -> None:
    (folder / "other.py").write_text("from celeriac import Celeriac\napp = Celeriac('other')\n")
    worker = RunningWorker(folder, "-c", "1", "--grace", "2", spec="other")
    try:

        def is_told() -> bool:
            result = shop("call", "shop.add", "-a", "[2, 2]", "--wait", "--timeout", "2")
            assert result.exit_code == 3
            return "no worker that received it has this task registered" in result.stderr

        wait_for(is_told, "the worker having returned a message")  # it may take longer, and holds it for a moment
        assert "Is another app using this broker_url?" in worker.said()
    finally:
        worker.end()


def test_an_unregistered_task_is_reported_with_the_nearest_name(folder: Path) -> None:
    id = shop("call", "shop.ad", "-a", "[2, 2]", "--unregistered").stdout.strip()
    worker = RunningWorker(folder, "-c", "1", "--grace", "2")
    try:
        wait_for(lambda: "Did you mean 'shop.add'?" in worker.said(), "the warning")
        wait_for(lambda: "Did you mean 'shop.add'?" in shop("tasks", "show", id).stdout, "the message in its queue")
        assert "in the setting `imports`" in shop("tasks", "show", id).stdout
        wait_for(lambda: "Did you mean 'shop.add'?" in shop("result", id).stderr, "the same of its result")
    finally:
        worker.end()


def test_purging_asks_first(folder: Path) -> None:
    shop("call", "shop.add", "-a", "[2, 2]")
    result = shop("purge", "default", input="n\n")
    assert (result.exit_code, "1 in default" in result.stderr) == (1, True)
    assert read("queues")[0]["ready"] == 1
    assert shop("purge", "default", input="y\n").stdout == "Dropped 1 from default.\n"
    assert read("purge", "default", "mail", "--yes") == {"dropped": {"default": 0, "mail": 0}}
    assert shop("purge", "defualt", "--yes").exit_code == 2
    assert shop("purge", "--yes").exit_code == shop("purge", "mail", "--all", "--yes").exit_code == 2
    shop("call", "shop.add", "-a", "[2, 2]")
    assert "1 in default, 0 in mail" in shop("purge", "--all", input="n\n").stderr
    assert read("purge", "--all", "--yes") == {"dropped": {"default": 1, "mail": 0}}


def test_queues_are_paused_and_resumed(folder: Path) -> None:
    assert shop("queues", "pause", "mail").exit_code == 0
    assert {queue["queue"]: queue["paused"] for queue in read("queues")} == {"default": False, "mail": True}
    assert shop("queues", "resume", "mail").exit_code == 0
    assert shop("queues", "pause", "mial").exit_code == 2


async def bury(app: Celeriac) -> None:
    """Make dead letters of all messages."""
    lease = await app.broker.lease(WorkerInfo(name="a"), 30.0, 3)
    deliveries = await lease.receive(["default"], {PLAIN: 9, COROUTINE: 9}, 0.0)
    await lease.settle([Settlement(delivery=one, action=Action.BURY, reason="cursed") for one in deliveries])


@pytest.mark.parametrize("batch", [2, 3, 9])
def test_dead_letters_that_die_again_are_resent_once(folder: Path, monkeypatch: pytest.MonkeyPatch, batch: int) -> None:
    ids = {shop("call", "shop.add", "-a", f"[{number}, 0]").stdout.strip() for number in range(5)}
    the_app().broker.complete(bury(the_app()))
    resend = Inspector.resend

    async def resend_in_vain(inspector: Inspector, ids: Sequence[str]) -> int:
        count = await resend(inspector, ids)
        await bury(inspector._app)
        return count

    monkeypatch.setattr(Inspector, "resend", resend_in_vain)
    monkeypatch.setattr("celeriac.cli.queues.BATCH", batch)
    assert read("queues", "dead", "resend", "--all") == {"resent": 5}
    assert {letter["id"] for letter in read("queues", "dead", "list")} == ids
    assert read("queues", "dead", "drop", "--all") == {"dropped": 5}


def test_dead_letters_are_listed_resent_and_dropped(folder: Path) -> None:
    ids = [shop("call", "shop.add", "-a", f"[{number}, 0]").stdout.strip() for number in range(3)]
    the_app().broker.complete(bury(the_app()))
    assert "cursed" in shop("queues", "dead").stdout
    assert {letter["id"] for letter in read("queues", "dead", "list")} == set(ids)
    assert shop("queues", "dead", "resend").exit_code == 2
    result = shop("queues", "dead", "resend", ids[0], "nobody")
    assert (result.exit_code, result.stdout) == (1, "Resent 1.\n")
    assert result.stderr == "Error: nobody is not a dead letter.\n"
    assert read("queues", "dead", "drop", "--all", "--queue", "default") == {"dropped": 2}
    assert read("queues")[0] == {
        "queue": "default",
        "ready": 1,
        "scheduled": 0,
        "active": 0,
        "dead": 0,
        "paused": False,
        "uncounted": "",
    }


def test_status_without_a_worker_fails_and_says_how_to_start_one(folder: Path) -> None:
    result = shop("status")
    assert (result.exit_code, "celeriac -A shop worker" in result.stderr) == (1, True)
    assert read("status")["workers"] == []
    assert shop("inspect", "ping").exit_code == shop("control", "shutdown").exit_code == 1
    assert shop("inspect", "ping").stdout == ""


def test_a_worker_that_does_not_answer_is_reported_as_silent(folder: Path) -> None:
    shop("queues")
    the_app().broker.complete(the_app().broker.lease(WorkerInfo(name="mute"), 30.0, 3))
    result = shop("status", "--timeout", "0.1")
    assert (result.exit_code, "silent" in result.stdout) == (1, True)
    result = shop("inspect", "active", "--timeout", "0.1", "-d", "mute", "-d", "gone")
    assert "mute did not reply in time: it may be suspended, or it died within the last 15 s." in result.stderr
    assert "No worker named 'gone'" in result.stderr


def test_a_report_masks_passwords(folder: Path) -> None:
    (folder / "mod.py").write_text(
        "from celeriac import Celeriac\napp = Celeriac('m', broker_url='redis://u:hush@h/0')\n"
    )
    result = run("-A", "mod", "report")
    assert (result.exit_code, "hush" in result.output, "u:***@h" in result.output) == (1, False, True)
    report = read("report")
    assert (report["app"]["broker_answers"], report["app"]["settings"]) == (True, {"task_queues": ["mail"]})
    assert run("report").exit_code == 0
    assert masked(["amqp://u:p@x:@h//", "http://h/?token=abc&a=1"]) == ["amqp://u:***@h//", "http://h/?token=***&a=1"]


def test_a_broker_that_cannot_be_read_is_a_clear_error(folder: Path) -> None:
    (folder / "celeriac.db").write_bytes(b"precious" * 100)
    result = shop("queues")
    assert (result.exit_code, "not a Celeriac database" in result.stderr) == (1, True)
    assert (folder / "celeriac.db").read_bytes() == b"precious" * 100


def test_a_worker_of_an_unknown_queue_does_not_start(folder: Path) -> None:
    result = shop("worker", "-Q", "mial")
    assert (result.exit_code, "Did you mean 'mail'?" in result.stderr) == (2, True)
    assert shop("worker", "-Q", ",").exit_code == 2


def test_the_name_of_a_worker_has_its_host_where_celery_puts_it(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("socket.gethostname", lambda: "box.example.com")

    def name(given: str) -> Any:
        return worker.command.make_context("worker", ["-n", given]).params["name"]

    names = [name(given) for given in ("w@%h", "%n-%d", "100%%", "")]
    assert names == ["w@box.example.com", "box-example.com", "100%", None]
    for wrong, why in (("x" * 1001, "at most 1,000 characters"), ("a\nb", "has no line breaks")):
        result = shop("worker", "-n", wrong)  # the outcomes of the first would not be read
        assert (result.exit_code, why in result.stderr) == (2, True)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("worker", "-P", "prefork"), "Celery's pool 'prefork' is called 'processes' here"),
        (("worker", "-P", "gevent"), "use 'processes'"),
        (("worker", "-n", "w1@%p"), "%p means nothing in a name"),
        (("worker", "-E"), "Celery's events are not sent"),
        (("worker", "-Ofair"), "only what its free slots can start"),
        (("worker", "--autoscale=10,3"), "pool-grow"),
        (("worker", "--without-gossip", "--without-mingle"), "do not talk to each other"),
        (("worker", "--time-limit", "300"), "task_time_limit"),
        (("worker", "-D"), "docs/howto/deploy.md"),
        (("multi", "start"), "docs/howto/deploy.md"),
        (("flower",), "`celeriac web` serves the dashboard"),
        (("inspect", "active_queues"), "`celeriac status` shows the queues of each worker"),
        (("control", "enable_events"), "Celery's events are not sent"),
        (("control", "rate_limit"), "Missing argument 'TASK'"),
    ],
)
def test_options_that_only_celery_has_are_explained(folder: Path, arguments: tuple[str, ...], words: str) -> None:
    result = shop(*arguments)
    assert (result.exit_code, words in result.stderr) == (2, True), result.output


@pytest.mark.parametrize(
    ("given", "name"),
    [("w1@%h", "w1@web.example.org"), ("%n-%d", "web-example.org"), ("100%%", "100%"), ("w1", "w1"), ("100%", "100%")],
)
def test_a_workers_name_can_have_the_hosts_in_it_as_in_celery(
    folder: Path, monkeypatch: pytest.MonkeyPatch, given: str, name: str
) -> None:
    names = []
    monkeypatch.setattr("socket.gethostname", lambda: "web.example.org")
    monkeypatch.setattr("celeriac.cli.worker.run_worker", lambda app, options: names.append(options.name))
    monkeypatch.setattr("celeriac.cli.worker._exit_soon", lambda code: None)
    shop("worker", "-n", given)
    assert names == [name]


# --- With a real worker -------------------------------------------------------------------------------


class RunningWorker:
    """`celeriac -A shop worker` in a process of its own."""

    def __init__(self, path: Path, *arguments: str, spec: str = "shop", log: str = "worker.log",
                 through: Sequence[str] = ()) -> None:  # fmt: skip
        self.log = (path / log).open("w+")
        command = [*through, CELERIAC, "-A", spec, "worker", *arguments]
        self.process = subprocess.Popen(command, cwd=path, stderr=self.log, stdout=self.log)
        wait_for(lambda: self.process.poll() is not None or "is ready" in self.said(), "a worker")
        assert self.process.poll() is None, self.said()

    def said(self) -> str:
        return Path(self.log.name).read_text()

    def end(self) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        self.log.close()


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder whose shop has a worker."""
    path = tmp_path_factory.mktemp("served")
    (path / "shop.py").write_text(SHOP)
    worker = RunningWorker(path, "-c", "1", "-n", "w1")
    yield path
    worker.end()


@pytest.fixture
def live(served: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    yield from _inside(served, monkeypatch)


def test_a_call_that_waits_prints_the_result(live: Path) -> None:
    result = shop("call", "shop.add", "-a", "[2, 3]", "--wait", "--timeout", "100")
    assert (result.exit_code, result.stdout) == (0, "5\n")
    document = json.loads(shop("call", "shop.sleep", "-a", "[0]", "--wait", "--json").stdout)
    assert (document["state"], document["result"], document["worker"]) == ("SUCCESS", "slept", "w1")


def test_a_call_that_fails_exits_with_1_and_its_traceback_can_be_read(live: Path) -> None:
    result = shop("call", "shop.fail", "-a", '["bad luck"]', "--wait", "--json")
    document = json.loads(result.stdout)
    assert (result.exit_code, document["error"]["type"]) == (1, "ValueError")
    assert "traceback" not in document
    for more in (("result", "--traceback"), ("tasks", "show")):
        result = shop(*more, document["id"], "--json")
        assert "raise ValueError(why)" in json.loads(result.stdout)["traceback"]
    assert not any("traceback" in outcome for outcome in json.loads(shop("tasks", "--json").stdout))
    result = shop("result", document["id"], "--traceback")
    assert (result.exit_code, "raise ValueError(why)" in result.stdout) == (1, True)
    assert "ValueError: bad luck" in result.stderr
    assert "bad luck" in shop("tasks", "--state", "failure").stdout
    assert "raise ValueError(why)" in shop("tasks", "show", document["id"]).stdout


def test_a_workflow_is_shown_and_run_again_and_revoked(live: Path) -> None:
    shop("queues")
    app = sys.modules["shop"].app  # type: ignore[attr-defined]
    add, fail = app.tasks["shop.add"], app.tasks["shop.fail"]
    result = (add.s(1, 2) | fail.si("bad luck") | add.s(3)).delay()
    with pytest.raises(ValueError, match="bad luck"):
        result.get(timeout=PATIENCE)
    id = result.workflow_id
    document = read("tasks", "--workflow", id)
    assert [(task["task"], task["state"]) for task in document["tasks"]] == [
        ("shop.add", "SUCCESS"), ("shop.fail", "FAILURE"), ("shop.add", "FAILURE"),
    ]  # fmt: skip
    assert (document["ended"], document["total"], document["tasks"][2]["cause"]) == (3, 3, document["tasks"][1]["id"])
    shown = shop("tasks", "--workflow", id).stdout
    assert "3 of 3 tasks have ended." in shown
    assert "bad luck" in shown
    assert shop("tasks", "retry", id).stdout == "Sent 1 again.\n"
    assert shop("tasks", "--workflow", "mistyped").exit_code == 1
    waiting = (add.s(1, 2) | add.s(3)).apply_async(countdown=3600)
    assert shop("tasks", "revoke").exit_code == 2
    assert shop("tasks", "revoke", "--workflow", waiting.workflow_id).stdout == "Revoked 2.\n"
    with pytest.raises(TaskRevoked):
        waiting.get(timeout=PATIENCE)


def test_a_task_that_was_not_run_is_shown_as_such(live: Path) -> None:
    shop("queues")
    app = sys.modules["shop"].app  # type: ignore[attr-defined]
    failing, last = app.tasks["shop.fail"].s("bad luck"), app.tasks["shop.add"].si(1, 2)
    result = (failing | last).delay()
    with pytest.raises(ValueError, match="bad luck"):
        result.get(timeout=PATIENCE)
    cause = result.parent.id
    told = shop("result", result.id)
    assert told.exit_code == 1
    assert f"was not run, because shop.fail[{cause}] failed: ValueError: bad luck" in told.stderr
    shown = shop("tasks", "show", result.id).stdout
    assert f"not run  because of {cause}" in shown
    assert not any(word in shown for word in ("attempt", "started", "took", "µs"))
    assert f"not run because of {cause}" in shop("tasks").stdout


def test_a_call_whose_task_keeps_no_result_is_sent_and_says_so(live: Path) -> None:
    result = shop("call", "shop.forget", "--wait")
    assert (result.exit_code, len(result.stdout.strip()), "stores no result" in result.stderr) == (0, 36, True)


def test_status_shows_the_worker(live: Path) -> None:
    result = shop("status")
    assert (result.exit_code, "w1" in result.stdout, "ready" in result.stdout) == (0, True, True)
    [worker] = read("status")["workers"]
    assert (worker["name"], worker["answers"], worker["queues"]) == ("w1", True, ["default", "mail"])


def test_workers_can_be_asked(live: Path) -> None:
    assert shop("inspect", "ping").exit_code == 0
    assert read("inspect", "registered")["workers"]["w1"] == ["shop.add", "shop.fail", "shop.forget", "shop.sleep"]
    shop("call", "shop.add", "-a", "[2, 3]", "--wait")
    # A worker counts a task after it has stored its result.
    wait_for(lambda: "shop.add" in read("inspect", "stats")["workers"]["w1"]["tasks"], "the worker has counted it")
    assert read("inspect", "stats")["workers"]["w1"]["tasks"]["shop.add"]["count"] >= 1
    assert "shop.add" in shop("inspect", "stats").stdout
    for question in ("active", "reserved", "scheduled", "registered"):
        assert shop("inspect", question).exit_code == 0


def test_a_running_task_is_seen_and_terminated(live: Path) -> None:
    id = shop("call", "shop.sleep", "-a", "[60]").stdout.strip()
    running = wait_for(lambda: read("inspect", "active")["workers"]["w1"], "the task's start")
    assert (running[0]["id"], running[0]["task"]) == (id, "shop.sleep")
    assert id in shop("inspect", "active").stdout
    refused = shop("control", "terminate", "SIGKILL", id)
    assert (refused.exit_code, "Leave SIGKILL out" in refused.stderr) == (2, True)
    assert shop("control", "terminate", id).exit_code == 0
    result = shop("result", id, "--wait", "--timeout", "100")
    assert (result.exit_code, "was revoked" in result.stderr) == (1, True)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("rate-limit", "shop.add", "100/m"), "shop.add may start 100/m"),
        (("rate-limit", "shop.add", "100"), "shop.add may start 100/s"),
        (("rate-limit", "shop.add", "none"), "as often as it can"),
        (("time-limit", "shop.fail", "--soft", "5"), "soft limit 5 s, hard limit none"),
        (("add-consumer", "mail"), "receives from default, mail"),
        (("log-level", "warning"), "log level WARNING"),
        (("revoke", "some-id"), "Revoked 1.\nUnknown task some-id"),
    ],
)
def test_workers_obey(live: Path, arguments: tuple[str, ...], words: str) -> None:
    result = shop("control", *arguments)
    assert (result.exit_code, result.stderr, words in result.stdout) == (0, "", True), result.stdout


def test_a_task_that_is_known_is_revoked_without_a_word_more(folder: Path) -> None:
    id = shop("call", "shop.add", "-a", "[2, 2]").stdout.strip()
    assert shop("control", "revoke", id).stdout == shop("tasks", "revoke", id).stdout == "Revoked 1.\n"


def test_what_a_worker_cannot_do_is_an_error(live: Path) -> None:
    result = shop("control", "rate-limit", "shop.nothing", "1/s")
    assert (result.exit_code, "w1: No task named 'shop.nothing'" in result.stderr) == (1, True)
    assert shop("control", "rate-limit", "shop.add", "often").exit_code == 2
    assert shop("control", "time-limit", "shop.add", "--hard", "0").exit_code == 2
    refused = shop("control", "time-limit", "shop.add", "--soft", "9", "--hard", "5")
    assert (refused.exit_code, "soft_time_limit must not be above time_limit" in refused.stderr) == (2, True)


def test_a_worker_prints_its_settings_and_obeys_grow_shrink_and_shutdown(folder: Path) -> None:
    worker = RunningWorker(folder, "-c", "1", "-Q", "mail", "--grace", "5")
    try:
        assert "1 for plain functions" in worker.said()
        assert f"sqlite:///{folder}/celeriac.db" in worker.said()
        assert shop("control", "pool-grow", "1").exit_code == 0
        assert shop("control", "pool-shrink", "1").exit_code == 0
        assert shop("control", "shutdown").exit_code == 0
        assert worker.process.wait(PATIENCE) == 0
    finally:
        worker.end()
    assert read("status")["workers"] == []


def test_two_workers_of_one_name_are_noticed_and_told_apart(folder: Path) -> None:
    with ExitStack() as stack:
        workers = []
        for log in ("first.log", "second.log"):
            workers.append(RunningWorker(folder, "-c", "1", "-n", "same", log=log))
            stack.callback(workers[-1].end)
        first, second = workers
        pids = sorted(worker.process.pid for worker in workers)
        assert f"Another worker is named same, too: pid {first.process.pid} on " in second.said()
        assert "Another worker" not in first.said()
        shown = shop("status").stdout
        assert all(re.search(rf"same \(pid {pid} on .*\) +ready", shown) for pid in pids)
        document = read("status")
        assert sorted((worker["name"], worker["pid"], worker["answers"]) for worker in document["workers"]) == [
            ("same", pid, True) for pid in pids
        ]
        answers = read("inspect", "stats", "--destination", "same")
        assert sorted(stats["pid"] for stats in answers["workers"].values()) == pids
        assert (answers["silent"], answers["unknown"]) == ([], [])


def test_the_banner_shows_the_whole_path_of_the_database(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("CELERIAC_BROKER_URL", "CELERIAC_RESULT_BACKEND"):
        monkeypatch.setenv(name, "sqlite:///./jobs.db")
    worker = RunningWorker(folder, "-c", "1")
    worker.end()
    assert worker.said().count(f"sqlite:///{folder}/jobs.db") == 2


def test_a_worker_says_that_its_result_backend_is_down_before_it_is_ready(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CELERIAC_RESULT_BACKEND", "redis://127.0.0.1:1/0")
    worker = RunningWorker(folder, "-c", "1", "--grace", "2")
    worker.end()
    before, ready, _ = worker.said().partition("is ready")
    assert ready
    assert "The result backend redis://127.0.0.1:1/0 cannot be reached" in before


def test_a_worker_raises_the_limit_of_open_files(folder: Path) -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = 1 << 20 if hard == resource.RLIM_INFINITY else min(hard, 1 << 20)
    worker = RunningWorker(folder, "-c", "1", through=["sh", "-c", 'ulimit -S -n 200; exec "$@"', "sh"])
    try:
        process = psutil.Process(worker.process.pid)
        for one in (process, *process.children(recursive=True)):
            assert one.rlimit(psutil.RLIMIT_NOFILE)[0] == most
    finally:
        worker.end()


def test_the_processes_of_a_worker_have_titles(folder: Path) -> None:
    worker = RunningWorker(folder, "-c", "1", "-n", "w1")
    try:
        process = psutil.Process(worker.process.pid)
        (forkserver,) = process.children()

        def titles() -> set[str]:
            return {" ".join(child.cmdline()).rstrip() for child in forkserver.children()}

        assert " ".join(process.cmdline()).rstrip() == "celeriac: worker w1"
        assert " ".join(forkserver.cmdline()).rstrip() == "celeriac: fork server of w1"
        wait_for(lambda: titles() == {f"celeriac: {what}, child of w1" for what in ("idle", "coroutines")}, "idle")
        id = shop("call", "shop.sleep", "-a", "[60]").stdout.strip()
        wait_for(lambda: "celeriac: shop.sleep, child of w1" in titles(), "the title of the task")
        shop("control", "terminate", id)
        wait_for(lambda: "celeriac: idle, child of w1" in titles(), "the title of the next child")
    finally:
        worker.end()


def test_status_shows_changes_made_by_remote_control(folder: Path) -> None:
    worker = RunningWorker(folder, "-c", "1", "-n", "w2", "--grace", "5")
    try:
        assert shop("control", "cancel-consumer", "mail").exit_code == 0
        assert "to 3 for plain functions" in shop("control", "pool-grow", "2").stdout
        [told] = read("status")["workers"]
        assert (told["queues"], told["concurrency"]["plain"]) == (["default"], 3)
        shown = shop("status").stdout
        assert "0 of 103" in shown
        assert re.search(r"^mail .* no worker$", shown, re.MULTILINE)
        assert "capacity: 3 plain" in shop("inspect", "stats").stdout
        assert "shrinks by 2, to 1 for plain functions; one child stays" in shop("control", "pool-shrink", "9").stdout
        result = shop("control", "pool-shrink")
        assert (result.exit_code, "The pool cannot shrink: one child stays." in result.stderr) == (1, True)
        assert shop("control", "add-consumer", "mail").exit_code == 0
        assert read("status")["workers"][0]["queues"] == ["default", "mail"]
    finally:
        worker.end()


def test_a_solo_worker_cannot_grow_and_says_so(folder: Path) -> None:
    worker = RunningWorker(folder, "-P", "solo", "--grace", "5")
    try:
        result = shop("control", "pool-grow", "3")
        assert (result.exit_code, "a solo worker runs one plain function at a time" in result.stderr) == (1, True)
    finally:
        worker.end()


def test_a_worker_without_a_queue_keeps_running_and_accepts_a_new_one(folder: Path) -> None:
    worker = RunningWorker(folder, "-c", "1", "-Q", "mail", "--grace", "5")
    try:
        assert shop("control", "cancel-consumer", "mail").exit_code == 0
        id = shop("call", "shop.add", "-a", "[2, 3]", "-q", "mail").stdout.strip()
        assert shop("result", id, "--wait", "--timeout", "0.5").exit_code == 3
        assert shop("control", "add-consumer", "mail").exit_code == 0
        assert shop("result", id, "--wait", "--timeout", "100").stdout == "5\n"
    finally:
        worker.end()
