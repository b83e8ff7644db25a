"""The benchmarks run and print their tables. What they measure is no test's business."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests import rabbitmq_server, redis_server
from tests.needs import needs_package
from tests.patience import FOR_EVER
from tests.server_process import missing

pytestmark = [needs_package("huey", "bench"), needs_package("psutil", "bench")]

ROOT = Path(__file__).parent.parent


def run(*arguments: str, module: str = "benchmarks") -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", module, *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=FOR_EVER, check=False)


@pytest.fixture
def redis_installed() -> None:
    if shutil.which("redis-server") is None:
        missing(redis_server.MISSING)


@pytest.fixture
def rabbitmq_installed() -> None:
    if not Path(rabbitmq_server.PROGRAM).exists():
        missing(rabbitmq_server.MISSING)


@pytest.mark.parametrize(
    ("name", "rows"),
    [
        ("start-up", ["bare python", "import celeriac", "import huey", "celeriac --help"]),
        ("sqlite-delay", ["Celeriac", "Huey", "Huey, fsync=False", "bare INSERT + commit"]),
    ],
)
def test_a_benchmark_prints_its_table_and_writes_its_figures(name: str, rows: list[str], tmp_path: Path) -> None:
    done = run(name, "--quick", "--json", str(tmp_path / "figures.json"), "--folder", str(tmp_path))
    assert (done.returncode, done.stderr) == (0, "")
    assert all(f"│ {row} " in done.stdout for row in rows)
    assert "(bar " in done.stdout
    (report,) = json.loads((tmp_path / "figures.json").read_text())["reports"]
    assert report["name"] == name
    assert [row[0] for row in report["rows"]] == rows
    assert all(bar["value"] > 0 for bar in report["bars"])


@needs_package("uvicorn", "web")
def test_the_http_api_is_measured(redis_installed: None, tmp_path: Path) -> None:
    found = tmp_path / "figures.json"
    done = run("web-send", "web-status", "web-events", "--quick", "--peers", "none", "--json", str(found))
    assert (done.returncode, done.stderr) == (0, "")
    sending, asking, events = json.loads(found.read_text())["reports"]
    for report in (sending, asking):
        assert report["issue"] == 16
        assert all(told["best"] > 0 for told in report["figures"].values())
    assert events["figures"]["celeriac_web"]["events"] > 0
    assert [bar["unit"] for bar in events["bars"]] == ["ms"]


@needs_package("redis", "bench")
def test_contenders_on_redis_are_compared(redis_installed: None, tmp_path: Path) -> None:
    found = tmp_path / "figures.json"
    done = run("redis-delay-many", "redis-memory", "--quick", "--peers", "huey_redis", "--json", str(found))
    assert (done.returncode, done.stderr) == (0, "")
    run_told = json.loads(found.read_text())
    many, memory = run_told["reports"]
    for report in (many, memory):
        assert [row[0] for row in report["rows"]] == ["Celeriac", "Huey"]
        assert report["issue"] == 3
    assert all(told["best"] > 0 for told in many["figures"].values())
    assert all(told["bytes"] > 50 for told in memory["figures"].values())
    assert "On Redis: all contenders" in done.stdout
    assert any(note.startswith("redis-server ") and "--appendonly no" in note for note in memory["notes"])


def test_a_worker_on_redis_is_watched_from_outside(redis_installed: None, tmp_path: Path) -> None:
    """The supervisor's memory, sleeping tasks, coroutines: ours alone, so short."""
    found = tmp_path / "figures.json"
    done = run("redis-growth", "redis-coroutines", "--quick", "--json", str(found), "--folder", str(tmp_path))
    assert (done.returncode, done.stderr) == (0, "")
    growth, coroutines = json.loads(found.read_text())["reports"]
    assert growth["figures"]["celeriac_redis"]["most_mb"] >= growth["figures"]["celeriac_redis"]["before_mb"] > 5
    assert growth["figures"]["celeriac_redis"]["rate"] > 0
    assert coroutines["figures"]["celeriac_coroutines"]["seconds"] >= 1.0
    assert coroutines["figures"]["celeriac_coroutines"]["left"] == 0


