"""What callers of tasks and workers do not use is not imported by them: it would cost each of their processes time and
memory, and each full garbage collection goes through it. `celeriac/lazy.py` imports on first use.

A module that one of these tests finds is needed by few programs. Import it in a module that those alone import, or by
`LazyModule`. The numbers of modules are bounds with room for a few more, not promises.
"""

from __future__ import annotations

import ast
import signal
import subprocess
import sys
from pathlib import Path

import celeriac
from celeriac import Celeriac, chain, group
from celeriac.lazy import LazyModule
from celeriac.tasks.builtin_names import GATHER, MAIL, MAP, STARMAP, WEBHOOK
from tests.environment import without_settings
from tests.needs import needs_package
from tests.patience import PATIENCE

RARE = {"celeriac.beat", "celeriac.cli.beat", "celeriac.dashboard", "celeriac.http", "celeriac.hub",
        "celeriac.inspector", "celeriac.mail", "celeriac.model.keys", "celeriac.model.seals", "celeriac.schedules",
        "celeriac.web", "email", "hmac", "rich", "secrets", "tomllib", "zoneinfo"}  # fmt: skip
"""Packages and modules that neither a plain caller nor a plain worker imports."""

OF_WORKERS = {"celeriac.app.notifier", "celeriac.canvas", "celeriac.cli", "celeriac.logs", "celeriac.metrics",
              "celeriac.worker", "asyncio", "click", "ctypes", "difflib", "hashlib", "json", "pickle",
              "ssl", "subprocess"}  # fmt: skip
"""… and that a caller does not import."""

SHOP = """
import os, sys
from celeriac import Celeriac, signals

app = Celeriac("shop")

@app.task
def modules():
    return sorted(sys.modules)

@signals.worker_shutting_down.connect
def note(**more):
    with open("supervisor", "w") as file:
        file.write("\\n".join(sys.modules))
"""


def modules_after(code: str, folder: Path) -> set[str]:
    """Return what a fresh interpreter has imported after some code, without what it imports in any case."""
    code = f"import sys\nat_start = set(sys.modules)\n{code}\nprint(*set(sys.modules) - at_start)"
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=folder, env=without_settings(), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split())


def found(modules: set[str], unwanted: set[str]) -> set[str]:
    """Return which of the unwanted modules, and of those in unwanted packages, are there."""
    return {name for name in modules for one in unwanted if name == one or name.startswith(f"{one}.")}


def ours(modules: set[str]) -> int:
    return sum(name.partition(".")[0] == "celeriac" for name in modules)


def test_importing_celeriac_imports_what_a_caller_needs(tmp_path: Path) -> None:
    modules = modules_after("from celeriac import Celeriac, shared_task, signals, AsyncResult", tmp_path)
    assert found(modules, RARE | OF_WORKERS | {"celeriac.brokers", "celeriac.drivers", "sqlite3"}) == set()
    assert ours(modules) <= 80
    assert len(modules) <= 200


def test_sending_tasks_imports_the_broker_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "shop.py").write_text(SHOP)
    modules = modules_after("import shop\nshop.modules.delay()\nlist(shop.modules.delay_many([()]))", tmp_path)
    assert "celeriac.brokers.sqlite" in modules
    assert found(modules, RARE | OF_WORKERS | {"celeriac.backends"}) == set()
    assert ours(modules) <= 105


def test_a_worker_without_schedules_mails_and_http_tasks_imports_nothing_for_them(tmp_path: Path) -> None:
    (tmp_path / "shop.py").write_text(SHOP)
    app = Celeriac("shop", broker_url=f"sqlite:///{tmp_path}/celeriac.db")
    command = [sys.executable, "-m", "celeriac", "--app", "shop", "worker", "--concurrency", "1"]
    with (tmp_path / "log").open("w") as log, subprocess.Popen(
            command, cwd=tmp_path, env=without_settings(), stdout=log, stderr=log) as worker:  # fmt: skip
        try:
            in_child = set(app.send_task("shop.modules").get(timeout=PATIENCE))
        finally:
            worker.send_signal(signal.SIGTERM)
        assert worker.wait(PATIENCE) == 0
    app.close()
    in_supervisor = set((tmp_path / "supervisor").read_text().split())
    for modules in (in_child, in_supervisor):
        assert "celeriac.worker.supervisor" in modules
        assert found(modules, RARE | {"celeriac.canvas.workflows", "celeriac.cli.reload"}) == set()
        assert ours(modules) <= 180


def test_help_imports_no_command_and_no_table(tmp_path: Path) -> None:
    code = "from celeriac.cli import main\ntry:\n    main(['--help'])\nexcept SystemExit:\n    print()"
    modules = modules_after(code, tmp_path)
    assert found(modules, {"asyncio", "celeriac.brokers", "celeriac.inspector", "celeriac.worker", "rich"}) == set()
    commands = {name for name in modules if name.startswith("celeriac.cli.")}
    assert commands == {f"celeriac.cli.{name}" for name in ("lazy", "output", "root")}


