"""What a type checker makes of tasks. Never run: `make check` reads it with mypy, to which a wrong type is an error,
and so is a `type: ignore` that is not needed."""

from collections.abc import Iterator, Sequence
from contextlib import aclosing
from typing import Any, assert_type

from celeriac import (
    AsyncResult,
    Celeriac,
    GroupResult,
    Request,
    Retry,
    Signature,
    Task,
    crontab,
    group,
    shared_task,
    signals,
    webhooks,
)
from celeriac.progress import atrack

app = Celeriac("typing")


@app.task
def add(x: int, y: int = 0) -> int:
    return x + y


@app.task
async def fetch(url: str) -> bytes:
    return url.encode()


@app.task(queue="mail", time_limit=60, autoretry_for=(OSError,))
def send(to: str) -> None: ...


@app.task(schedule=crontab(minute=0))
def hourly() -> None: ...


@app.task(bind=True)
def bound(self: Task[..., Any], x: int) -> str:
    return f"{self.name} {x}"


@app.task(bind=True, max_retries=3)
async def bound_fetch(self: Task[..., Any], x: int) -> str:
    return str(x)


charge = app.http_task("billing.charge", "https://billing.internal/charge", timeout=5, queue="mail")
assert_type(charge.delay(7, amount="12.50"), AsyncResult[Any])
add.apply_async((1, 2), **webhooks.callback(add, "https://hooks.example.com/"))


class Noted(Task[..., Any]):
    max_retries = 5

    def on_failure(self, exc: BaseException, *given: Any) -> None: ...

    def run(self, x: int) -> int:
        return x


class Priced(Task[[int], str]):
    def run(self, x: int) -> str:
        return str(x)


assert_type(app.register_task(Priced()), Priced)
assert_type(app.register_task(Priced).delay(1), AsyncResult[str])


@app.task(bind=True, base=Noted)
def retries(self: Task[..., Any], x: int) -> int:
    assert_type(self.request, Request)
    assert_type(self.request.called_directly, bool)
    assert_type(self.request.id, str)
    assert_type(self.max_retries, int | None)
    assert_type(self.retry(throw=False), Retry)
    if x:
        self.retry((x,), countdown=3, queue="slow", headers={"a": 1})
    raise self.retry(exc=OSError(), kwargs={"x": 1})


@shared_task
def shared(x: int) -> float:
    return x / 2


def calls() -> None:
    assert_type(add(1, 2), int)
    assert_type(add.delay(1, 2), AsyncResult[int])
    assert_type(add.delay(1, y=2).get(timeout=1.0), int)
    assert_type(add.apply_async((1, 2), queue="math", countdown=10), AsyncResult[int])
    assert_type(add.apply((1,)), AsyncResult[int])
    assert_type(add.delay_many([(1,), {"x": 2}], priority=3), Sequence[AsyncResult[int]])
    assert_type(send.delay("me"), AsyncResult[None])
    assert_type(shared.delay(3), AsyncResult[float])
    assert_type(app.map(add, range(3)), Iterator[int])


def results_in_wider_types() -> tuple[AsyncResult[int | str], GroupResult[object]]:
    tasks: list[Task[[int], object]] = [bound, shared]
    signatures: list[Signature[object]] = [add.s(1), bound.s(1)]
    results: list[AsyncResult[int | str]] = [add.delay(1), bound.delay(1)]
    assert_type(tasks[0].delay(1), AsyncResult[object])
    return results[0], group(signatures).delay()


def wrong_calls() -> None:
    add.delay("1")  # type: ignore[arg-type]
    add.delay()  # type: ignore[call-arg]
    add.delay(1, 2, 3)  # type: ignore[call-arg]
    add.delay(1, z=2)  # type: ignore[call-arg]
    add("1")  # type: ignore[arg-type]
    add.si("1")  # type: ignore[arg-type]
    fetch.delay(1)  # type: ignore[arg-type]
    bound.delay("1")  # type: ignore[arg-type]
    shared.delay("1")  # type: ignore[arg-type]
    add.apply_async((1,), countdwn=10)  # type: ignore[call-arg]
    add.apply_async((1,), priority="high")  # type: ignore[arg-type]


def wrong_retries(self: Task[..., Any]) -> None:
    self.retry(countdwn=3)  # type: ignore[call-overload]
    self.retry(queue=3)  # type: ignore[call-overload]


@signals.task_failure.connect
def told(sender: Any, exception: BaseException, **more: Any) -> None: ...


@signals.task_success.connect(sender=add, weak=False, dispatch_uid="told")
def told_once(sender: Any, result: Any, **more: Any) -> None: ...


def bound_calls() -> None:
    assert_type(bound.delay(1), AsyncResult[str])
    assert_type(bound_fetch.delay(1), AsyncResult[str])


async def coroutine_calls() -> None:
    assert_type(await fetch("x"), bytes)
    assert_type(fetch.delay("x"), AsyncResult[bytes])
    result = await fetch.adelay("x")
    assert_type(result, AsyncResult[bytes])
    assert_type(await result, bytes)
    assert_type(await result.aget(timeout=1.0), bytes)
    assert_type(await add.aapply_async((1,)), AsyncResult[int])


async def results_by_their_ids() -> None:
    result = AsyncResult("id")
    assert_type(result, AsyncResult[Any])
    assert_type(await result.astate(), str)
    assert_type(AsyncResult[int]("id").get(), int)
    async for step in result.aprogress():
        assert_type(step, dict[str, Any])


async def iterations_that_are_closed() -> None:
    async with aclosing(add.delay(1).aprogress()) as steps:
        assert_type(await anext(steps), dict[str, Any])
    async with aclosing(app.amap(add, [1])) as values:
        assert_type(await anext(values), int)
    async with aclosing(group(add.s(1)).delay().aas_completed()) as ended:
        assert_type(await anext(ended), AsyncResult[int])
    async with aclosing(atrack(group(add.s(1)).delay())) as tracked:
        assert_type(await anext(tracked), AsyncResult[int])


def signatures() -> None:
    assert_type(add.s(1), Signature[int])
    assert_type(add.si(1, 2).set(queue="x"), Signature[int])
    assert_type(add.s(1).delay(2), AsyncResult[int])
    assert_type(fetch.s("x").clone(), Signature[bytes])


async def groups() -> None:
    assert_type(group(add.s(i) for i in range(3)), group[int])
    assert_type(group(add.s(1), add.s(2)).delay(), GroupResult[int])
    assert_type(group(add.s(1)).delay().get(), list[int])
    assert_type(await (await group([add.s(1)]).adelay()).aget(), list[int])
    assert_type(group(add.s(1), fetch.s("x")).delay(), GroupResult[object])
    for result in group(add.s(1)).delay():
        assert_type(result, AsyncResult[int])


@app.task(retry_backof=True)  # type: ignore[call-overload, untyped-decorator]
def misspelt_option() -> None: ...