@needs_package("matplotlib", "bench")
@pytest.mark.parametrize(("server", "other"), [("redis", "rabbitmq"), ("rabbitmq", "redis")])
def test_a_runs_figures_go_into_the_page(server: str, other: str, tmp_path: Path) -> None:
    from benchmarks.page import marks

    (begin, end), (other_begin, other_end) = marks(server), marks(other)
    rates = {"ours": {"title": "Celeriac", "best": 50_000.0}, "theirs": {"title": "Celery", "best": 900.0}}
    bar = {"what": "ours ÷ Celery", "value": 55.6, "limit": 50.0, "unit": "×", "at_least": True, "met": True}
    report = {"name": f"{server}-drain", "figures": rates, "bars": [bar],
              "notes": [f"{server}-server 7.0.15, over TCP"], "settings": {"Celery": "celery 5: prefork"}}  # fmt: skip
    machine = {"at": "2026-11-23T20:00:00+00:00", "cores": 2, "cpu": "x", "system": "Linux", "python": "CPython"}
    told = tmp_path / "figures.json"
    told.write_text(json.dumps({"machine": machine, "quick": False, "reports": [report]}))
    page = tmp_path / "performance.md"
    kept = f"before\n{other_begin}\nothers\n{other_end}\n"
    page.write_text(f"{kept}{begin}\nold\n{end}\nafter\n")
    done = run(str(told), "--docs", str(tmp_path), module="benchmarks.page")
    assert (done.returncode, done.stderr) == (0, "")
    text = page.read_text()
    assert "| no-op tasks drained, no results, /s | 50,000 | 900 | 55.60 × (Celery) | ≥ 50 × | met |" in text
    assert f"`{server}-server 7.0.15`" in text
    assert "old" not in text
    assert text.startswith(f"{kept}{begin}\n")
    assert text.endswith(f"{end}\nafter\n")
    plot = (tmp_path / f"performance-{server}.svg").read_text()
    assert "50,000" in plot
    assert len(plot) < 100_000
    assert not (tmp_path / f"performance-{other}.svg").exists()


def test_a_run_without_a_servers_figures_is_refused(tmp_path: Path) -> None:
    told = tmp_path / "figures.json"
    told.write_text(json.dumps({"machine": {}, "quick": False, "reports": []}))
    done = run(str(told), "--docs", str(tmp_path), module="benchmarks.page")
    assert done.returncode == 2
    assert "redis or rabbitmq" in done.stderr


def test_a_quick_runs_figures_are_refused(tmp_path: Path) -> None:
    told = tmp_path / "figures.json"
    told.write_text(json.dumps({"machine": {}, "quick": True, "reports": []}))
    done = run(str(told), "--docs", str(tmp_path), module="benchmarks.page")
    assert done.returncode == 2
    assert "quick" in done.stderr


def test_stacks_belong_to_legs() -> None:
    from benchmarks.legs import REST, SUPERVISOR_LEGS, leg_of

    outer = "run (celeriac/worker/settler.py)"
    assert leg_of([outer, "decide (celeriac/worker/decide.py)"], SUPERVISOR_LEGS) == "decide"
    assert leg_of([outer, "encode (somewhere.py)"], SUPERVISOR_LEGS) == "settle: bookkeeping"
    assert leg_of(["encode (somewhere.py)"], SUPERVISOR_LEGS) == REST


def test_legs_name_files_and_functions_that_exist() -> None:
    from benchmarks.legs import CHILD_LEGS, PRODUCER_LEGS, SUPERVISOR_LEGS

    folders = (ROOT / "src" / "celeriac", ROOT / "benchmarks" / "peers")
    sources = {str(path): path.read_text("utf-8") for folder in folders for path in folder.rglob("*.py")}
    for legs in (PRODUCER_LEGS, SUPERVISOR_LEGS, CHILD_LEGS):
        for place in (place for places in legs.values() for place in places):
            function, _, end = place.rpartition(" ")
            found = [source for path, source in sources.items() if path.endswith(f"/{end}")]
            assert any(f"def {function}" in source for source in found), f"benchmarks/legs.py: {place} is not there"


def test_a_wrong_name_is_refused_with_the_right_ones() -> None:
    done = run("sqlite-dealy")
    assert done.returncode == 2
    assert "sqlite-delay" in done.stderr


def test_stacks_are_counted_by_role() -> None:
    from benchmarks.profile import parse

    stacks = (
        'process 7:"x";main (a.py);work (b.py) 3\nprocess 7:"x";process 8:"y";main (a.py);work (b.py);work (b.py) 2\n'
    )
    found = parse(stacks, supervisor=7)
    assert found["supervisor"].own == {"work (b.py)": 3}
    assert found["children"].total == 2
    assert found["children"].cumulative == {"main (a.py)": 2, "work (b.py)": 2}


def test_workflows_on_redis_are_compared(redis_installed: None, tmp_path: Path) -> None:
    """Without Celery's, which take long."""
    found = tmp_path / "figures.json"
    done = run("canvas-group", "canvas-width", "canvas-bytes", "--quick", "--peers", "none", "--json", str(found))
    assert (done.returncode, done.stderr) == (0, "")
    group, width, sent = json.loads(found.read_text())["reports"]
    assert group["figures"]["celeriac_canvas"]["best"] > 0
    assert width["figures"]["celeriac_canvas"]["group"] > 0
    assert sent["figures"]["celeriac_canvas"]["a chain of 100"]["bytes"] < 30_000


