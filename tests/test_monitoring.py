"""The board and the alert rules that come with Celeriac fit its metrics."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from celeriac.metrics.table import METRICS, Metric
from tests.prometheus_tools import promtool

MONITORING = Path(__file__).parent.parent / "examples" / "monitoring"
PROMETHEUS = {"job", "instance"}  # labels that Prometheus adds
NAME = re.compile(r"\bceleriac_\w+")
SELECTOR = re.compile(r"\b(celeriac_\w+)\{([^}]*)\}")
LABEL = re.compile(r"(\w+)\s*(?:=~|!~|!=|=)\s*\"")
GROUPED = re.compile(r"\b(?:by|on|without|ignoring)\s*\(([^)]*)\)")


def by_sample() -> dict[str, Metric]:
    """Return the metrics by the names of their samples."""
    return {f"{metric.name}{end}": metric for metric in METRICS
            for end in (("_bucket", "_sum", "_count") if metric.kind == "histogram" else ("",))}  # fmt: skip


SAMPLES = by_sample()


def alerts() -> Iterator[tuple[str, str]]:
    rules = yaml.safe_load((MONITORING / "alerts.yml").read_text(encoding="utf-8"))
    for group in rules["groups"]:
        for rule in group["rules"]:
            yield rule["alert"], rule["expr"]


def board() -> dict[str, Any]:
    found: dict[str, Any] = json.loads((MONITORING / "grafana.json").read_text(encoding="utf-8"))
    return found


def board_expressions() -> Iterator[tuple[str, str]]:
    for panel in board()["panels"]:
        for target in panel.get("targets", []):
            yield panel["title"], target["expr"]
    for variable in board()["templating"]["list"]:
        if variable["type"] == "query":
            yield variable["name"], re.sub(r"label_values\((.*), (\w+)\)", r"sum by (\2) (\1)",
                                           variable["query"]["query"])  # fmt: skip


EXPRESSIONS = [*alerts(), *board_expressions()]


@pytest.mark.parametrize(("title", "expression"), EXPRESSIONS, ids=[title for title, _ in EXPRESSIONS])
def test_an_expression_names_metrics_and_labels_that_exist(title: str, expression: str) -> None:
    named = NAME.findall(expression)
    assert named, f"{title} asks for none of our metrics"
    assert [name for name in named if name not in SAMPLES] == []
    labels = set(PROMETHEUS).union(*(SAMPLES[name].labels for name in named))
    if any(name.endswith("_bucket") for name in named):
        labels.add("le")
    for name, selected in SELECTOR.findall(expression):
        assert {*LABEL.findall(selected)} <= {*SAMPLES[name].labels} | PROMETHEUS, name
    for grouped in GROUPED.findall(expression):
        assert {one.strip() for one in grouped.split(",")} <= labels


def test_each_metric_is_on_the_board() -> None:
    shown = {SAMPLES[name].name for _, expression in board_expressions() for name in NAME.findall(expression)}
    assert shown == {metric.name for metric in METRICS}


def test_expressions_of_counters_are_rates() -> None:
    """What only grows is shown by how fast it grows."""
    for title, expression in EXPRESSIONS:
        for name in NAME.findall(expression):
            if SAMPLES[name].kind != "gauge" and title not in ("task", "queue"):
                assert re.search(rf"(?:rate|increase)\({name}\b", expression), title


def test_panels_neither_overlap_nor_leave_the_board() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in board()["panels"]:
        place = panel["gridPos"]
        cells = {(x, y) for x in range(place["x"], place["x"] + place["w"])
                 for y in range(place["y"], place["y"] + place["h"])}  # fmt: skip
        assert not cells & taken, panel["title"]
        assert place["x"] + place["w"] <= 24
        taken |= cells
    assert len({panel["id"] for panel in board()["panels"]}) == len(board()["panels"])


def test_promtool_finds_no_fault_in_the_rules_and_the_configuration(tmp_path: Path) -> None:
    folder = Path(shutil.copytree(MONITORING, tmp_path / "monitoring"))
    (folder / "token").write_text("clr_secret", encoding="utf-8")
    assert "SUCCESS" in promtool("check", "rules", "alerts.yml", folder=folder)
    assert "SUCCESS" in promtool("check", "config", "prometheus.yml", folder=folder)


def test_promtool_finds_no_fault_in_the_expressions_of_the_board(tmp_path: Path) -> None:
    def without_variables(expression: str) -> str:
        return re.sub(r"\$__\w+", "5m", expression)

    rules = [{"record": f"board:{number}", "expr": without_variables(expression)}
             for number, (_, expression) in enumerate(board_expressions())]  # fmt: skip
    (tmp_path / "board.yml").write_text(yaml.safe_dump({"groups": [{"name": "board", "rules": rules}]}))
    assert f"{len(rules)} rules found" in promtool("check", "rules", "board.yml", folder=tmp_path)


def test_each_alert_fires_in_a_test_of_promtool() -> None:
    tests = yaml.safe_load((MONITORING / "alerts_test.yml").read_text(encoding="utf-8"))["tests"]
    fired = {one["alertname"] for test in tests for one in test["alert_rule_test"] if one["exp_alerts"]}
    assert fired == {name for name, _ in alerts()}
    assert "SUCCESS" in promtool("test", "rules", "alerts_test.yml", folder=MONITORING)
