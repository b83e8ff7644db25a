"""The rights that `docs/security.md` gives to each role, on real servers: what it needs works, the rest is refused."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from celeriac import Celeriac, group
from celeriac.app.control import COMMANDS as CHANNEL
from celeriac.errors import AccessRefused, BrokerUnavailable
from celeriac.inspector import Inspector
from celeriac.testing import running_worker
from tests.commands import command, patient
from tests.patience import PATIENCE, wait_for
from tests.promises.harness import set_stage
from tests.rabbitmq_server import Place
from tests.redis_server import RedisServer, running_redis

DOCS = Path(__file__).parent.parent / "docs"
MINE = "my-own-id"
FOR_OPERATORS = (["control", "shutdown"], ["queues", "pause", "mail"], ["purge", "default", "--yes"], ["queues"],
                 ["status"])  # fmt: skip


def lines(language: str, page: str = "security") -> list[str]:
    """Return the lines of a page's blocks in this language."""
    text = (DOCS / f"{page}.md").read_text()
    blocks = re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    return [line for block in blocks for line in str(block).splitlines()]


def app_on(url: str, **settings: Any) -> Celeriac:
    app = Celeriac("shop", broker_url=url, task_queues=["default", "mail"], broker_publish_timeout=PATIENCE, **settings)

    @app.task(name="shop.add")
    def add(x: int, y: int) -> int:
        return x + y

    @app.task(name="shop.total")
    def total(numbers: list[int]) -> int:
        return sum(numbers)

    return app


def refused(what: Callable[[], Any], step: str) -> None:
    """The call fails at once with an error that names the next step, and that is no outage."""
    with pytest.raises(AccessRefused, match=step) as caught:
        what()
    assert not isinstance(caught.value, BrokerUnavailable)


def refused_command(app: Celeriac, *arguments: str) -> None:
    result = command(app, *patient(*arguments))
    assert result.exit_code == 1
    assert "docs/security.md" in result.output


# --- Redis --------------------------------------------------------------------------------------------

GRANT = r"may not do that\. Grant it what its role needs \(docs/security\.md\)"


@pytest.fixture(scope="module")
def shared_guarded_redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """A server with the users of the page, as they stand there."""
    folder = tmp_path_factory.mktemp("redis")
    users = folder / "users.acl"
    users.write_text("\n".join(["user default on nopass ~* &* +@all", *lines("acl"), ""]))
    with running_redis(folder, "--aclfile", str(users)) as server:
        yield server


@pytest.fixture
def guarded(shared_guarded_redis: RedisServer) -> Iterator[Callable[[str], Celeriac]]:
    """Return an app of a role."""
    server = shared_guarded_redis
    server.ask("FLUSHALL")
    server.ask("ACL", "LOG", "RESET")
    made: list[Celeriac] = []

    def app_of(role: str) -> Celeriac:
        app = app_on(server.url.replace("//", f"//{role}:{role}-password@"))
        made.append(app)
        return app

    yield app_of
    for app in made:
        app.close()


def test_a_caller_on_redis_calls_fetches_and_revokes(
    guarded: Callable[[str], Celeriac], shared_guarded_redis: RedisServer
) -> None:
    caller, worker = guarded("caller"), guarded("worker")
    add, total = caller.tasks["shop.add"], caller.tasks["shop.total"]
    broker, complete = caller.broker, caller.broker.complete
    with running_worker(worker):
        calls = [add.delay(1, 2), add.apply_async((1, 2), countdown=0.2), add.apply_async((1, 2), task_id=MINE),
                 add.apply_async((1, 2), queue="mail", priority=9)]  # fmt: skip
        assert [call.get(timeout=PATIENCE) for call in calls] == [3] * 4
        assert add.apply_async((2, 2), task_id=MINE).get(timeout=PATIENCE) == 4  # an id that is used again
        assert [call.get(timeout=PATIENCE) for call in add.delay_many([(1, 2), (3, 4)])] == [3, 7]
        assert (add.s(1, 2) | add.s(3)).delay().get(timeout=PATIENCE) == 6
        chord = (group(add.s(1, 2), add.s(3, 4)) | total.s()).delay()
        assert chord.get(timeout=PATIENCE) == 10
        late = add.apply_async((1, 2), countdown=3600)
        late.revoke()
        wait_for(lambda: late.state == "REVOKED")
        message = caller.message_template("shop.add").message((1, 2), {})
        complete(broker.apublish([message], again=True))
        assert caller.AsyncResult(message.id).get(timeout=PATIENCE) == 3
        calls[0].forget()
    assert shared_guarded_redis.ask("ACL", "LOG") == []  # nothing was refused that something else made up for