@needs_package("pika", "bench")
@pytest.mark.parametrize("peers", ["bare_rabbitmq", pytest.param("celery_rabbitmq,bare_rabbitmq",
                                                                 marks=pytest.mark.at_length)])  # fmt: skip
def test_contenders_on_rabbitmq_are_compared_and_a_worker_is_watched_from_outside(
    rabbitmq_installed: None, tmp_path: Path, peers: str
) -> None:
    """With Celery, each of whose processes takes a second to start, at length alone."""
    found = tmp_path / "figures.json"
    names = ("rabbitmq-delay", "rabbitmq-drain", "rabbitmq-roundtrip")
    done = run(*names, "--quick", "--peers", peers, "--json", str(found))
    assert (done.returncode, done.stderr) == (0, "")
    delay, drain, roundtrip = json.loads(found.read_text())["reports"]
    others = [{"celery_rabbitmq": "Celery", "bare_rabbitmq": "bare pika"}[name] for name in peers.split(",")]
    assert [row[0] for row in delay["rows"]] == ["Celeriac", *others]
    assert [bar["what"] for bar in delay["bars"]] == [f"ours ÷ {other}" for other in others]
    assert delay["issue"] == 4
    assert all(told["best"] > 0 for told in delay["figures"].values())
    assert any(note.startswith("rabbitmq-server ") and "confirms" in note for note in delay["notes"])
    assert drain["figures"]["celeriac_rabbitmq"]["best"] > 0
    assert roundtrip["figures"]["celeriac_rabbitmq"]["median_ms"] > 0
    assert ("On RabbitMQ: all contenders" in done.stdout) is ("celery" in peers)


@needs_package("redis", "bench")
def test_client_libraries_on_redis_are_compared(redis_installed: None) -> None:
    clients = "redis_py,redis_py_asyncio,celeriac_redis,celeriac_redis_asyncio"
    done = run("redis", "--count", "200", "--rounds", "1", "--clients", clients, module="benchmarks.clients")
    assert done.returncode == 0, done.stderr
    for client in ("redis-py, blocking", "redis-py, asyncio", "Celeriac, blocking", "Celeriac, asyncio"):
        assert re.search(rf"^\| {client} \| [\d,]+ \(\d+ µs\) \| [\d,]+ \(\d+ µs\) \|$", done.stdout, re.MULTILINE)


@needs_package("pika", "bench")
@pytest.mark.at_length  # the same road as on Redis; the start of a node takes most of its time
def test_client_libraries_on_rabbitmq_are_compared(rabbitmq_installed: None) -> None:
    clients = "py_amqp,celeriac_amqp"
    done = run("amqp", "--count", "50", "--rounds", "1", "--clients", clients, module="benchmarks.clients")
    assert done.returncode == 0, done.stderr
    for client in ("py-amqp", "Celeriac, blocking"):
        assert re.search(rf"^\| {client} (\| [\d,.]+ \(\d+ µs\) ){{4}}\|$", done.stdout, re.MULTILINE)


@pytest.mark.parametrize(
    ("what", "before", "after", "is_worse"),
    [
        ("best", [100.0, 90.0], [98.0, 85.0], False),  # two runs of one version differ by more
        ("best", [100.0, 98.0], [90.0, 89.0], True),
        ("best", [100.0, 98.0], [120.0, 119.0], False),
        ("median_ms", [1.0, 1.1], [1.4, 1.5], True),  # of a time, less is better
        ("median_ms", [1.0, 1.1], [0.5, 0.6], False),
    ],
)
def test_a_figure_is_worse_if_it_changed_by_more_than_two_runs_differ(
    tmp_path: Path, what: str, before: list[float], after: list[float], is_worse: bool
) -> None:
    files: dict[str, list[str]] = {}
    for option, runs in (("--before", before), ("--after", after)):
        for number, value in enumerate(runs):
            path = tmp_path / f"{option}{number}.json"
            path.write_text(json.dumps({"reports": [{"name": "drain", "figures": {"ours": {what: value}}}]}))
            files.setdefault(option, []).append(str(path))
    done = run("--before", *files["--before"], "--after", *files["--after"], module="benchmarks.before_after")
    assert (done.returncode, done.stderr) == (0, "")
    (row,) = [line for line in done.stdout.splitlines() if "drain" in line]
    assert ("worse" in row) is is_worse
