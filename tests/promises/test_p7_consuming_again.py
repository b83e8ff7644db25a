"""P7: a worker that lost its broker is consuming again within 5 s of its return.

SQLite is lost while another process has locked the file; RabbitMQ is killed or frozen; Redis is too, or does what
servers do on a bad day. `make chaos` holds workers to the 5 s exactly; see `tests/patience.py`.
"""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from celeriac.errors import BrokerUnavailable
from tests.patience import PATIENCE, in_time, wait_for
from tests.promises.grounds import RedisGround
from tests.promises.harness import Stage, set_stage
from tests.redis_server import RedisServer, running_redis

AWAY = 2.5  # seconds
WITHIN = 5.0  # seconds
SPELL = 1.2  # seconds; in which an idle worker turns to its broker too


def pass_time(stage: Stage, seconds: float) -> None:
    begun = time.monotonic()
    stage.wait(lambda: time.monotonic() - begun > seconds, f"{seconds} s to pass")


def load(stage: Stage, each: int) -> list[Any]:
    """Send tasks of a few milliseconds, in both lanes; return when some have begun."""
    plain, coroutine = (
        stage.app.tasks[f"victim.{lane}"].delay_many([("sleeps", 0.005)] * each) for lane in ("plain", "coroutine")
    )
    stage.started(plain[3], coroutine[3])
    return plain + coroutine


def consuming_again(stage: Stage, after: str) -> Any:
    """Send a task now, lest all others have ended; a task must start within `WITHIN` seconds. Return its result."""
    returned = time.time()
    probe = send_again_until_it_is_taken(stage)
    stage.wait(lambda: any(run.at > returned for run in stage.journal()), "a task that starts")
    took = min(run.at for run in stage.journal() if run.at > returned) - returned
    print(f"\nP7: consuming again {took:.2f} s after {after}")
    assert in_time(took, WITHIN)
    return probe


@pytest.mark.parametrize(
    ("stage", "how", "timeout"),
    [("sqlite", "locked", 0.5), ("sqlite", "locked", 10.0), ("redis", "down", 10.0), ("redis", "frozen", 0.5),
     ("redis", "frozen", 10.0), ("hub", "down", 10.0), ("hub", "frozen", 0.5)],
    indirect=["stage"],
)  # fmt: skip
def test_outcomes_that_wait_while_the_broker_is_away_are_all_recorded_once(
    stage: Stage, how: str, timeout: float
) -> None:
    """With a short time-out requests are given up and tried again, with a long one they are waited for."""
    worker = stage.worker(broker_publish_timeout=timeout)
    stage.record()
    holding = [stage.send(lane, "holds", stage.path("go"), priority=9) for lane in ("plain", "coroutine")]
    stage.started(*holding)
    results = load(stage, 400)
    with stage.away(how):
        stage.release("go")  # at least these end, and others that were begun
        pass_time(stage, AWAY)
    everything = [*results, *holding, consuming_again(stage, f"a broker that was {how} is back")]
    stage.wait(lambda: all(result.successful() for result in everything), "the end of all tasks")
    assert worker.process.poll() is None
    assert len(stage.journal()) == len(everything)
    assert set(stage.recorded().values()) == {1}


@pytest.mark.parametrize(("ground", "how"), [("sqlite", "locked"), ("redis", "down"), ("redis", "frozen")])
def test_leases_that_run_out_while_the_broker_is_away_cost_nothing_and_no_second_run(
    tmp_path: Path, ground: str, how: str
) -> None:
    """The worker that finds the broker first does not believe the other dead, which has not found it yet.

    It gives the other time for that, in proportion to the lease. A machine may be too busy for a short one.
    """
    for lease in (1.5, 6.0, 24.0):
        with set_stage(tmp_path / f"{lease:g}", ground) as stage:
            settings = {"worker_lease_seconds": lease, "broker_publish_timeout": 0.5}
            slow, _ = stage.worker(**settings), stage.worker(**settings)
            stage.record()
            results = load(stage, 300)
            with stage.away(how):
                slow.signal(signal.SIGSTOP)
                pass_time(stage, lease + 1)
            pass_time(stage, min(1.0, lease / 3))
            slow.signal(signal.SIGCONT)
            stage.wait(lambda results=results: all(result.successful() for result in results), "the end of all tasks")
            assert set(stage.recorded().values()) == {1}
            assert all(worker.stop() == 0 for worker in stage.workers)
            assert stage.is_empty()
            if len(stage.journal()) == len(results):
                return
            assert any("The lease is gone" in worker.text() for worker in stage.workers)
    pytest.fail("a lease was lost each time")


