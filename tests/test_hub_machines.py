"""The hub, a worker and a caller on three machines, as docs/howto/hub.md describes them: three network namespaces.

Where these cannot be made (they need root, and iproute2), three addresses of the loopback device do.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.environment import without_settings
from tests.patience import PATIENCE, wait_for

PAGE = Path(__file__).parent.parent / "docs" / "howto" / "hub.md"
BRIDGE = "clrc"


class Machine(NamedTuple):
    """A folder, an address, and what comes before each command."""

    folder: Path
    address: str
    prefix: tuple[str, ...]

    def command(self, *arguments: str) -> list[str]:
        return [*self.prefix, sys.executable, "-m", "celeriac", *arguments]

    def run(self, *arguments: str, **environment: str) -> str:
        done = subprocess.run(self.command(*arguments), cwd=self.folder, env={**without_settings(), **environment},
                              text=True, capture_output=True, timeout=PATIENCE, check=False)  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done.stdout

    @contextmanager
    def running(self, ready: str, *arguments: str, **environment: str) -> Iterator[subprocess.Popen[bytes]]:
        log = self.folder / "log"
        with log.open("wb") as output:
            process = subprocess.Popen(self.command(*arguments), cwd=self.folder, stdout=output, stderr=output,
                                       env={**without_settings(), **environment})  # fmt: skip
        try:
            wait_for(lambda: ready in log.read_text(errors="replace") or process.poll() is not None, ready)
            assert process.poll() is None, log.read_text()
            yield process
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
                process.wait(PATIENCE)


def ip(*arguments: str) -> bool:
    return subprocess.run(["ip", *arguments], capture_output=True, check=False).returncode == 0


@pytest.fixture
def machines(tmp_path: Path) -> Iterator[list[Machine]]:
    names = [f"{BRIDGE}{os.getpid()}{letter}" for letter in "abc"]
    net = f"10.{77 + os.getpid() % 100}.{os.getpid() // 100 % 250}"
    folders = [tmp_path / letter for letter in "abc"]
    for folder in folders:
        folder.mkdir()
    with ExitStack() as stack:
        bridge = f"br{os.getpid() % 100_000}"
        if shutil.which("ip") is None or not ip("link", "add", bridge, "type", "bridge"):
            yield [Machine(folder, f"127.0.0.{number}", ()) for number, folder in enumerate(folders, 2)]
            return
        stack.callback(ip, "link", "del", bridge)
        assert ip("link", "set", bridge, "up")
        for number, name in enumerate(names, 1):
            assert ip("netns", "add", name)
            stack.callback(ip, "netns", "del", name)
            outside, inside = f"v{os.getpid() % 100_000}o{number}", f"v{os.getpid() % 100_000}i{number}"
            assert ip("link", "add", outside, "type", "veth", "peer", "name", inside, "netns", name)
            assert ip("link", "set", outside, "master", bridge, "up")
            assert ip("-n", name, "addr", "add", f"{net}.{number}/24", "dev", inside)
            assert ip("-n", name, "link", "set", inside, "up")
            assert ip("-n", name, "link", "set", "lo", "up")
        yield [Machine(folder, f"{net}.{number}", ("ip", "netns", "exec", name))
               for number, (folder, name) in enumerate(zip(folders, names, strict=True), 1)]  # fmt: skip


def test_a_worker_and_a_caller_on_other_machines_use_a_hub_that_is_killed_meanwhile(machines: list[Machine]) -> None:
    server, worker, web = machines
    found = re.search(r"```python\n(# shop\.py\n.*?)```", PAGE.read_text(), re.DOTALL)
    assert found is not None
    for machine in (worker, web):
        (machine.folder / "shop.py").write_text(found[1])
    urls = {}
    for machine, name in ((worker, "worker-1"), (web, "web")):
        told = server.run("hub", "keys", name)
        shutil.move(server.folder / "hub-keys" / f"{name}.key_secret", machine.folder)
        line = re.search(r"broker_url = (\S+)", told)
        assert line is not None
        urls[machine] = line[1].replace("HOST", server.address)
    serve = ("hub", "--bind", f"tcp://{server.address}:5557", "--data", "celeriac.db")
    call = ("-A", "shop", "call", "shop.add", "--args", "[2, 2]")
    with server.running("the hub is ready", *serve) as hub:
        with worker.running("is ready", "-A", "shop", "worker", "-c", "1", CELERIAC_BROKER_URL=urls[worker]) as working:
            assert web.run(*call, "--wait", CELERIAC_BROKER_URL=urls[web]).strip().endswith("4")
            listed = web.run("-A", "shop", "hub", "clients", CELERIAC_BROKER_URL=urls[web])
            assert "worker-1" in listed
            assert worker.address in listed
            hub.kill()
            hub.wait(PATIENCE)
            with server.running("the hub is ready", *serve):
                assert web.run(*call, "--wait", CELERIAC_BROKER_URL=urls[web]).strip().endswith("4")
                assert working.poll() is None
