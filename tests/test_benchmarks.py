"""The benchmarks run and print their tables. What they measure is no test's business."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("huey", reason="the extra `bench` is not installed")
pytest.importorskip("psutil", reason="the extra `bench` is not installed")

ROOT = Path(__file__).parent.parent


def run(*arguments: str, module: str = "benchmarks") -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", module, *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=55, check=False)


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
