"""The HTTP API and the dashboard stand whatever is asked of them, over whatever is written into the broker.

No answer is an internal error, and nothing leaves a traceback in the server's log. Requests go to each address of both,
with hostile parts of the path, parameters, bodies and forms. After every 25 a task is sent, and its result read.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from random import Random
from typing import Any
from urllib.parse import quote

import httpx
import msgspec
import psutil
import pytest

from celeriac.dashboard.application import ACTIONS, PAGES
from celeriac.model.message import new_id
from celeriac.web.application import ENDPOINTS
from celeriac.web.endpoints import Endpoint
from tests.fuzz.feeding import EACH, GROWTH
from tests.fuzz.mutations import Mutator
from tests.fuzz.surfaces import OnSQLite
from tests.fuzz.typed import Typed
from tests.hostile import BODIES, MESSAGES, OUTCOMES
from tests.patience import PATIENCE, wait_for
from tests.web.served import Served, serving

FEW = 50  # inputs in `make test`
TEXTS = ("", "a", "idle", "shop.add", "\0", "a\nb", "\x1b[2J", "<script>alert(1)</script>", "é" * 400, "t" * 2_000,
         "9" * 5_000, "-1", "1e400", "nan", "٣", "²", "0", "7d", "2026-01-01T00:00:00+99:99", "0001-01-01",
         "9999-12-31T23:59:59Z", "../..", "%00", "%ff", "{}", "[]", "a:b", "task:*", "task:[",
         "state:SUCCESS -queue:x", "id:" + "x" * 300, "*/0 * * * *", "0 0 31 2 *", "0s", "1e308s", "Europe/Nowhere",
         "[" * 200, '{"a":' * 200, "AAAA", "e30=", "W10", "\u202e", "true", "revoke", "retry", "drop", "move", "failed",
         "waiting", "scheduled", "open")  # fmt: skip
"""Not the queue of the good tasks: whoever operates a queue may pause it."""
PARTS = {"queue": ("idle", "mail", "spare"), "name": ("nightly", "s"), "task": ("shop.echo", "mail.send")}
FIELDS = ("id", "q", "status", "action", "matched", "confirm", "shown", "count", "inside", "only", "back", "queue",
          "task", "rate", "soft", "hard", "level")  # fmt: skip
PARAMETERS = ("q", "sort", "range", "show", "offset", "queue", "status", "in", "after", "cursor", "checked", "inside",
              "by", "kind", "id", "action", "from", "to", "limit", "fragment")  # fmt: skip
WAITS = frozenset({"wait", "timeout"})  # they make the server wait
PART = re.compile(r"\{(\w+)(?::path)?\}")
CSRF = re.compile(r'name="csrf" value="([0-9a-f]{64})"')
FIELD = re.compile(r'<(?:input|select|textarea|button)[^>]* name="(\w+)"')


class Asker:
    """Makes hostile requests."""

    def __init__(self, client: httpx.Client, seed: int, known: list[str]) -> None:
        self._client = client
        self._random = Random(seed)
        self._mutator = Mutator(seed, lambda value: msgspec.json.encode(list(value.values())))
        self._known = known  # names and ids, newest last
        self._typed = Typed(seed, TEXTS, [text.encode() for text in TEXTS])
        page = client.get("/schedule-form", headers={"Accept": "text/html"}).text
        found = CSRF.search(page)
        assert found is not None
        self._csrf = found[1]
        self._fields = sorted({*FIELD.findall(page), *FIELDS} - {"csrf"})

    def ask(self) -> httpx.Response:
        """Send a request, and return the answer; of a stream, its beginning."""
        kind = self._random.randrange(4)
        if kind < 2:
            return self._api(self._random.choice(ENDPOINTS))
        if kind == 2:
            page = self._random.choice(PAGES)
            return self._sent("GET", page.path, params=self._some(PARAMETERS), headers={"Accept": "text/html"})
        form = {"csrf": self._csrf, **self._some(self._fields, 6)}
        return self._sent("POST", self._random.choice(ACTIONS).path, data=form)

    def _api(self, endpoint: Endpoint) -> httpx.Response:
        names = [name for name in getattr(endpoint.query, "__struct_fields__", ()) if name not in WAITS]
        parameters = self._some(names) if names else {}
        if self._random.random() < 0.1:
            parameters["cursor"] = self._text()
        if endpoint.body is None:
            return self._sent(endpoint.method, endpoint.path, params=parameters)
        headers = {"Content-Type": "application/json"}
        response = self._sent(endpoint.method, endpoint.path, params=parameters, content=self._body(endpoint.body),
                              headers=headers)  # fmt: skip
        if response.status_code in (200, 201, 202) and isinstance(made := response.json(), dict):
            self._known += [made[name] for name in ("id", "lease") if isinstance(made.get(name), str)]
        return response

    def _body(self, kind: Any) -> bytes:
        if isinstance(kind, str) or self._random.random() < 0.1:
            return self._mutator.make({"a": 1, "args": [1, 2], "kwargs": {}}, [text.encode() for text in TEXTS])
        made = self._typed.value(msgspec.inspect.type_info(kind))
        if isinstance(made, dict):
            made |= dict.fromkeys(WAITS & made.keys(), 0)
        data = msgspec.json.encode(made, enc_hook=repr)
        return self._mutator.mutated(data) if self._random.random() < 0.2 else data

    def _some(self, names: Sequence[str], most: int = 3) -> dict[str, str]:
        return {self._random.choice(names): self._text() for _ in range(self._random.randint(0, most))}

    def _text(self) -> str:
        return self._random.choice(self._known if self._random.random() < 0.3 else TEXTS)

    def _part(self, name: str) -> str:
        """Return a part of a path: of something that exists, as a rule."""
        if self._random.random() < 0.3:
            return self._text() or "x"
        return self._random.choice(PARTS.get(name, self._known))

    def _sent(self, method: str, path: str, **options: Any) -> httpx.Response:
        safe = "/" if self._random.random() < 0.1 else ""
        path = PART.sub(lambda found: quote(self._part(found[1]), safe=safe), path)
        with self._client.stream(method, path, **options) as response:
            if "event-stream" not in response.headers.get("content-type", ""):
                response.read()
            return response


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    with serving(tmp_path, broker_url=f"sqlite:///{tmp_path}/fuzz.db") as made:
        made.worker("-Q", "default")
        yield made


def test_requests_and_hostile_messages_stop_no_server(served: Served, tmp_path: Path, seed: int, count: int) -> None:
    process, address = served.web()
    log = max(tmp_path.glob("*.log"))  # the server's; the worker's is older
    random, mutator = Random(seed), Mutator(seed)
    server, known, before = OnSQLite(tmp_path), ["shop.add"], 0
    statuses: set[tuple[str, int]] = set()
    options: Any = {"base_url": address, "timeout": PATIENCE, "trust_env": False}
    with httpx.Client(**options, headers={"Origin": address}) as client, httpx.Client(**options) as good:

        def works() -> bool:
            sent = good.post("/api/v1/tasks", json={"task": "shop.add", "args": [2, 2]}, params={"wait": 60})
            return bool(sent.json().get("result") == 4)

        asker = Asker(client, seed, known)
        for number in range(count):
            write(server, random, mutator, known)
            response = asker.ask()
            what = f"{response.request.method} {str(response.request.url)[:300]}"
            assert response.status_code != 500, f"{what}\n{response.text[:2000]}\n{end_of(log)}"
            if response.is_closed and "html" in response.headers.get("content-type", ""):
                assert "The server has failed" not in response.text, f"{what}\n{response.text[:2000]}\n{end_of(log)}"
            statuses.add((response.request.method, response.status_code))
            if number % EACH == EACH - 1:
                wait_for(works, "a task that runs")  # again, if a bulk action has revoked it
            if number == count // 4:
                before = psutil.Process(process.pid).memory_info().rss
    server.close()
    assert process.poll() is None
    assert psutil.Process(process.pid).memory_info().rss - before < GROWTH
    assert "Traceback" not in log.read_text(errors="replace"), end_of(log)
    assert ("GET", 200) in statuses
    assert any(status != 403 for method, status in statuses if method == "POST")  # not all are refused at the door


def end_of(log: Path) -> str:
    return log.read_text(errors="replace")[-4000:]


def write(server: OnSQLite, random: Random, mutator: Mutator, known: list[str]) -> None:
    """Write something into the broker that the server will show."""
    id, kind = new_id(), random.randrange(6)
    if kind < 3:
        body = random.choice((b"[[1],{}]", *BODIES))
        good = {"id": id, "task": "shop.none", "body": body, "queue": "idle", "lane": "plain", "priority": 5}
        server.message(mutator.make(good, list(MESSAGES.values())), random.choice(("idle", "default")))
    elif kind < 5:
        outcome = {"id": id, "task": "shop.add", "state": "FAILURE", "attempt": 1, "done_at": 1.8e9}
        server.outcome(id, mutator.make(outcome, list(OUTCOMES.values())))
    else:
        step = [0, "a", "shop.add", {"id": "", "task": "", "body": b"[[1,2],{}]"}]
        tree = {"id": id, "root": id, "nodes": [step, [0, "b", "shop.add", step[3], 0]], "end": 1}
        server.workflow(id, mutator.make(tree, [b"junk"]), random.choice((0, 1, -1, 10**9)))
    known.append(id)
    del known[1:-30]  # not the name of a task
