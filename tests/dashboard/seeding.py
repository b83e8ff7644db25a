"""Fills an app on SQLite with what a dashboard shows: history, failures, messages, dead letters, schedules, workers.

    seed(app, rows=100_000)      a busy shop
    seed(app, rows=30)           a few rows of each
    seed(app, hostile=True)      markup and other attacks in every field

`SHOP` is the text of the app's module, for real workers and servers.
"""

from __future__ import annotations

import asyncio
import random
from collections import defaultdict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import Any

from celeriac import Celeriac
from celeriac.model.history import AGES, BY_SIGNATURE, EVER, SLOT, Attempt, Batch, Event, FailureSignature, Key, Sums
from celeriac.model.message import COROUTINE, PLAIN, Message, new_id, new_ids
from celeriac.ports.broker import Action, Settlement
from celeriac.ports.history import History
from celeriac.ports.history_sums import Change
from celeriac.ports.operations import WorkerInfo
from tests.patience import PATIENCE

__all__ = ["HOSTILE", "SHOP", "seed"]

SHOP = '''\
import asyncio
import contextlib
import time
from pathlib import Path

from celeriac import Celeriac
from celeriac.errors import Reject, SoftTimeLimitExceeded
from celeriac.inspector import Inspector

# Who gives a worker an order has two seconds for its answer. On a busy machine it may take longer.
Inspector.__init__.__defaults__ = (None, 120.0)
app = Celeriac("shop", task_queues=["mail", "reports", "media"], web_token_file="tokens")


@app.task(name="shop.checkout")
def checkout(order: int) -> int:
    time.sleep(0.01)
    return order


@app.task(name="shop.charge_card", max_retries=0)
def charge_card(order: int, why: str = "card declined by the issuer") -> None:
    raise ValueError(why)


@app.task(name="mail.send_receipt", queue="mail")
def send_receipt(order: int) -> str:
    return f"receipt {order}"


@app.task(name="reports.build", queue="reports", soft_time_limit=3)
def build(name: str) -> str:
    """End when there is a file of this name, however long that takes."""
    while True:
        with contextlib.suppress(SoftTimeLimitExceeded):
            while not Path(name).exists():
                time.sleep(0.05)
            return name


@app.task(name="media.resize", queue="media")
async def resize(name: str) -> str:
    while not Path(name).exists():
        await asyncio.sleep(0.05)
    return name


@app.task(name="shop.reject")
def reject() -> None:
    raise Reject("the warehouse does not know this article")


@app.task(name="shop.log_in")
def log_in(user: str, password: str) -> None:
    raise Reject("nobody has this name")
'''

HOSTILE = (
    '"><script>alert(1)</script>',
    "<img src=x onerror=alert(1)>",
    "'; alert(1); //{{7*7}}${7*7}",
    "javascript:alert(1)",
    "‮evil\u202c \x1b[31mred\x1b[0m \u0000",
    "%2e%2e/../..//evil.example/?a=b&c=d#e",
    "x" * 300,
)  # fmt: skip
"""What is written into every field that takes text."""

KINDS = (  # task, queue, per second, runtime, share of failures, error
    ("shop.checkout", "default", 4.0, 0.12, 0.002, "ValueError"),
    ("shop.charge_card", "default", 1.5, 0.8, 0.03, "CardDeclined"),
    ("mail.send_receipt", "mail", 3.0, 0.25, 0.006, "SMTPServerDisconnected"),
    ("media.resize", "media", 0.8, 6.0, 0.01, "MemoryError"),
    ("reports.build", "reports", 0.05, 95.0, 0.0, ""),
)
TITLES = {
    "ValueError": "ValueError: the basket 1204 is empty",
    "CardDeclined": "CardDeclined: card declined by the issuer (insufficient_funds)",
    "SMTPServerDisconnected": "SMTPServerDisconnected: Connection unexpectedly closed",
    "MemoryError": "MemoryError",
}
TRACEBACK = '''Traceback (most recent call last):
  File "/srv/shop/tasks.py", line 41, in charge_card
    gateway.charge(order.card, order.total)
  File "/srv/shop/gateway.py", line 112, in charge
    raise CardDeclined(answer.reason)
CardDeclined: card declined by the issuer (insufficient_funds)
'''


def seed(app: Celeriac, *, rows: int = 1000, hostile: bool = False, hours: float = 26.0, schedules: int = 12,
         workers: int = 3) -> None:  # fmt: skip
    """Fill the app. `rows`: how many attempts, failures, messages and dead letters there are, about.

    The workers answer no commands, and are there for an hour: start real ones for those that do.
    """
    work = _seed(app, rows, hostile, hours, schedules, workers)
    with ThreadPoolExecutor(1) as thread:  # a loop runs in that of Playwright
        thread.submit(asyncio.run, work).result()


