"""A log in JSON: one object on each line."""

from __future__ import annotations

import json
import logging
import re
import sys
from pathlib import Path
from typing import Any

from celeriac.logs import JSONFormatter
from tests.logs.shop import BASIC, FAILS_ONCE, OURS, Shop
from tests.patience import PATIENCE


def test_json_is_one_object_on_each_line_with_task_and_id(shop: Shop) -> None:
    shop.open("-l", "info", "--log-format", "json")
    (shop.folder / "go").touch()
    plain, coroutine, failed = shop.run("note", "tea\n\x1b"), shop.run("anote", "milk"), shop.run("fail", "cups")
    shop.stop()
    found = [json.loads(line) for line in shop.text().splitlines()]
    assert all(re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}\+00:00", line["time"]) for line in found)
    assert {line["worker"] for line in found} == {"w1"}
    by_message = {line["message"]: line for line in found}
    assert len(by_message) == len(found)
    for message, level, task, id in (
        ("plain tea\n\x1b", "INFO", "shop.note", plain), ("stock of tea\n\x1b", "INFO", "shop.note", plain),
        ("before milk", "INFO", "shop.anote", coroutine), ("after milk", "INFO", "shop.anote", coroutine),
        ("about to fail cups", "WARNING", "shop.fail", failed),
        (f"shop.fail[{failed}] failed: ValueError: cups", "ERROR", "shop.fail", failed),
    ):  # fmt: skip
        line = by_message[message]
        assert (line["level"], line["task"], line["task_id"]) == (level, task, id)
    exception = by_message[f"shop.fail[{failed}] failed: ValueError: cups"]["exception"]
    assert exception.startswith("Traceback (most recent call last):\n")
    assert exception.endswith("ValueError: cups")
    (ready,) = [line for line in found if "is ready. " in line["message"]]
    assert (ready["queues"], ready["processes"]) == ("default", "2 for plain functions; 1 for 100 coroutines at a time")
    assert "task" not in by_message["w1 has stopped"]


def test_lines_about_an_attempt_say_how_it_ended_and_what_it_belongs_to(shop: Shop) -> None:
    shop.open("-l", "info", "--log-format", "json")
    good, bad = shop.run("note", "tea"), shop.run("fail", "cups")
    shop.run("again", 1)
    pair = shop.app.signature("shop.note", ["milk"]) | shop.app.signature("shop.note", immutable=True, args=["rice"])
    result = pair.delay()
    result.get(timeout=PATIENCE)
    shop.stop()
    found = [json.loads(line) for line in shop.text().splitlines()]
    assert {line["app"] for line in found} == {"shop"}
    (written,) = [line for line in found if line["message"] == "plain tea"]
    assert (written["task_id"], written["root_id"], written["attempt"], written["queue"]) == (good, good, 1, "default")
    assert "event" not in written
    ends = {line["task_id"]: line for line in found if line.get("event") == "task.ended"}
    assert ends[good]["pid"] != written["pid"]
    assert ends[good]["state"] == "SUCCESS"
    assert 0 < ends[good]["runtime_s"] < PATIENCE
    assert 0 <= ends[good]["wait_s"] < PATIENCE
    failed = {name: ends[bad][name] for name in ("state", "error_type", "error", "attempt")}
    assert failed == {"state": "FAILURE", "error_type": "ValueError", "error": "cups", "attempt": 1}
    assert re.fullmatch("[0-9a-f]{16}", ends[bad]["signature"])
    (retried,) = [line for line in found if line.get("event") == "task.retried"]
    assert (retried["state"], retried["error_type"], retried["attempt"]) == ("RETRY", "ConnectionError", 1)
    last, first = ends[result.id], ends[result.parent.id]
    assert last["workflow"] == first["workflow"] == result.workflow_id
    assert (last["parent_id"], last["root_id"]) == (first["task_id"], first["task_id"])
    (own,) = [line for line in found if line["message"] == "plain rice"]
    assert (own["workflow"], own["parent_id"]) == (last["workflow"], last["parent_id"])
    events = [line["event"] for line in found if line.get("event", "").startswith("worker.")]
    assert events == ["worker.ready", "worker.stopping", "worker.stopped"]
    assert not any("trace_id" in line for line in found)


def test_json_that_the_apps_own_logging_rules_out_is_told(shop: Shop) -> None:
    shop.open("--log-format", "json", setup=BASIC)
    (line,) = shop.lines("Log lines are not JSON, because the app has configured logging")
    assert line.startswith("APP WARNING celeriac.worker: ")


def test_a_child_that_fails_is_told_in_json_too(shop: Shop) -> None:
    shop.open("--log-format", "json", setup=FAILS_ONCE)
    shop.run("note", "tea")
    shop.stop()
    found = [json.loads(line) for line in shop.text().splitlines()]
    (failed,) = [line for line in found if line["message"] == "A child process has failed and exits"]
    assert (failed["level"], failed["exception"].splitlines()[-1]) == ("CRITICAL", "KeyboardInterrupt: not now")


def test_text_overrides_a_setting_of_json(shop: Shop) -> None:
    shop.open("-l", "info", "--log-format", "text", worker_log_format="json")
    shop.run("note", "tea")
    shop.stop()
    assert len([line for line in shop.lines("w1 has stopped") if re.match(OURS, line)]) == 1


def formatted(**fields: Any) -> Any:
    return json.loads(JSONFormatter().format(logging.makeLogRecord({"msg": "hello", **fields})))


def test_json_has_what_was_passed_as_extra() -> None:
    assert formatted(sku="A-1", sizes=[1, 2], owner=Path("x"))["sizes"] == [1, 2]
    circle: list[Any] = []
    circle.append(circle)
    assert formatted(circle=circle, load=float("nan"))["load"] == "nan"


def test_json_is_bounded_and_has_exceptions() -> None:
    try:
        raise ValueError("x" * 100_000)
    except ValueError:
        found = formatted(msg="y" * 100_000, exc_info=sys.exc_info())
    assert len(json.dumps(found)) < 50_000
    assert found["exception"].startswith("Traceback")