# --- Failures of Redis ---------------------------------------------------------------------------------


def connections_killed(ground: RedisGround) -> None:
    for kind in ("normal", "pubsub"):
        ground.server.ask("CLIENT", "KILL", "TYPE", kind, "SKIPME", "yes")


def scripts_forgotten(ground: RedisGround) -> None:
    ground.server.ask("SCRIPT", "FLUSH")


def slow_to_load(ground: RedisGround) -> None:
    """Start it again so that it answers LOADING for a while."""
    with ground.away("down"):
        ground.server.arguments = (*ground.ARGUMENTS, "--key-load-delay", "200")


def read_only(ground: RedisGround) -> None:
    """Make it a replica of a server that does not exist, like a master that was demoted."""
    ground.server.ask("REPLICAOF", "127.0.0.1", "1")
    time.sleep(SPELL)
    ground.server.ask("REPLICAOF", "NO", "ONE")


def without_replicas(ground: RedisGround) -> None:
    """Have it refuse writes because it has no replicas."""
    ground.server.ask("CONFIG", "SET", "min-replicas-to-write", "1")
    time.sleep(SPELL)
    ground.server.ask("CONFIG", "SET", "min-replicas-to-write", "0")


@pytest.mark.parametrize("stage", ["rabbitmq"], indirect=True)
@pytest.mark.parametrize("how", ["down", "frozen"])
def test_a_worker_consumes_again_when_its_rabbitmq_is_back(stage: Stage, how: str) -> None:
    """What it runs goes on or is run again: a lease is a connection. Each outcome is recorded once all the same."""
    worker = stage.worker()
    stage.record()
    results = load(stage, each=500)
    with stage.away(how):
        pass_time(stage, AWAY)
    results.append(consuming_again(stage, f"a server that was {how} is back"))
    stage.wait(lambda: all(result.ready() for result in results), "the end of all tasks")
    stage.wait(stage.is_empty, "an empty broker")
    assert stage.recorded() == dict.fromkeys((result.id for result in results), 1)
    assert worker.stop() == 0


@pytest.mark.parametrize("stage", ["redis"], indirect=True)
@pytest.mark.parametrize(
    "disturb", [connections_killed, scripts_forgotten, slow_to_load, read_only, without_replicas]
)
def test_a_worker_recovers_from_server_failures(stage: Stage, disturb: Callable[[RedisGround], None]) -> None:
    """While it is busy, and while it waits for work."""
    assert isinstance(stage.ground, RedisGround)
    worker = stage.worker()
    stage.record()
    results = load(stage, 300)
    asyncio.run(ask_much(stage))
    disturb(stage.ground)
    results.append(consuming_again(stage, "it"))
    stage.wait(lambda: all(result.successful() for result in results), "the end of all tasks")
    disturb(stage.ground)
    later = [stage.send(lane, "returns", 1) for lane in ("plain", "coroutine")]
    sent = time.monotonic()
    assert [result.get(timeout=PATIENCE) for result in later] == [1, 1]
    took = time.monotonic() - sent
    print(f"\nP7: an idle worker has consumed {took:.2f} s after it")
    assert in_time(took, WITHIN)
    assert asyncio.run(stage.inspector().ping()).values == {worker.name: {"ok": "pong"}}
    assert len(stage.journal()) == len(results) + 2
    assert set(stage.recorded().values()) == {1}
    assert worker.stop() == 0


