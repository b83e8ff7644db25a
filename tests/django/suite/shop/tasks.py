"""Tasks with Celeriac's own decorators."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from pathlib import Path

from asgiref.sync import sync_to_async
from django.conf import settings
from django.db import connection, transaction

from celeriac import shared_task
from shop.models import Order


def pause(name: str) -> None:
    """Say that this place was reached, and wait until the test allows to go on."""
    folder = Path(settings.FOLDER)
    (folder / f"{name}-reached").touch()
    while not (folder / name).exists():
        time.sleep(0.01)


def session() -> int:
    """Return which session of the database server this is."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_backend_pid()")
        return cursor.fetchone()[0]


@shared_task
def total(number: str) -> int:
    return Order.objects.get(number=number).total


@shared_task
def add(x: int, y: int) -> int:
    return x + y


@shared_task
def describe(order: Order) -> str:
    return f"{type(order).__name__} {order.number} of {order._state.db}"


@shared_task
async def adescribe(order: Order) -> str:
    return f"{type(order).__name__} {order.number} of {order._state.db}"


@shared_task
def numbers(orders: list[Order], more: Order | None = None) -> list[str]:
    return [order.number for order in [*orders, *([more] if more else [])]]


@shared_task
def plain(value) -> str:
    return str(value)


@shared_task
def mark(number: str, state: str) -> int:
    """Change an order in a transaction; return the process."""
    with transaction.atomic():
        Order.objects.filter(number=number).update(state=state)
    return os.getpid()


@shared_task
def die_in_transaction(number: str, marker: str) -> str:
    """Be killed in the middle of a transaction, the first time."""
    with transaction.atomic():
        Order.objects.filter(number=number).update(state="half done")
        path = Path(settings.FOLDER, marker)
        if not path.exists():
            path.touch()
            os.kill(os.getpid(), signal.SIGKILL)
    return Order.objects.get(number=number).state


@shared_task
def leave_transaction_open(number: str) -> int:
    """Begin a transaction and forget it."""
    transaction.atomic().__enter__()
    Order.objects.filter(number=number).update(state="never committed")
    return os.getpid()


@shared_task
def backend_session() -> int:
    return session()


@shared_task
async def coroutine_session() -> int:
    return await sync_to_async(session)()


@shared_task
async def thread_session() -> list:
    """Return the session of a thread that is not Django's usual one, and whether it is left open there."""
    pid = await sync_to_async(session, thread_sensitive=False)()
    return [pid, threading.active_count()]


@shared_task
async def count_orders() -> int:
    return await Order.objects.acount()


@shared_task
def sessions_over_a_fork() -> list[int]:
    """Return the sessions before a fork, in the forked process, and after it has ended."""
    before = session()
    receiver, sender = multiprocessing.get_context("fork").Pipe(duplex=False)
    child = multiprocessing.get_context("fork").Process(target=lambda: sender.send(session()))
    child.start()
    forked = receiver.recv()
    child.join()
    return [before, forked, session()]


@shared_task
def hold_transaction(number: str, name: str) -> str:
    """Keep a transaction open until the test allows its end."""
    with transaction.atomic():
        Order.objects.filter(number=number).update(state="held")
        pause(name)
    return Order.objects.get(number=number).state


@shared_task(soft_time_limit=0.5)
def too_long(number: str) -> None:
    """Exceed the soft time limit in a transaction."""
    with transaction.atomic():
        Order.objects.filter(number=number).update(state="too long")
        time.sleep(600)
