"""`celeriac worker --reload`: a real worker, and code that changes on the disk."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from click.testing import CliRunner

from celeriac import AsyncResult, Celeriac
from celeriac.cli import main
from tests.environment import without_settings
from tests.patience import PATIENCE, wait_for

CELERIAC = str(Path(sys.executable).with_name("celeriac"))

SHOP = """
import os
import time
from pathlib import Path

from celeriac import Celeriac

app = Celeriac("shop")


@app.task
def version() -> str:
    return "{version}"


@app.task(bind=True)
def build(self) -> list:
    Path("started").touch()
    while not Path("go").exists():
        time.sleep(0.01)
    return ["{version}", self.request.deliveries]


@app.task
def process() -> int:
    return os.getpid()
"""


class Reloading:
    """`celeriac -A shop worker --reload`, in a folder of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.app = Celeriac("shop", broker_url=f"sqlite:///{folder}/celeriac.db", task_create_missing_queues=True)
        self.log = folder / "worker.log"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, *before: str, cwd: Path | None = None) -> None:
        command = [CELERIAC, *before, "-A", "shop", "worker", "--reload", "-c", "1", "--grace", str(PATIENCE)]
        with self.log.open("wb") as out:
            self.process = subprocess.Popen(command, cwd=cwd or self.folder, env=without_settings(), stdout=out,
                                            stderr=out)  # fmt: skip

    def write(self, version: str) -> None:
        (self.folder / "shop.py").write_text(SHOP.replace("{version}", version))

    def says(self, text: str, times: int = 1) -> None:
        assert self.process is not None
        process = self.process
        wait_for(lambda: self.log.read_text().count(text) >= times or process.poll() is not None, text)
        assert self.log.read_text().count(text) >= times, self.log.read_text()

    def call(self, task: str) -> AsyncResult[Any]:
        return self.app.send_task(f"shop.{task}")

    def answers(self, version: str) -> None:
        """Wait until tasks run this version. The worker before may still take some."""
        wait_for(lambda: self.call("version").get(PATIENCE) == version, f"version {version}")

    def end(self, number: int = signal.SIGTERM) -> int:
        assert self.process is not None
        self.process.send_signal(number)
        return self.process.wait(PATIENCE)


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[Reloading]:
    shop = Reloading(tmp_path)
    shop.write("one")
    yield shop
    (tmp_path / "go").touch()
    if shop.process is not None and shop.process.poll() is None:
        shop.process.kill()  # its worker ends then
        shop.process.wait()
    shop.app.close()


def test_the_next_task_runs_the_code_that_is_on_the_disk(shop: Reloading) -> None:
    shop.start()
    shop.answers("one")
    shop.write("two")
    shop.answers("two")
    shop.says("shop.py has changed: the worker is replaced.")
    (shop.folder / "other.toml").write_text("")
    shop.says("other.toml has changed")
    shop.says("is ready.", times=3)
    assert shop.end() == 0


def test_a_task_that_runs_ends_before_its_worker_is_replaced(shop: Reloading) -> None:
    shop.start()
    building = shop.call("build")
    wait_for((shop.folder / "started").exists, "the task")
    shop.write("two")
    shop.says("Shutting down after SIGTERM")
    assert not building.ready()
    (shop.folder / "go").touch()
    assert building.get(PATIENCE) == ["one", 1]
    shop.answers("two")


def test_a_syntax_error_is_told_and_the_next_change_is_tried(shop: Reloading) -> None:
    shop.start()
    shop.answers("one")
    (shop.folder / "shop.py").write_text("def (:")
    shop.says("The module 'shop' cannot be imported: SyntaxError")
    shop.says("The worker has ended with exit code 2. The next change in")
    shop.write("two")
    shop.answers("two")
    assert shop.end() == 0


def test_code_that_is_wrong_from_the_start_can_be_mended(shop: Reloading) -> None:
    (shop.folder / "shop.py").write_text("import nothing_of_this_name")
    shop.start()
    shop.says("The worker has ended with exit code 2.")
    shop.write("two")
    shop.answers("two")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_the_worker_warmly(shop: Reloading, number: int) -> None:
    shop.start()
    building = shop.call("build")
    wait_for((shop.folder / "started").exists, "the task")
    assert shop.process is not None
    shop.process.send_signal(number)
    shop.says("Shutting down after SIGTERM")
    assert shop.process.poll() is None
    (shop.folder / "go").touch()
    assert shop.process.wait(PATIENCE) == 0
    assert building.get(PATIENCE) == ["one", 1]
    assert "Cold shutdown" not in shop.log.read_text()


def test_a_second_signal_stops_it_at_once(shop: Reloading) -> None:
    shop.start()
    building = shop.call("build")
    wait_for((shop.folder / "started").exists, "the task")
    assert shop.process is not None
    shop.process.send_signal(signal.SIGTERM)
    shop.says("Shutting down after SIGTERM")
    assert shop.end(signal.SIGQUIT) == 0
    assert not building.ready()


def test_a_signal_while_a_worker_is_replaced_starts_no_other(shop: Reloading) -> None:
    shop.start()
    building = shop.call("build")
    wait_for((shop.folder / "started").exists, "the task")
    shop.write("two")
    shop.says("Shutting down after SIGTERM")
    assert shop.process is not None
    shop.process.send_signal(signal.SIGTERM)
    (shop.folder / "go").touch()
    assert shop.process.wait(PATIENCE) == 0
    assert building.get(PATIENCE) == ["one", 1]
    assert shop.log.read_text().count("is ready.") == 1


def test_a_worker_whose_parent_is_killed_ends(shop: Reloading) -> None:
    shop.start()
    child = psutil.Process(shop.call("process").get(PATIENCE))
    assert shop.process is not None
    shop.process.kill()
    wait_for(lambda: not child.is_running() or child.status() == psutil.STATUS_ZOMBIE, "the end of its child")


def test_a_worker_that_a_command_shuts_down_is_not_started_again(shop: Reloading) -> None:
    shop.start()
    shop.answers("one")
    shop.app.broker.complete(shop.app.control.send("shutdown"))
    assert shop.process is not None
    assert shop.process.wait(PATIENCE) == 0


def test_the_workdir_is_what_is_watched(shop: Reloading) -> None:
    shop.start("--workdir", shop.folder.name, cwd=shop.folder.parent)
    shop.says(f"Watching {shop.folder}")
    shop.answers("one")
    shop.write("two")
    shop.answers("two")


def test_without_watchfiles_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "watchfiles", None)
    result = CliRunner().invoke(main, ["-A", "shop", "worker", "--reload"])
    assert (result.exit_code, "pip install 'celeriac[reload]'" in result.output) == (2, True)


def test_the_worker_command_does_not_load_watchfiles() -> None:
    code = "import sys, celeriac.cli.worker; sys.exit('watchfiles' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False, env=dict(os.environ)).returncode == 0