async def ask_much(stage: Stage) -> None:
    """Send control commands whose answers the worker may not be able to send."""
    for _ in range(100):
        await stage.app.control.send("ping", reply_to="reply.nobody")


@pytest.mark.parametrize("stage", ["redis"], indirect=True)
def test_a_full_server_refuses_calls_while_workers_empty_it(stage: Stage) -> None:
    assert isinstance(stage.ground, RedisGround)
    server = stage.ground.server
    worker = stage.worker()
    results = load(stage, 300)
    server.ask("CONFIG", "SET", "maxmemory", "1mb")
    with pytest.raises(BrokerUnavailable, match="maxmemory"):
        stage.victim.quick.delay(1)
    stage.wait(lambda: all(result.successful() for result in results), "the end of all tasks")
    pass_time(stage, 1.0)  # it waits now, and registers for that
    server.ask("CONFIG", "SET", "maxmemory", "0")
    assert stage.victim.quick.delay(1).get(timeout=PATIENCE) == 1
    assert len(stage.journal()) == len(results) + 1
    assert worker.stop() == 0


@pytest.mark.parametrize("stage", ["redis"], indirect=True)
def test_a_worker_follows_a_failover_and_what_it_runs_goes_on(stage: Stage, tmp_path: Path) -> None:
    assert isinstance(stage.ground, RedisGround)
    master = stage.ground.server
    folders = [tmp_path / name for name in ("replica", "sentinel")]
    for folder in folders:
        folder.mkdir()
    settings = folders[1] / "sentinel.conf"
    settings.write_text(
        f"sentinel monitor main 127.0.0.1 {master.port} 1\n"
        "sentinel down-after-milliseconds main 2000\nsentinel failover-timeout main 5000\n"
    )
    replica_of = ("--replicaof", "127.0.0.1", str(master.port))
    with running_redis(folders[0], *replica_of) as replica, running_redis(folders[1], settings=settings) as sentinel:
        url = f"redis+sentinel://127.0.0.1:{sentinel.port}/main"
        stage.ground.environment["CELERIAC_BROKER_URL"] = stage.app.conf.broker_url = url
        worker = stage.worker()
        holding = [stage.send(lane, "holds", stage.path("go")) for lane in ("plain", "coroutine")]
        stage.started(*holding)
        wait_for(lambda: caught_up(master, replica), "the replica's copy")
        wait_for(lambda: sentinel.ask("SENTINEL", "REPLICAS", "main"), "the Sentinel's knowledge of it")
        master.kill()
        stage.release("go")
        wait_for(lambda: is_master(replica), "the promotion")
        promoted = time.monotonic()
        later = send_again_until_it_is_taken(stage)
        stage.started(later)
        took = time.monotonic() - promoted
        print(f"\nP7: consuming {took:.2f} s after the promotion")
        assert in_time(took, WITHIN)
        assert [result.get(timeout=PATIENCE) for result in [*holding, later]] == ["released", "released", 1]
        assert len(stage.runs(*holding, later)) == 3
        assert worker.stop() == 0


def caught_up(master: RedisServer, replica: RedisServer) -> bool:
    def offset(server: RedisServer) -> int:
        role = server.ask("ROLE")
        return int(role[1] if role[0] == b"master" else role[4])

    return bool(master.ask("ROLE")[2]) and offset(replica) == offset(master)


def is_master(server: RedisServer) -> bool:
    try:
        return bool(server.ask("ROLE")[0] == b"master")
    except ConnectionError:  # the Sentinel cuts off all clients of a replica that it promotes
        return False


def send_again_until_it_is_taken(stage: Stage) -> Any:
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            return stage.send("plain", "returns", 1, priority=9)
        except BrokerUnavailable:
            if time.monotonic() > deadline:
                raise