@needs_package("django", "django")
def test_setting_up_django_with_the_models_imports_no_sqlalchemy(tmp_path: Path) -> None:
    """Each command of `manage.py` does it, and most ask for no result."""
    code = """
import django
from django.conf import settings

settings.configure(DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": "shop.db"}}, USE_TZ=True,
                   INSTALLED_APPS=["django.contrib.contenttypes", "django.contrib.auth",
                                   "celeriac.contrib.django.db"])
django.setup()
"""
    modules = modules_after(code, tmp_path)
    assert "celeriac.contrib.django.db.models" in modules
    assert found(modules, {"sqlalchemy", "celeriac.backends.sql"}) == set()


def test_every_public_name_is_there_and_listed() -> None:
    assert set(celeriac.__all__) <= set(dir(celeriac))
    assert [name for name in celeriac.__all__ if not hasattr(celeriac, name)] == []
    assert not hasattr(celeriac, "chian")


def test_a_name_is_bound_on_its_first_use(tmp_path: Path) -> None:
    code = """
import celeriac
assert "crontab" not in vars(celeriac)
assert celeriac.crontab is vars(celeriac)["crontab"]
"""
    assert "celeriac.schedules.crontab" in modules_after(code, tmp_path)


def test_a_lazy_module_is_imported_when_a_name_is_used_and_raises_what_its_import_raises(tmp_path: Path) -> None:
    (tmp_path / "broken.py").write_text("raise OSError('no disk')")
    code = """
from celeriac.lazy import LazyModule
lazy = [LazyModule("zoneinfo"), LazyModule("broken"), LazyModule("not_there")]
assert "zoneinfo" not in sys.modules
assert lazy[0].ZoneInfo is sys.modules["zoneinfo"].ZoneInfo
for module, error in ((lazy[1], OSError), (lazy[2], ModuleNotFoundError)):
    try:
        module.name
    except error:
        continue
    raise AssertionError(module)
"""
    assert "zoneinfo" in modules_after(code, tmp_path)
    assert repr(LazyModule("zoneinfo")) == "<LazyModule zoneinfo>"


def names_of(node: ast.stmt) -> dict[str, str]:
    """Return the names that a statement imports, or makes of lazy modules, with what they stand for."""
    if isinstance(node, ast.Import):
        return {one.asname or one.name: one.name for one in node.names}
    if isinstance(node, ast.ImportFrom):
        return {one.asname or one.name: f"{node.module}.{one.name}" for one in node.names}
    match node:
        case ast.Assign([ast.Name(name)], ast.Call(ast.Name("LazyModule"), [ast.Constant(module)])):
            return {name: module}
        case ast.Assign(_, ast.Call(ast.Name("lazy_names"), [_, homes])):
            return {name: f"{module}.{name}" for module, names in ast.literal_eval(homes).items() for name in names}
    return {}


def test_what_is_imported_lazily_is_what_mypy_and_import_linter_read() -> None:
    count = 0
    for path in Path(celeriac.__path__[0]).rglob("*.py"):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
                read = {name: one for part in node.body for name, one in names_of(part).items()}
                lazy = {name: one for part in node.orelse for name, one in names_of(part).items()
                        if not isinstance(part, ast.ImportFrom)}  # fmt: skip
                assert lazy.items() <= read.items(), path
                count += len(lazy)
    assert count > 40


def test_the_built_in_tasks_have_the_names_by_which_they_are_found() -> None:
    app = Celeriac("shop", broker_url="memory://")
    assert {name: task.name for name, task in app.builtin_tasks.items()} == \
        {name: name for name in (GATHER, MAP, STARMAP, MAIL, WEBHOOK)}  # fmt: skip
    assert app.known_task(MAIL) is app.builtin_tasks[MAIL]
    assert "celeriac.unknown" not in app.builtin_tasks


def test_the_parts_of_an_app_are_made_once() -> None:
    app = Celeriac("shop", broker_url="memory://")
    assert app.workflows is app.workflows
    assert app.schedules is app.schedules
    assert app.declared.schedules is app.schedules


def test_workflows_are_made_from_signatures_alone(tmp_path: Path) -> None:
    """`a | b` and `from_dict` find the classes of workflows, which nobody has imported."""
    (tmp_path / "shop.py").write_text(SHOP)
    code = "import shop\ns = shop.modules.si\nd = (s() | s()).to_dict()\nassert shop.app.signature(d) == s() | s()"
    assert "celeriac.canvas.chain" in modules_after(code, tmp_path)
    app = Celeriac("shop", broker_url="memory://")
    assert isinstance(group() | app.signature("shop.add"), chain)
