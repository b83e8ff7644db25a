"""P12: bad input is refused with a clear error at the door, and nothing of it is stored."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
import threading
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest

from celeriac import Celeriac
from celeriac.errors import (
    ArgumentsError,
    EncodeError,
    ImproperlyConfigured,
    MessageTooLarge,
    RemoteError,
    UnknownOption,
    UnknownQueue,
)
from tests.patience import PATIENCE
from tests.promises.harness import Stage

Door = Callable[[Stage], Any]

LATER = datetime(2030, 1, 1, tzinfo=UTC)

CALLS: dict[str, tuple[Door, type[Exception], str]] = {
    "too few arguments": (lambda s: s.victim.quick.delay(), ArgumentsError, "'number' is missing"),
    "too many arguments": (lambda s: s.victim.quick.delay(1, 2), ArgumentsError, "too many positional"),
    "a wrong name": (lambda s: s.victim.quick.delay(1, nummer=1), ArgumentsError, "nummer"),
    "one bad call of many": (lambda s: s.victim.quick.delay_many([(1,), (1, 2)]), ArgumentsError, "too many"),
    "an object": (lambda s: s.send("plain", "returns", object()), EncodeError, "object"),
    "a lock deep inside": (lambda s: s.send("plain", "returns", {"a": [threading.Lock()]}), EncodeError, "lock"),
    "a lone surrogate": (lambda s: s.send("plain", "returns", "\ud800"), EncodeError, "surrogate"),
    "a megabyte": (lambda s: s.send("plain", "returns", "x" * 1_100_000), MessageTooLarge, "message_max_bytes"),
    "an unknown queue": (lambda s: s.send("plain", "returns", queue="defualt"), UnknownQueue, "'default'"),
    "an unknown option": (lambda s: s.send("plain", "returns", count_down=3), UnknownOption, "'countdown'"),
    "countdown and eta": (lambda s: s.send("plain", "returns", countdown=1, eta=LATER), UnknownOption, "not both"),
    "a naive eta": (lambda s: s.send("plain", "returns", eta=datetime(2030, 1, 1)), TypeError, "aware"),
    "a year that no calendar has": (lambda s: s.send("plain", "returns", countdown=1e300), ValueError, "countdown"),
    "arguments that are a text": (lambda s: s.victim.quick.apply_async("7"), ArgumentsError, "list or tuple"),
    "a header that is lost": (lambda s: s.send("plain", "returns", headers={"a": float("nan")}), EncodeError, "'a'"),
    "priority 10": (lambda s: s.send("plain", "returns", priority=10), ValueError, "0 to 9"),
    "a negative limit": (lambda s: s.send("plain", "returns", time_limit=-1), ValueError, "time_limit"),
    "a limit of no time": (lambda s: s.send("plain", "returns", time_limit=0), ValueError, "None for no limit"),
    "an unknown serializer": (lambda s: s.send("plain", "returns", serializer="jsn"), Exception, "json"),
    "headers that are no dict": (lambda s: s.send("plain", "returns", headers=[1]), TypeError, "headers"),
    "a link that is no signature": (lambda s: s.send("plain", "returns", link=len), UnknownOption, "link"),
}


@pytest.mark.parametrize("what", CALLS)
def test_a_bad_call_is_refused_and_nothing_is_stored(stage: Stage, what: str) -> None:
    door, kind, words = CALLS[what]
    with pytest.raises(kind, match=words):
        door(stage)
    assert stage.is_empty()


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"task_acks_lat": True}, "'task_acks_late'"),
        ({"broker_ulr": "memory://"}, "'broker_url'"),
        ({"worker_concurrency": "many"}, "worker_concurrency"),
        ({"worker_pool": "gevent"}, "processes, threads, solo"),
        ({"task_default_priority": 11}, "from 0 to 9"),
        ({"task_acks_lat": True, "worker_pool": "gevent"}, "2 mistakes"),
    ],
)
def test_a_bad_setting_is_refused_with_the_nearest_name(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(ImproperlyConfigured, match=words):
        Celeriac("door", environ={}, **settings)


def test_a_bad_setting_in_the_environment_names_its_variable() -> None:
    with pytest.raises(ImproperlyConfigured, match=r"CELERIAC_TASK_ACKS_LAT.*'task_acks_late'"):
        Celeriac("door", environ={"CELERIAC_TASK_ACKS_LAT": "1"})


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["-A", "victm", "worker"], "victm"),
        (["-A", "victim", "worker", "-Q", "defualt"], "'default'"),
        (["-A", "victim", "worker", "--pool", "gevent"], "processes"),
        (["-A", "victim", "call", "victim.quik", "--args", "[1]"], "victim.quick"),
        (["-A", "victim", "call", "victim.quick", "--args", "[1, 2]"], "too many"),
    ],
)
def test_a_bad_command_line_is_refused_with_an_exit_code(stage: Stage, arguments: list[str], words: str) -> None:
    done = subprocess.run([sys.executable, "-m", "celeriac", *arguments], cwd=stage.folder, capture_output=True,
                          text=True, timeout=PATIENCE)  # fmt: skip
    assert done.returncode in (1, 2)
    assert words in done.stderr
    assert "Traceback" not in done.stderr
    assert stage.is_empty()


def test_a_worker_does_not_unpickle_untrusted_messages(stage: Stage) -> None:
    class Bomb:
        def __reduce__(self) -> Any:
            return os.mkdir, (stage.path("exploded"),)

    worker = stage.worker()
    message = stage.app.message_template("victim.quick").message((1,), {})
    body = pickle.dumps(((Bomb(),), {}))
    fields = {name: getattr(message, name) for name in message.__struct_fields__}
    stage.app.publish([type(message)(**{**fields, "content_type": "application/x-python-pickle", "body": body})])
    with pytest.raises(Exception, match="pickle"):
        stage.app.AsyncResult(message.id).get(timeout=PATIENCE)
    assert not (stage.folder / "exploded").exists()
    assert worker.process.poll() is None


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"null", json.dumps([[1, 2], {}]).encode(), b"\xff\xfe"])
def test_a_message_that_cannot_be_read_fails_alone(stage: Stage, body: bytes) -> None:
    worker = stage.worker("--pool", "threads")
    message = stage.app.message_template("victim.quick").message((1,), {})
    fields = {name: getattr(message, name) for name in message.__struct_fields__}
    stage.app.publish([type(message)(**{**fields, "body": body})])
    with pytest.raises((Exception, RemoteError)):
        stage.app.AsyncResult(message.id).get(timeout=PATIENCE)
    assert stage.victim.quick.delay(7).get(timeout=PATIENCE) == 7
    assert worker.process.poll() is None
