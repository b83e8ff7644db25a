"""What users install: the wheel, in an environment that has its dependencies and nothing else; and the Dockerfile."""

from __future__ import annotations

import re
import shlex
import shutil
import signal
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from importlib.metadata import distribution
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import click
import pytest
import yaml
from packaging.requirements import Requirement

from celeriac.__about__ import VERSION
from celeriac.cli import main
from celeriac.config.definitions import DEFINITIONS
from tests.environment import without_settings
from tests.patience import PATIENCE, wait_for

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]

SHOP = """
from celeriac import Celeriac

app = Celeriac("shop")


@app.task
def add(x: int, y: int) -> int:
    return x + y
"""

USE = """
import celeriac
from shop import add, app

print(celeriac.__file__)
print(add.apply((2, 2)).get())
app.conf.task_always_eager = True
print(add.delay(20, 22).get())
"""


@pytest.fixture(scope="module")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build what `make dist` builds; return its folder."""
    folder = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    subprocess.run(command, check=True, capture_output=True, timeout=PATIENCE)
    return folder


@pytest.fixture(scope="module")
def installed(dist: Path) -> Path:
    """Install the wheel into an environment of its own, with what it says it needs; return the folder of commands."""
    environment = dist / "environment"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(environment)], check=True, timeout=PATIENCE)
    install = [sys.executable, "-m", "pip", "--python", str(environment / "bin/python"), "install", "--quiet",
               "--no-index", "--no-deps", str(wheel(dist))]  # fmt: skip
    subprocess.run(install, check=True, timeout=PATIENCE, env=without_settings())
    (packages,) = environment.glob("lib/python*/site-packages")
    for name in needed(PROJECT["dependencies"]):
        for top in {file.parts[0] for file in distribution(name).files or [] if ".." not in file.parts}:
            if not (packages / top).exists():
                (packages / top).symlink_to(Path(str(distribution(name).locate_file(top))))
    return environment / "bin"


def wheel(dist: Path) -> Path:
    return dist / f"celeriac-{VERSION}-py3-none-any.whl"


def needed(requirements: list[str]) -> set[str]:
    """Return the names of these packages, and of those that they need themselves."""
    found: set[str] = set()
    left = [Requirement(text) for text in requirements]
    while left:
        requirement = left.pop()
        if requirement.name not in found and (requirement.marker is None or requirement.marker.evaluate({"extra": ""})):
            found.add(requirement.name)
            left += map(Requirement, distribution(requirement.name).requires or [])
    return found


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    (tmp_path / "shop.py").write_text(SHOP, encoding="utf-8")
    (tmp_path / "use.py").write_text(USE, encoding="utf-8")
    return tmp_path


# --- The distributions --------------------------------------------------------------------------------


def test_the_wheel_holds_the_package_and_nothing_else(dist: Path) -> None:
    names = zipfile.ZipFile(wheel(dist)).namelist()
    metadata = f"celeriac-{VERSION}.dist-info"
    assert {PurePosixPath(name).parts[0] for name in names} == {"celeriac", "pytest_celeriac", metadata}
    source = ROOT / "src/celeriac"
    expected = {f"celeriac/{path.relative_to(source)}" for path in source.rglob("*")
                if path.is_file() and "__pycache__" not in path.parts}  # fmt: skip
    assert {name for name in names if name.startswith("celeriac/")} == expected
    assert "celeriac/py.typed" in names
    suffixes = {PurePosixPath(name).suffix for name in expected}
    assert suffixes == {".py", ".lua", ".typed", ".css", ".html", ".js", ".svg"}
    assert f"{metadata}/licenses/LICENSE" in names
    points = zipfile.ZipFile(wheel(dist)).read(f"{metadata}/entry_points.txt").decode()
    assert "[pytest11]\npytest_celeriac = pytest_celeriac\n" in points


def test_the_sdist_can_be_built_and_tested(dist: Path) -> None:
    with tarfile.open(dist / f"celeriac-{VERSION}.tar.gz") as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {"pyproject.toml", "README.md", "LICENSE", "Makefile", "zensical.toml", "src/celeriac/py.typed",
            "tests/test_dist.py", "docs/index.md", "tools/site.py"} <= names  # fmt: skip
    assert {name for name in names if re.search(r"\.(db|pyc|log|env)$|^(build|dist|\.venv)/", name)} == set()


def test_the_extras_that_pages_name_exist() -> None:
    extras = {*PROJECT["optional-dependencies"]}
    pages = [ROOT / "README.md", ROOT / "Dockerfile", *(ROOT / "docs").rglob("*.md")]
    named = {extra for page in pages for found in re.findall(r"celeriac(?:\.whl)?\[([\w,]+)\]", page.read_text("utf-8"))
             for extra in found.split(",")}  # fmt: skip
    assert named - extras == set()
    assert named >= {"redis", "amqp", "uvloop"}


def test_an_installed_wheel_runs_tasks_here_and_on_a_worker(installed: Path, shop: Path) -> None:
    def run(*command: str) -> str:
        done = subprocess.run([installed / command[0], *command[1:]], cwd=shop, env=without_settings(), text=True,
                              stdout=subprocess.PIPE, check=True, timeout=PATIENCE)  # fmt: skip
        return done.stdout

    assert run("celeriac", "--version") == f"celeriac, version {VERSION}\n"
    where, applied, eager = run("python", "use.py").splitlines()
    assert Path(where).is_relative_to(installed.parent)
    assert (applied, eager) == ("4", "42")
    worker = subprocess.Popen([installed / "celeriac", "-A", "shop", "worker", "-c", "1"], cwd=shop,
                              env=without_settings(), stderr=subprocess.DEVNULL)  # fmt: skip
    try:
        call = ["celeriac", "-A", "shop", "call", "shop.add", "--args", "[20, 22]", "--wait"]
        assert run(*call, "--timeout", str(PATIENCE)) == "42\n"
        worker.terminate()
        assert worker.wait(PATIENCE) == 0
    finally:
        worker.kill()
        worker.wait()


# --- The image ----------------------------------------------------------------------------------------


class Instruction(NamedTuple):
    """An instruction of a Dockerfile, its lines joined."""

    word: str
    rest: str


def dockerfile() -> list[Instruction]:
    text = re.sub(r"^#.*\n", "", (ROOT / "Dockerfile").read_text(encoding="utf-8"), flags=re.MULTILINE)
    lines = re.sub(r"\\\n\s*", " ", text).splitlines()
    return [Instruction(*line.split(" ", 1)) for line in lines if line.strip()]


def shell_of(word: str) -> str:
    """Return what the shell is given by the image's CMD or HEALTHCHECK."""
    (rest,) = [found.rest for found in dockerfile() if found.word == word]
    if word == "HEALTHCHECK":
        return rest.partition("CMD ")[2]
    sh, c, text = re.findall(r'"((?:[^"\\]|\\.)*)"', rest)
    assert (sh, c) == ("sh", "-c")
    return str(text.replace('\\"', '"'))


