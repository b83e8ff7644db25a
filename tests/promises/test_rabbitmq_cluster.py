"""P1 to P9 on a cluster of three RabbitMQ nodes, of which each is killed, or frozen, and comes back, under load.

Consuming goes on within 5 s of the cluster's own election: of a new leader for the queue, among the other nodes.
`make chaos` holds workers to that exactly, and keeps nodes away for longer.
"""

from __future__ import annotations

import threading
import time
import zlib
from collections import Counter
from contextlib import ExitStack
from typing import Any

import pytest

from celeriac import Celeriac, chord
from celeriac.errors import BrokerUnavailable
from celeriac.testing import running_worker
from tests.patience import PATIENCE, in_time, wait_for
from tests.promises.grounds import RabbitClusterGround
from tests.promises.harness import Stage, get

WITHIN = 5.0  # seconds
LEASE = 10.0  # seconds; a worker leaves a silent node after a fourth more
AWAY, LONG_AWAY = 3.0, 20.0  # seconds that a node stays away after the election
NODES = 3
PARTS = [0, 1, 2]  # of a chord

pytestmark = pytest.mark.at_length  # three nodes take more than a machine has that runs other tests too
on_a_cluster = pytest.mark.parametrize("stage", ["rabbitmq+cluster"], indirect=True)


class Load:
    """Sends tasks all the time: plain ones, coroutines, slow ones, chords; some later, some that are retried.

    What waits is in the result backend: RabbitMQ 3.10 keeps delayed messages for good after one of its nodes was
    restarted (docs/brokers.md), so that is what `broker_delays = "auto"` means on such a cluster.
    """

    def __init__(self, stage: Stage) -> None:
        self.stage = stage
        self.results: list[Any] = []
        self.chords: list[Any] = []
        self.refused = 0
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Load:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        self._thread.join()

    def _run(self) -> None:
        number = 0
        while not self._stopped.wait(0.02):
            number += 1
            try:
                self._send(number)
            except BrokerUnavailable:  # P8: told at the call; the message may have been sent all the same
                self.refused += 1

    def _send(self, number: int) -> None:
        stage = self.stage
        lane = ("plain", "coroutine")[number % 2]
        if number % 10 == 0:
            self.results.append(stage.send(lane, "sleeps", 0.5))
        elif number % 25 == 1:
            header = [stage.app.tasks[f"victim.{lane}"].s("returns", part) for part in PARTS]
            self.chords.append(chord(header)(stage.victim.step.s(0, "returns")))
        elif number % 7 == 0:
            self.results.append(stage.send(lane, "retries_at_once", 3, countdown=number % 40 / 10))
        else:
            self.results.append(stage.send(lane, "returns", number, countdown=number % 3 or None))


def take_away_in_turn(stage: Stage, how: str, seconds: float) -> None:
    """Take each node away in turn; assert that consuming goes on in time."""
    ground = stage.ground
    assert isinstance(ground, RabbitClusterGround)
    for node in ground.cluster.nodes:
        assert node is ground.cluster.nodes[ground.next]
        with ground.away(how):
            wait_for(lambda node=node: ground.cluster.leader(ground.vhost, "default", without=node), "an election")
            elected = time.time()
            stage.wait(lambda elected=elected: any(run.at > elected for run in stage.journal()), "a task that starts")
            took = min(run.at for run in stage.journal() if run.at > elected) - elected
            print(f"\nA node is {how}: consuming {took:.2f} s after the election")
            # All workers may have been connected to this node. They see at once that it was killed.
            assert in_time(took, WITHIN if how == "down" else 1.25 * LEASE + 1)
            begun = time.monotonic()
            stage.wait(lambda begun=begun: time.monotonic() - begun > seconds, f"{seconds} s to pass")


@on_a_cluster
@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    ("how", "seconds"),
    [("down", AWAY), ("down", LONG_AWAY), ("frozen", LONG_AWAY)],
)
def test_nothing_is_lost_or_recorded_twice_whichever_node_goes(stage: Stage, how: str, seconds: float) -> None:
    """Workflows among it. What was sent is run, and each outcome is recorded once."""
    workers = [stage.worker(worker_lease_seconds=LEASE, task_max_deliveries=10) for _ in range(2)]
    stage.record()
    get(stage.send("plain", "returns", 0))
    with Load(stage) as load:
        take_away_in_turn(stage, how, seconds)
    everything = [*load.results, *load.chords]
    stage.wait(lambda: all(result.ready() for result in everything), "the end of all tasks")
    failed = {result.id: repr(result.result) for result in everything if not result.successful()}
    assert failed == {}
    assert {get(result) for result in load.chords} == {zlib.crc32(repr(PARTS).encode())}
    stage.wait(stage.is_empty, "an empty broker")
    recorded = stage.recorded()
    assert {recorded[result.id] for result in everything} == {1}
    assert set(recorded.values()) == {1}
    again = [times for times in Counter(run.id for run in stage.journal()).values() if times > 1]
    print(f"{len(everything)} results, {load.refused} calls refused, {len(again)} tasks run again")
    assert [worker.stop() for worker in workers] == [0, 0]


@on_a_cluster
def test_a_worker_can_start_and_queues_can_be_paused_while_any_node_is_down(stage: Stage) -> None:
    """The journal and the roll call are there: a worker that starts then knows of a pause, and of a revocation."""
    ground = stage.ground
    assert isinstance(ground, RabbitClusterGround)
    get_one = stage.worker()
    get(stage.send("plain", "returns", 0))
    get_one.stop()
    for number in range(NODES):
        with ground.away("down"):
            sent = stage.send("plain", "returns", number)
            revoked = stage.send("plain", "returns", -1)
            revoked.revoke()
            worker = stage.worker()
            assert get(sent) == number
            stage.wait(revoked.ready, "the end of the revoked task")
            assert not revoked.successful()
            assert stage.leases() == [worker.name]
            worker.stop()


@on_a_cluster
@pytest.mark.parametrize("number", range(NODES))
def test_replies_survive_the_loss_of_the_node_that_leads_their_queue(stage: Stage, number: int) -> None:
    """`rpc://`: outcomes that were sent while the caller was not reading, and those that follow."""
    ground = stage.ground
    assert isinstance(ground, RabbitClusterGround)
    ground.next = number
    url = ground.environment["CELERIAC_BROKER_URL"]
    app = Celeriac("caller", broker_url=url, result_backend="rpc://", environ={})

    @app.task(name="echo")
    def echo(value: int) -> int:
        return value

    with ExitStack() as stack:
        stack.callback(app.close)
        stack.enter_context(running_worker(app))
        before = [echo.delay(value) for value in range(50)]
        with ground.away("down"):
            wait_for(lambda: ground.cluster.leader(ground.vhost, "default", without=ground.cluster.nodes[number]),
                     "an election")  # fmt: skip
            during = [echo.delay(value) for value in range(50)]
            assert [result.get(timeout=PATIENCE) for result in before] == list(range(50))
            assert [result.get(timeout=PATIENCE) for result in during] == list(range(50))
        assert echo.delay(1).get(timeout=PATIENCE) == 1