async def _seed(app: Celeriac, rows: int, hostile: bool, hours: float, schedules: int, workers: int) -> None:
    dice = random.Random(7)
    now = app.clock.now()
    kinds = _hostile_kinds() if hostile else KINDS
    assert app.history is not None
    await _sums(app.history, dice, kinds, now, hours)
    await _attempts(app.history, dice, kinds, now, rows, hostile)
    await _messages(app, dice, kinds, now, rows, hostile)
    for number in range(workers):
        name = _text(number)[:200] if hostile else f"worker-{number + 1}@host{number}"
        queues = tuple(dict.fromkeys(kind[1] for kind in kinds))
        info = WorkerInfo(name=name, host=name[:60], pid=4000 + number, started_at=now - 5000 * (number + 1),
                          queues=queues, concurrency={PLAIN: 8, COROUTINE: 100}, version="0.1.0", renewed_at=now,
                          expires_at=now + 3600)  # fmt: skip
        await app.broker.lease(info, 3600.0, 3)
    for number in range(schedules):
        name = f"{_text(number)[:100]}{number}" if hostile else f"nightly-{number}"
        every = (f"*/{number % 7 + 5} * * * *", "0 3 * * *", "0 */2 * * 1-5")[number % 3]
        await app.schedules.aadd(name, every, app.signature(kinds[number % len(kinds)][0]))


def _hostile_kinds() -> tuple[Any, ...]:
    return tuple((_text(i)[:200], _text(i + 1)[:100], 1.0, 0.2, 0.1, _text(i + 2)[:100]) for i in range(len(HOSTILE)))


def _text(number: int) -> str:
    return HOSTILE[number % len(HOSTILE)].replace("\x00", "")


# --- Sums ---------------------------------------------------------------------------------------------