def test_a_caller_on_redis_cannot_command_operate_or_forge(guarded: Callable[[str], Celeriac]) -> None:
    caller, worker = guarded("caller"), guarded("worker")
    complete, server = caller.broker.complete, caller.broker.server  # type: ignore[attr-defined]
    with running_worker(worker):
        ended = caller.tasks["shop.add"].delay(1, 2)
        assert ended.get(timeout=PATIENCE) == 3
        refused(lambda: complete(caller.broker.broadcast(CHANNEL, [b'{"name":"shutdown"}'])), GRANT)
        for arguments in FOR_OPERATORS:
            refused_command(caller, *arguments)
        for forged in (("SET", f"celeriac:outcome:{ended.id}", "1x"), ("HDEL", "celeriac:{default}:messages", "x"),
                       ("ZADD", "celeriac:leases", "1", "x"), ("ZREM", "celeriac:{default}:dead", "x"),
                       ("DEL", "celeriac:{default}:messages"), ("GET", "other"), ("FLUSHALL",)):  # fmt: skip
            refused(lambda forged=forged: server.do(forged), GRANT)  # type: ignore[misc]
        assert caller.tasks["shop.add"].delay(1, 2).get(timeout=PATIENCE) == 3


@pytest.mark.parametrize("role", ["worker", "operator"])
def test_an_operator_on_redis_looks_commands_and_operates_in_the_prefix_alone(
    guarded: Callable[[str], Celeriac], role: str
) -> None:
    operator, worker = guarded(role), guarded("worker")
    with running_worker(worker):
        for arguments in (["status"], ["queues"], ["queues", "peek", "default"], ["queues", "pause", "mail"],
                          ["queues", "resume", "mail"], ["purge", "mail", "--yes"], ["inspect", "ping"], ["tasks"],
                          ["control", "rate-limit", "shop.add", "9/s"]):  # fmt: skip
            assert command(operator, *patient(*arguments)).exit_code == 0
    server = operator.broker.server  # type: ignore[attr-defined]
    for forbidden in (("GET", "other"), ("FLUSHALL",), ("CONFIG", "GET", "dir"), ("KEYS", "*")):
        refused(lambda forbidden=forbidden: server.do(forbidden), GRANT)  # type: ignore[misc]


def test_a_monitor_on_redis_looks_and_changes_nothing(
    guarded: Callable[[str], Celeriac], shared_guarded_redis: RedisServer
) -> None:
    caller, monitor = guarded("caller"), guarded("monitor")
    with running_worker(guarded("worker")):
        assert caller.tasks["shop.add"].apply_async((1, 2), task_id=MINE).get(timeout=PATIENCE) == 3
        for arguments in (["status"], ["inspect", "ping"], ["control", "shutdown"]):
            refused_command(monitor, *arguments)
        shown = command(monitor, "status").stdout
    assert re.search(r"^\S+ +not asked ", shown, re.MULTILINE)
    assert re.search(r"^default +0 +0 +0 +0 +open *$", shown, re.MULTILINE)
    caller.tasks["shop.add"].apply_async((1, 2), countdown=0.001)
    caller.tasks["shop.add"].delay(1, 2)
    before = keys(shared_guarded_redis)
    wait_for(lambda: "default      2" in command(monitor, "queues").output)  # one is due, and nobody has moved it
    for arguments in (["queues", "peek", "default"], ["queues", "dead", "list"], ["tasks"], ["result", MINE]):
        assert command(monitor, *arguments).exit_code == 0
    call = ["call", "shop.add", "--args", "[1, 2]"]
    for arguments in (["queues", "pause", "mail"], ["purge", "default", "--yes"], call):
        refused_command(monitor, *arguments)
    assert keys(shared_guarded_redis) == before


def keys(redis: RedisServer) -> list[bytes]:
    return sorted(redis.ask("KEYS", "*"))