def test_the_image_copies_what_its_context_has_and_its_package_needs(tmp_path: Path) -> None:
    ignored = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    kept = {line[1:] for line in ignored if line.startswith("!")}
    assert "*" in ignored
    stages = {found.rest.partition(" AS ")[2] for found in dockerfile() if found.word == "FROM"}
    copied: set[str] = set()
    for found in dockerfile():
        if found.word == "COPY":
            *sources, _ = shlex.split(found.rest)
            if sources[0].startswith("--from="):
                assert sources[0].removeprefix("--from=") in stages
            else:
                copied |= {*sources}
    assert copied == kept
    for name in copied:
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copyfile
        copy(ROOT / name, tmp_path / name)
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", str(tmp_path)]
    subprocess.run(command, check=True, capture_output=True, timeout=PATIENCE)
    assert wheel(tmp_path / "dist").exists()


def test_the_image_installs_extras_that_exist_and_runs_as_a_user_without_rights() -> None:
    runs = " ".join(found.rest for found in dockerfile() if found.word == "RUN")
    extras = re.findall(r"'\.\[([\w,]+)\]'", runs)
    assert extras == ["redis,amqp,uvloop,web,prometheus"]
    assert {*extras[0].split(",")} <= {*PROJECT["optional-dependencies"]}
    (user,) = [found.rest for found in dockerfile() if found.word == "USER"]
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", user)  # a number: Kubernetes checks `runAsNonRoot` by it
    assert f"--uid {user.partition(':')[0]} " in runs
    (python,) = {found.rest.split()[0] for found in dockerfile() if found.word == "FROM"}
    assert tuple(map(int, re.findall(r"\d+", python))) >= (3, 11)


def check(text: str) -> None:
    """Check that a command line of `celeriac` names commands and options that exist."""
    words = shlex.split(text)
    arguments = words[words.index("celeriac") + 1 :]
    command: click.Command = main
    with click.Context(main, **main.context_settings) as context:  # commands keep the names of their help options
        while isinstance(command, click.Group):
            _, found, arguments = command.resolve_command(context, arguments)
            assert found is not None
            command = found
        command.make_context(command.name, [*arguments], parent=context)


@pytest.mark.parametrize("word", ["CMD", "HEALTHCHECK"])
def test_the_image_runs_commands_that_exist(word: str) -> None:
    check(shell_of(word))


def test_the_manifests_run_commands_that_exist_and_wait_longer_than_the_worker() -> None:
    page = (ROOT / "docs/howto/containers.md").read_text(encoding="utf-8")
    compose, manifest = map(yaml.safe_load, re.findall(r"^```yaml\n(.*?)^```$", page, re.MULTILINE | re.DOTALL))
    pod = manifest["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    check(shlex.join(container["command"]))
    *_, probe = container["livenessProbe"]["exec"]["command"]
    check(probe)
    grace = DEFINITIONS["worker_grace_seconds"].default
    assert pod["terminationGracePeriodSeconds"] > grace
    assert int(compose["services"]["worker"]["stop_grace_period"].removesuffix("s")) > grace
    users = {found.rest.partition(":")[0] for found in dockerfile() if found.word == "USER"}
    assert users == {str(pod["securityContext"]["runAsUser"])}


def test_the_check_of_the_image_asks_its_own_worker(installed: Path, shop: Path) -> None:
    names = [f"{installed}:/usr/bin:/bin", "shop", "container"]
    settings = {**without_settings(), **dict(zip(["PATH", "CELERIAC_APP", "HOSTNAME"], names, strict=True))}

    def healthy(host: str) -> bool:
        asked = subprocess.run(["sh", "-c", shell_of("HEALTHCHECK")], cwd=shop, env={**settings, "HOSTNAME": host},
                               capture_output=True, timeout=PATIENCE)  # fmt: skip
        return asked.returncode == 0

    worker = subprocess.Popen(["sh", "-c", shell_of("CMD")], cwd=shop, env=settings, stderr=subprocess.DEVNULL)
    try:
        wait_for(lambda: healthy("container"), "the worker's answer")
        assert not healthy("another")
        (stop,) = [found.rest for found in dockerfile() if found.word == "STOPSIGNAL"]
        worker.send_signal(getattr(signal, stop))
        assert worker.wait(PATIENCE) == 0
        assert not healthy("container")
    finally:
        worker.kill()
        worker.wait()
