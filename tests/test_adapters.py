"""Adapters of other packages: found by entry points, with settings of their own. The one in examples/adapter works."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier
from typing import Any

import pytest

import celeriac.app.app
from celeriac import Celeriac
from celeriac.app.connections import open_backend
from celeriac.brokers.memory import MemoryBroker
from celeriac.config.definitions import definitions_of
from celeriac.config.settings import Settings
from celeriac.drivers.memory import Store
from celeriac.errors import BackendError, ImproperlyConfigured
from celeriac.ports.abilities import BACKEND_ABILITIES, BROKER_ABILITIES, Ability
from celeriac.testing import running_worker
from tests.clock import FakeClock
from tests.conformance.backend import BackendConformance, WorkflowConformance
from tests.conformance.broker import LONG, Ports
from tests.patience import PATIENCE

EXAMPLE = Path(__file__).parent.parent / "examples" / "adapter"

Install = Callable[..., None]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    """Install a package, as pip does: its module, and its entry points."""
    site = tmp_path / "site"
    site.mkdir()
    modules: list[str] = []

    def install(name: str, entry_points: dict[str, dict[str, str]], **sources: str) -> None:
        for module, source in sources.items():
            (site / f"{module}.py").write_text(source, encoding="utf-8")
            modules.append(module)
        info = site / f"{name.replace('-', '_')}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        lines = [
            f"[{group}]\n" + "".join(f"{key} = {value}\n" for key, value in entries.items())
            for group, entries in entry_points.items()
        ]
        (info / "entry_points.txt").write_text("\n".join(lines))
        monkeypatch.syspath_prepend(str(site))

    yield install
    for module in modules:
        sys.modules.pop(module, None)


@pytest.fixture
def folder(install: Install) -> None:
    """The example, installed."""
    project = tomllib.loads((EXAMPLE / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    source = (EXAMPLE / "celeriac_folder.py").read_text(encoding="utf-8")
    install(project["name"], project["entry-points"], celeriac_folder=source)


@pytest.fixture
def ports(folder: None, clock: FakeClock, tmp_path: Path) -> Ports:
    (tmp_path / "results").mkdir()
    store = Store()
    backend = open_backend(f"folder://{tmp_path}/results", "memory://", Settings(), clock)
    return Ports(MemoryBroker(store, clock), backend, clock, lambda: MemoryBroker(store, clock),
                 lists_unfinished=False)  # fmt: skip


class TestBackend(BackendConformance):
    pass


class TestWorkflows(WorkflowConformance):
    pass


def test_an_app_uses_the_example_by_its_url(folder: None, make_app: Callable[..., Celeriac], tmp_path: Path) -> None:
    app = make_app(result_backend=f"folder://{tmp_path}", folder_fsync=True)
    assert app.conf.changed()["folder_fsync"] is True
    assert not app.sends_outcomes

    @app.task
    def add(x: int, y: int) -> int:
        return x + y

    with running_worker(app):
        assert (app.canvas.group(add.s(1, 1), add.s(2, 2)) | add.s([3])).delay().get(timeout=LONG) == [2, 4, 3]
    assert app.backend.fsync  # type: ignore[attr-defined]


def test_a_folder_that_is_missing_is_named(folder: None, make_app: Callable[..., Celeriac]) -> None:
    app = make_app(result_backend="folder:///no/such/folder")
    with pytest.raises(BackendError, match="/no/such/folder"):
        app.backend.fetch(["x"])


def test_the_example_is_under_a_hundred_lines() -> None:
    assert len((EXAMPLE / "celeriac_folder.py").read_text(encoding="utf-8").splitlines()) < 100


def test_the_page_shows_the_example() -> None:
    page = (EXAMPLE.parent.parent / "docs" / "howto" / "adapters.md").read_text(encoding="utf-8")
    for name in ("celeriac_folder.py", "pyproject.toml"):
        assert (EXAMPLE / name).read_text(encoding="utf-8") in page


# --- Settings -----------------------------------------------------------------------------------------


def test_the_settings_of_an_adapter_are_checked_and_have_defaults(folder: None) -> None:
    settings = Settings()
    assert settings.folder_fsync is False
    assert "folder_fsync" not in settings.changed()
    assert Settings(environ={"CELERIAC_FOLDER_FSYNC": "1"}).folder_fsync is True
    assert Settings({"folder_fsync": True}).changed() == {"folder_fsync": True}
    with pytest.raises(ImproperlyConfigured, match="folder_fsync takes True or False, not 'yes'"):
        settings.folder_fsync = "yes"


def test_a_mistyped_setting_of_an_adapter_is_refused_with_the_nearest_name(folder: None) -> None:
    for name in ("folder_fsnc", "foldr_fsync"):
        with pytest.raises(ImproperlyConfigured, match="Did you mean 'folder_fsync'"):
            Settings({name: True})
        with pytest.raises(AttributeError, match="Did you mean 'folder_fsync'"):
            getattr(Settings(), name)


def test_a_setting_of_an_adapter_that_is_not_installed_is_unknown() -> None:
    with pytest.raises(ImproperlyConfigured, match="no setting 'folder_fsync'"):
        Settings({"folder_fsync": True})


def test_a_setting_must_begin_with_its_scheme(install: Install) -> None:
    source = 'from typing import Annotated\nclass Settings:\n    task_x: Annotated[int, "x"] = 1\ndef connect(): ...\n'
    install("bad-prefix", {"celeriac.backends": {"badprefix": "celeriac_bad_prefix"}}, celeriac_bad_prefix=source)
    with pytest.raises(ImproperlyConfigured, match=r"bad-prefix defines the setting 'task_x'.*'badprefix_'"):
        open_backend("badprefix://", "memory://", Settings(), FakeClock())


def test_a_setting_is_defined_with_type_meaning_and_default() -> None:
    class Wrong:
        folder_x: int = 1

    with pytest.raises(TypeError, match="folder_x"):
        definitions_of(Wrong)


# --- Schemes ------------------------------------------------------------------------------------------


def test_a_backend_is_no_broker(folder: None, app: Celeriac) -> None:
    app.conf.broker_url = "folder:///tmp"
    with pytest.raises(ImproperlyConfigured, match=r"folder:// is only a result backend. Set `broker_url`"):
        _ = app.broker
    app.conf.broker_url = "rpc://"
    with pytest.raises(ImproperlyConfigured, match=r"rpc:// is only a result backend"):
        _ = app.broker


@pytest.mark.parametrize("scheme", ["memcached", "cache+memcached", "tyrant", "tyrant+memcached"])
def test_a_built_in_backend_is_no_broker(app: Celeriac, scheme: str) -> None:
    app.conf.broker_url = f"{scheme}://localhost"
    with pytest.raises(ImproperlyConfigured, match=rf"{re.escape(scheme)}:// is only a result backend"):
        _ = app.broker


def test_a_broker_of_another_package_is_no_backend(install: Install, app: Celeriac) -> None:
    source = "from celeriac.brokers.memory import connect\n"
    install("line", {"celeriac.brokers": {"line": "celeriac_line"}}, celeriac_line=source)
    app.conf.broker_url = "line://x"
    assert isinstance(app.broker, MemoryBroker)
    with pytest.raises(ImproperlyConfigured, match=r"line:// is only a broker. Set `result_backend`"):
        _ = app.backend


def test_an_entry_point_may_be_an_object(install: Install, app: Celeriac) -> None:
    source = "import celeriac.brokers.memory as m\nclass Adapter:\n    connect = staticmethod(m.connect)\n"
    install("thing", {"celeriac.brokers": {"thing": "celeriac_thing:Adapter"}}, celeriac_thing=source)
    app.conf.broker_url = "thing://x"
    assert isinstance(app.broker, MemoryBroker)


def test_a_mistyped_scheme_is_told_the_nearest_and_what_it_needs(folder: None, app: Celeriac) -> None:
    app.conf.result_backend = "foldr:///tmp"
    with pytest.raises(ImproperlyConfigured, match=r"Did you mean 'folder://'\? Known: .*folder://"):
        _ = app.backend
    app.conf.broker_url = "redsi://x"
    with pytest.raises(ImproperlyConfigured, match=r"Did you mean 'redis://'\? It needs: pip install 'celeriac\[redis"):
        _ = app.broker


@pytest.mark.parametrize("scheme", ["amqp", "amqps10", "stomp", "redis", "rediss", "zmq"])
@pytest.mark.parametrize("port", ["0", "65536", "99999"])
def test_a_port_that_does_not_exist_is_refused_where_the_url_is_read(
    make_app: Callable[..., Celeriac], scheme: str, port: str
) -> None:
    with pytest.raises(ImproperlyConfigured, match=r"(?i)port"):
        _ = make_app(broker_url=f"{scheme}://localhost:{port}").broker


@pytest.mark.parametrize("scheme", ["memcached", "tyrant", "mongodb"])
def test_a_port_of_a_backend_that_does_not_exist_is_refused(make_app: Callable[..., Celeriac], scheme: str) -> None:
    with pytest.raises(ImproperlyConfigured, match=r"(?i)port"):
        _ = make_app(result_backend=f"{scheme}://localhost:99999").backend
    with pytest.raises(ImproperlyConfigured, match="there is no port 99999"):
        _ = make_app(broker_url="redis+sentinel://localhost:99999/service").broker


def test_a_mistyped_broker_without_a_backend_of_its_own_is_a_mistake_of_the_broker(
    make_app: Callable[..., Celeriac],
) -> None:
    app = make_app(broker_url="amqqp://h", result_backend=None)
    with pytest.raises(ImproperlyConfigured, match=r"the setting `broker_url`\. Did you mean 'amqp://'"):
        _ = app.backend


@pytest.mark.parametrize(
    ("value", "source", "why"),
    [
        ("celeriac_broken", "import no_such_module\n", "No module named 'no_such_module'"),
        ("celeriac_broken:nothing", "", "nothing"),
        ("celeriac_broken", "", "connect"),
        ("celeriac_broken", "1 / 0\n", "ZeroDivisionError"),
        ("celeriac_broken", "class Settings:\n    broken_x: int = 1\ndef connect(): ...\n", "broken_x"),
    ],
)
def test_a_broken_entry_point_names_its_package(
    install: Install, app: Celeriac, value: str, source: str, why: str
) -> None:
    install("the-package", {"celeriac.backends": {"broken": value}}, celeriac_broken=source)
    app.conf.result_backend = "broken://x"
    with pytest.raises(ImproperlyConfigured, match=f"broken://.*the-package.*cannot be loaded: .*{why}"):
        _ = app.backend
    with pytest.raises(ImproperlyConfigured, match="Did you mean 'task_acks_late'"):
        app.conf.update(task_ack_late=True)


def test_two_packages_that_offer_one_scheme_are_named(install: Install, app: Celeriac) -> None:
    for name in ("one", "two"):
        install(name, {"celeriac.backends": {"twice": f"celeriac_{name}"}}, **{f"celeriac_{name}": ""})
    app.conf.result_backend = "twice://x"
    with pytest.raises(ImproperlyConfigured, match=r"Two packages offer twice://.* (one and two|two and one)\."):
        _ = app.backend


def test_installed_packages_are_not_searched_for_built_in_schemes_and_settings() -> None:
    code = (
        "import sys; from celeriac import Celeriac; app = Celeriac('x', broker_url='memory://', task_acks_late=True);"
        "app.broker, app.backend, app.sends_outcomes; assert 'importlib.metadata' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=LONG)


def test_every_adapter_is_in_the_contracts_that_keep_adapters_apart() -> None:
    root = EXAMPLE.parent.parent
    tools = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["tool"]
    contracts = tools["importlinter"]["contracts"]
    listed = {module for contract in contracts if contract["type"] == "independence" for module in contract["modules"]}
    shared = {"__init__", "bases", "dead_workers", "key_value", "key_value_workflows", "queue_server", "replies",
              "reply_subscriptions", "stamped_values"}  # fmt: skip
    adapters = {
        f"celeriac.{package}.{path.stem}"
        for package in ("brokers", "backends")
        for path in (root / "src" / "celeriac" / package).iterdir()
        if path.stem not in shared and not path.name.startswith("__pycache__")
    }
    assert adapters <= listed


def test_each_ability_is_one_of_brokers_or_of_backends() -> None:
    assert sorted([*BROKER_ABILITIES, *BACKEND_ABILITIES], key=str) == sorted(Ability, key=str)


def test_threads_that_use_an_app_first_at_the_same_time_share_broker_backend_and_history(
    make_app: Callable[..., Celeriac], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each opens them before it knows of the others."""
    everyone = Barrier(4, timeout=PATIENCE)

    def meeting(opened: Callable[..., Any]) -> Callable[..., Any]:
        def meet(*arguments: Any) -> Any:
            made = opened(*arguments)
            everyone.wait()
            return made

        return meet

    for name in ("open_broker", "open_backend", "history_of"):
        monkeypatch.setattr(f"celeriac.app.app.{name}", meeting(getattr(celeriac.app.app, name)))
    app = make_app()
    with ThreadPoolExecutor(4) as threads:
        for what in ("broker", "backend", "history"):
            assert len({id(found) for found in threads.map(lambda _, what=what: getattr(app, what), range(4))}) == 1