def test_a_monitor_on_redis_cannot_be_a_worker(guarded: Callable[[str], Celeriac]) -> None:
    with pytest.raises(AccessRefused, match=GRANT), running_worker(guarded("monitor")):
        pytest.fail("it has started")


def test_a_worker_on_redis_that_loses_a_right_ends_and_says_which(
    guarded: Callable[[str], Celeriac], shared_guarded_redis: RedisServer, tmp_path: Path
) -> None:
    (rights,) = [line.split()[2:] for line in lines("acl") if line.startswith("user worker ")]
    shared_guarded_redis.ask("ACL", "SETUSER", "losing", *rights)
    with set_stage(tmp_path) as stage:
        url = shared_guarded_redis.url.replace("//", "//losing:worker-password@")
        stage.ground.environment["CELERIAC_BROKER_URL"] = stage.app.conf.broker_url = url
        worker = stage.worker()
        assert stage.send("plain", "returns", 1).get(timeout=PATIENCE) == 1
        shared_guarded_redis.ask("ACL", "SETUSER", "losing", "resetkeys", "~celeriac:queues")
        assert worker.wait() == 1
        assert re.search(f"has failed: .*{GRANT}", worker.text())
        assert "Traceback" not in worker.text()
        beginner = stage.worker(ready=False)
        assert beginner.wait() == 1
        assert "docs/security.md" in beginner.text()
        assert "Traceback" not in beginner.text()


# --- RabbitMQ -----------------------------------------------------------------------------------------

PERMIT = r"ACCESS_REFUSED.*Give the user the permissions of its role \(docs/security\.md\)"


@pytest.mark.parametrize(("page", "scheme"), [("brokers-stomp", "stomp"), ("brokers-amqp10", "amqp10")])
def test_callers_and_workers_by_other_protocols_have_the_permissions_that_they_need(
    place: Place, page: str, scheme: str
) -> None:
    permissions = [line for line in lines("rabbitmq", page) if "set_permissions" in line]
    apps = {}
    for line in permissions:
        *_, role, configure, write, read = shlex.split(line)
        permit(place, role, configure, write, read)
        by_amqp = place.rabbit.url(place.vhost, f"{role}:secret")
        by_stomp = place.rabbit.stomp_url(place.vhost, f"{role}:secret")
        url = by_stomp if scheme == "stomp" else by_amqp.replace("amqp://", f"{scheme}://")
        apps[role] = app_on(url, result_backend="rpc://")
    caller, worker = apps["caller"], apps["worker"]
    add = caller.tasks["shop.add"]
    with running_worker(worker):
        calls = [add.delay(1, 2), add.apply_async((1, 2), queue="mail"), add.apply_async((1, 2), priority=9)]
        assert [call.get(timeout=PATIENCE) for call in calls] == [3] * 3
        add.delay(1, 2).revoke()
        for arguments in (["queues", "pause", "mail"], ["queues", "resume", "mail"], ["queues", "peek", "default"],
                          ["queues", "dead", "list"], ["inspect", "ping"]):  # fmt: skip
            assert command(worker, *patient(*arguments)).exit_code == 0
        for arguments in (["inspect", "ping"], ["queues", "dead", "list"]):
            assert "access_refused" in command(caller, *patient(*arguments)).output.lower()
    for app in apps.values():
        app.close()


@pytest.fixture
def permitted(place: Place) -> Iterator[Callable[[str], Celeriac]]:
    """Return an app of a role, with the permissions of the page, as they stand there."""
    for line in lines("rabbitmq"):
        *_, role, configure, write, read = shlex.split(line)
        permit(place, role, configure, write, read)
    made: list[Celeriac] = []

    def app_of(role: str) -> Celeriac:
        app = app_on(place.rabbit.url(place.vhost, f"{role}:secret"), result_backend="rpc://")
        made.append(app)
        return app

    yield app_of
    for app in made:
        app.close()


def queues(place: Place) -> set[str]:
    return {queue["name"] for queue in place.rabbit.ask("GET", f"/api/queues/{quote(place.vhost)}")}