async def _sums(history: History, dice: random.Random, kinds: Any, now: float, hours: float) -> None:
    rows: dict[Key, Sums] = {}
    for at, step in _slots(now, hours):
        wave = 1.0 + 0.5 * ((at // 60 * 37) % 97 / 97) + (0.8 if at > now - 1500 else 0.0)
        for task, queue, rate, runtime, share, error in kinds:
            count = int(rate * step * wave * dice.uniform(0.7, 1.3) + dice.random())
            failed = sum(dice.random() < share for _ in range(min(count, 400)))
            for state, n in (("SUCCESS", count - failed), ("FAILURE", failed)):
                if n <= 0:
                    continue
                name = error if state == "FAILURE" else ""
                key = Key(step, at, "", task, queue, state, name, _signature(task) if name else "")
                rows[key] = _measured(dice, n, runtime)
    totals: dict[Key, Sums] = defaultdict(Sums)
    for key, sums in rows.items():
        totals[key._replace(step=EVER, at=0, signature="")].merge(sums)
        if key.signature:
            totals[Key(BY_SIGNATURE, 0, "", "", "", key.state, "", key.signature)].merge(sums)
    every = list((rows | totals).items())
    for start in range(0, len(every), 5000):
        changes = [Change(key, None, history.seal_sums(key, sums)) for key, sums in every[start : start + 5000]]
        assert await history.swap(changes, {})


def _slots(now: float, hours: float) -> Iterator[tuple[int, int]]:
    """Yield slots as workers would have folded them, each with its step."""
    first, until = now - hours * 3600, int(now) // SLOT * SLOT
    steps = [*AGES]
    for step, coarser in pairwise(steps):
        begin = int(max(first, now - AGES[step])) // coarser * coarser
        for at in range(begin, until, step):
            yield at, step
        until = begin


def _measured(dice: random.Random, n: int, typical: float) -> Sums:
    some = min(n, 20)
    sums = Sums(some)
    sums.runtime.add([dice.lognormvariate(0.0, 0.6) * typical for _ in range(some)])
    sums.wait.add([dice.lognormvariate(0.0, 1.0) * 0.08 for _ in range(some)])
    if n > some:  # the same distribution, in fewer draws
        for spread in (sums.runtime, sums.wait):
            factor = n // some
            spread.buckets = {bucket: count * factor for bucket, count in spread.buckets.items()}
            spread.n, spread.total = spread.n * factor, spread.total * factor
        sums.n = max(sums.runtime.n, n)
    return sums


def _signature(task: str) -> str:
    return f"{sum(map(ord, task)):016x}"


# --- Attempts -----------------------------------------------------------------------------------------


async def _attempts(history: History, dice: random.Random, kinds: Any, now: float, rows: int, hostile: bool) -> None:
    failing = [kind for kind in kinds if kind[4]]
    text = "\n".join(HOSTILE) if hostile else ""
    made = []
    for number, id in enumerate(new_ids(rows)):
        is_failure = number % 3 == 0
        task, queue, _, runtime, _, error = dice.choice(failing if is_failure else kinds)
        done = now - (number / rows) ** 2 * 20_000 - dice.random()
        ran = runtime * dice.lognormvariate(0.0, 0.5)
        made.append(Attempt(
            id=id, task=task, queue=queue, state="FAILURE" if is_failure else "SUCCESS", attempt=1 + number % 4 // 3,
            worker=HOSTILE[0] if hostile else f"worker-{number % 3 + 1}@host{number % 3}", sent_at=done - ran - 0.2,
            started_at=done - ran, done_at=done, runtime=ran, wait=0.2, error=error if is_failure else "",
            message=(text or TITLES[error].partition(": ")[2]) if is_failure else "",
            traceback=(text or TRACEBACK) if is_failure else "", signature=_signature(task) if is_failure else "",
            headers={HOSTILE[0]: HOSTILE[1]} if hostile else {"tenant": dice.choice(("acme", "globex"))},
        ))  # fmt: skip
    signatures = [
        FailureSignature(signature=_signature(kind[0]), task=kind[0], error=kind[5], title=text or TITLES[kind[5]],
                         frames=[HOSTILE[0]] if hostile else ["shop.tasks.charge_card", "shop.gateway.charge"],
                         first=now - 80_000 // (place + 1), last=now - 100 * place,
                         workers=[HOSTILE[1]] if hostile else ["worker-1@host0"],
                         first_release=HOSTILE[3] if hostile else "2026.11.2",
                         releases=[HOSTILE[3]] if hostile else ["2026.11.2", "2026.11.3"],
                         ids=[one.id for one in made if one.signature == _signature(kind[0])][:10])
        for place, kind in enumerate(failing)
    ]  # fmt: skip
    data = {"body": {HOSTILE[0]: HOSTILE[1]}}
    about: dict[str, Any] = {"id": HOSTILE[0], "by": HOSTILE[2], "text": HOSTILE[1], "data": data}
    usual: dict[str, Any] = {"id": "mail", "by": "ann", "text": "Pause a queue", "data": {}}
    events = [
        Event(at=now - 300 * place, kind=kind, **(about if hostile else usual))
        for place, kind in enumerate(("action", "task.retried"))
    ]  # fmt: skip
    for start in range(0, max(1, len(made)), 5000):
        batch = Batch(lease=f"seed {start}", attempts=made[start : start + 5000])
        if not start:
            batch.signatures, batch.events = signatures, events
        await history.record(batch, now)


# --- Messages -----------------------------------------------------------------------------------------


async def _messages(app: Celeriac, dice: random.Random, kinds: Any, now: float, rows: int, hostile: bool) -> None:
    task, queue, *_ = kinds[0]
    body = app.signature("shop.checkout", args=HOSTILE if hostile else (1204, {"customer": 7})).message().body
    letters = [Message(id=new_id(), task=task, queue=queue, body=body, sent_at=now - 900) for _ in range(min(rows, 60))]
    await _bury(app, letters, HOSTILE[0] if hostile else "it killed its worker 3 times")
    for start in range(0, rows, 5000):
        some = []
        for number in range(start, min(rows, start + 5000)):
            task, queue, *_ = dice.choice(kinds)
            due = now + dice.uniform(60, 90_000) if number % 5 == 0 else None
            headers = {HOSTILE[0]: HOSTILE[1]} if hostile else {"tenant": "acme"}
            some.append(Message(id=new_id(), task=task, queue=queue, body=body, sent_at=now - dice.uniform(1, 400),
                                due_at=due, headers=headers))  # fmt: skip
        await app.broker.apublish(some)


async def _bury(app: Celeriac, letters: list[Message], reason: str) -> None:
    """Make dead letters of messages: publish them, take them, and bury them, before there are others."""
    queue = letters[0].queue
    await app.broker.apublish(letters)
    lease = await app.broker.lease(WorkerInfo(name="seeder", queues=(queue,)), 60.0, 3)
    left = len(letters)
    while left > 0:
        deliveries = await lease.receive([queue], {PLAIN: left}, PATIENCE)
        assert deliveries
        await lease.settle([Settlement(delivery=one, action=Action.BURY, reason=reason) for one in deliveries])
        left -= len(deliveries)
    await lease.end()