def permit(place: Place, user: str, configure: str, write: str, read: str) -> None:
    ask = place.rabbit.ask
    assert ask("PUT", f"/api/users/{user}", {"password": "secret", "tags": ""}) is not None
    rights = {"configure": configure, "write": write, "read": read}
    assert ask("PUT", f"/api/permissions/{quote(place.vhost)}/{user}", rights) is not None


def test_a_caller_on_rabbitmq_calls_and_cannot_command_or_operate(
    place: Place, permitted: Callable[[str], Celeriac]
) -> None:
    caller, worker = permitted("caller"), permitted("worker")
    add, complete = caller.tasks["shop.add"], caller.broker.complete
    with running_worker(worker):
        wait_for(lambda: {"default", "mail"} <= queues(place), "the worker having declared its queues")
        calls = [add.delay(1, 2), add.apply_async((1, 2), countdown=0.3), add.apply_async((1, 2), queue="mail")]
        assert [call.get(timeout=PATIENCE) for call in calls] == [3] * 3
        refused(lambda: complete(caller.broker.broadcast(CHANNEL, [b'{"name":"shutdown"}'])), PERMIT)
        refused(calls[0].revoke, PERMIT)
        for arguments in (*FOR_OPERATORS, ["queues", "peek", "default"]):
            refused_command(caller, *arguments)
        assert add.delay(1, 2).get(timeout=PATIENCE) == 3


def test_an_operator_on_rabbitmq_looks_commands_and_operates(permitted: Callable[[str], Celeriac]) -> None:
    operator, worker = permitted("operator"), permitted("worker")
    with running_worker(worker):
        for arguments in (["status"], ["queues"], ["queues", "peek", "default"], ["queues", "pause", "mail"],
                          ["queues", "resume", "mail"], ["purge", "mail", "--yes"], ["inspect", "ping"],
                          ["control", "rate-limit", "shop.add", "9/s"]):  # fmt: skip
            assert command(operator, *patient(*arguments)).exit_code == 0
        assert len(operator.broker.complete(Inspector(operator, timeout=PATIENCE).ping()).values) == 1


def test_a_link_to_a_queue_that_a_worker_on_rabbitmq_may_not_declare_is_a_fault_of_its_message_alone(
    place: Place, permitted: Callable[[str], Celeriac]
) -> None:
    worker, caller = permitted("worker"), app_on(place.url, result_backend="rpc://", task_create_missing_queues=True)
    add = caller.tasks["shop.add"]
    linked = add.apply_async((1, 2), link=add.s(3).set(queue="private"))
    calls = [linked, *(add.delay(1, 2) for _ in range(10))]
    with running_worker(worker):
        assert [call.get(timeout=PATIENCE) for call in calls] == [3] * 11
        operations = worker.broker.operations()
        (letter,) = wait_for(lambda: worker.broker.complete(operations.dead(None, 10)))
        assert add.delay(2, 2).get(timeout=PATIENCE) == 4
    caller.close()
    assert letter.message.id == linked.id
    assert re.search(f"it cannot be settled: .*{PERMIT}", letter.reason)


@pytest.mark.parametrize("lost", ["configure", "write", "read"])
def test_a_worker_on_rabbitmq_without_a_permission_ends_and_says_which(place: Place, tmp_path: Path, lost: str) -> None:
    rights = {"configure": ".*", "write": ".*", "read": ".*", lost: "^$"}
    permit(place, "weak", **rights)
    with set_stage(tmp_path) as stage:
        stage.ground.environment["CELERIAC_BROKER_URL"] = place.rabbit.url(place.vhost, "weak:secret")
        worker = stage.worker(ready=False)
        assert worker.wait() == 1
        assert re.search("ACCESS_REFUSED.*docs/security.md", worker.text())
        assert "Traceback" not in worker.text()


def test_a_worker_on_rabbitmq_that_may_not_read_its_queue_ends_and_says_so(place: Place, tmp_path: Path) -> None:
    permit(place, "blind", ".*", ".*", "^celeriac.*|^amq.*")
    with set_stage(tmp_path) as stage:
        stage.ground.environment["CELERIAC_BROKER_URL"] = place.rabbit.url(place.vhost, "blind:secret")
        worker = stage.worker(ready=False)
        assert worker.wait() == 1
        assert re.search("has failed: .*ACCESS_REFUSED.*docs/security.md", worker.text())
        assert "Traceback" not in worker.text()
