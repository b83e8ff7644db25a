"""Spans in real workers, of all pools: what is whose child, and what is only linked."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import Any

import pytest

from celeriac import chain, chord, group
from celeriac.tasks.tracing import LINKED_FROM
from tests.patience import PATIENCE
from tests.tracing.shop import TracedShop
from tests.tracing.spans import named

POOLS = {
    "processes": ((), "worker_process_init"),
    "threads": (("--pool", "threads"), "worker_init"),
    "solo": (("--pool", "solo"), "worker_init"),
}
each_pool = pytest.mark.parametrize("pool", POOLS)
KEY = "Jjh82eZjDgxwszVC3oMg-8XZZjMB6FbuOWGjryUW-dw"


def open_shop(shop: TracedShop, pool: str = "processes", *arguments: str, **more: Any) -> TracedShop:
    given, signal = POOLS[pool]
    return shop.open(*given, *arguments, signal=signal, **more)


@each_pool
def test_an_attempt_is_a_child_of_the_call_and_the_users_spans_are_its_children(shop: TracedShop, pool: str) -> None:
    open_shop(shop, pool)
    with shop.tracer().start_as_current_span("checkout") as caller:
        result = shop.app.send_task("shop.add", ["top secret", "s"])
    assert result.get(timeout=PATIENCE) == "top secrets"
    (process,), (send,) = shop.found("process shop.add"), shop.found("send shop.add")
    (inner,) = shop.found("inner")
    assert send.parent == f"{caller.get_span_context().span_id:016x}"
    assert (process.parent, process.links) == (send.id, [send.id])
    assert inner.parent == process.id
    assert {span.trace for span in (send, process, inner)} == {f"{caller.get_span_context().trace_id:032x}"}
    assert (send.kind, process.kind) == ("PRODUCER", "CONSUMER")
    common = {"messaging.system": "celeriac", "messaging.destination.name": "default", "celeriac.task": "shop.add",
              "messaging.message.id": result.id, "messaging.message.conversation_id": result.id}  # fmt: skip
    assert send.attributes == {**common, "messaging.operation.name": "send", "messaging.operation.type": "send"}
    assert process.attributes == {
        **common, "messaging.operation.name": "process", "messaging.operation.type": "process",
        "messaging.client.id": "w1", "celeriac.attempt": 1, "celeriac.state": "SUCCESS",
    }  # fmt: skip
    assert {send.status, process.status} == {"UNSET"}
    assert "secret" not in shop.path.read_text()


@pytest.mark.parametrize("pool", ["processes", "threads"])
def test_coroutines_that_take_turns_keep_their_spans(shop: TracedShop, pool: str) -> None:
    open_shop(shop, pool, "-l", "info", "--log-format", "json")
    results = {name: shop.app.send_task("shop.wait", [name]) for name in ("tea", "milk", "rice")}
    for name in results:
        shop.wait((shop.folder / f"waits {name}").exists, f"the coroutine for {name}")
    (shop.folder / "go").touch()
    for result in results.values():
        result.get(timeout=PATIENCE)
    spans = {span.attributes["messaging.message.id"]: span for span in shop.found("process shop.wait", 3)}
    for name, result in results.items():
        for inner in (*shop.found(f"first {name}"), *shop.found(f"second {name}")):
            assert inner.parent == spans[result.id].id
        (line,) = [json.loads(line) for line in shop.lines(f'"waited for {name}"')]
        assert (line["task_id"], line["trace_id"], line["span_id"]) == (
            result.id, spans[result.id].trace, shop.found(f"second {name}")[0].id
        )  # fmt: skip


def test_batches_and_delayed_calls_are_only_linked(shop: TracedShop) -> None:
    open_shop(shop)
    app = shop.app
    app.register(lambda x, y=1: None, "shop.add", False, None, {})
    many = app.tasks["shop.add"].delay_many([(n, 1) for n in range(5)])
    later = app.send_task("shop.add", [1], countdown=0.01)
    assert [result.get(timeout=PATIENCE) for result in (*many, later)] == [1, 2, 3, 4, 5, 2]
    processes = shop.found("process shop.add", 6)
    sends = shop.found("send shop.add", 2)
    batch, single = sorted(sends, key=lambda send: "messaging.message.id" in send.attributes)
    assert batch.attributes["messaging.batch.message_count"] == 5
    for process in processes:
        send = single if process.attributes["messaging.message.id"] == later.id else batch
        assert (process.parent, process.links) == (None, [send.id])
        assert process.trace not in {send.trace, *(other.trace for other in processes if other is not process)}


def test_a_call_in_a_loop_of_many_has_one_span_for_all(shop: TracedShop) -> None:
    open_shop(shop)
    shop.app.register(lambda x, y=1: None, "shop.add", False, None, {})
    results = shop.app.tasks["shop.add"].delay_many((n,) for n in range(1_500))
    assert results[-1].get(timeout=PATIENCE) == 1_500
    (send,) = shop.found("send shop.add")
    assert send.attributes["messaging.batch.message_count"] == 1_500
    assert {link for span in shop.found("process shop.add", 1_500) for link in span.links} == {send.id}


def test_a_retry_is_linked_and_says_why(shop: TracedShop) -> None:
    open_shop(shop)
    assert shop.app.send_task("shop.again").get(timeout=PATIENCE) == 1
    first, second = sorted(shop.found("process shop.again", 2), key=lambda span: span.attributes["celeriac.attempt"])
    (send,) = shop.found("send shop.again")
    assert (first.parent, first.links, second.parent, second.links) == (send.id, [send.id], None, [send.id])
    assert (first.attributes["celeriac.state"], first.status) == ("RETRY", "UNSET")
    assert "error.type" not in first.attributes
    (event,) = first.events
    assert (event["name"], event["exception.type"], event["exception.message"]) == (
        "exception", "ConnectionError", "no answer"
    )  # fmt: skip
    assert (second.attributes["celeriac.attempt"], second.attributes["celeriac.state"]) == (2, "SUCCESS")


def test_a_failure_is_an_error_with_its_signature_and_its_traceback(shop: TracedShop) -> None:
    open_shop(shop, "processes", "--log-format", "json")
    id = shop.run("fail", "vanilla")
    (process,) = shop.found("process shop.fail")
    assert (process.status, process.attributes["error.type"]) == ("ERROR", "ValueError")
    (event,) = process.events
    assert event["exception.stacktrace"].endswith("ValueError: no such flavour\n")
    assert "vanilla" not in json.dumps(event)
    (line,) = [json.loads(line) for line in shop.wait(lambda: shop.lines('"event": "task.ended"'), "the line")]
    assert (line["trace_id"], line["span_id"]) == (process.trace, process.id)
    assert (line["task_id"], line["signature"]) == (id, process.attributes["celeriac.signature"])


def test_a_process_that_a_task_forks_ends_no_span(shop: TracedShop) -> None:
    open_shop(shop)
    assert shop.app.send_task("shop.forks").get(timeout=PATIENCE) == "parent"
    (process,) = shop.found("process shop.forks")
    assert process.attributes["celeriac.state"] == "SUCCESS"


@pytest.mark.parametrize("how", ["delay", "chain"])
def test_what_a_task_sends_is_a_child_of_its_attempt(shop: TracedShop, how: str) -> None:
    open_shop(shop)
    shop.app.send_task("shop.sends", [how]).get(timeout=PATIENCE)
    (process,) = shop.found("process shop.sends")
    (send,) = shop.found("send shop.add" if how == "delay" else "send chain")
    added = shop.found("process shop.add", 1 if how == "delay" else 2)
    assert send.parent == process.id
    assert {span.parent for span in added} == {send.id}
    assert {span.trace for span in (process, send, *added)} == {process.trace}


def test_a_task_that_runs_in_an_attempt_is_a_part_of_it(shop: TracedShop) -> None:
    open_shop(shop)
    assert shop.app.send_task("shop.sends", ["apply"]).get(timeout=PATIENCE) == 3
    (outer,), (inside,) = shop.found("process shop.sends"), shop.found("process shop.add")
    assert (inside.parent, inside.kind, inside.links) == (outer.id, "INTERNAL", [])
    assert named(shop.spans(), "send shop.add") == []


def test_a_task_that_replaces_another_belongs_to_its_trace(shop: TracedShop) -> None:
    open_shop(shop)
    assert shop.app.send_task("shop.replaces").get(timeout=PATIENCE) == 9
    (old,), (new,) = shop.found("process shop.replaces"), shop.found("process shop.add")
    (send,) = shop.found("send shop.add")
    assert (send.parent, new.parent, old.attributes["celeriac.state"]) == (old.id, send.id, "REPLACED")


def test_the_steps_of_a_workflow_belong_to_the_span_that_sent_it(shop: TracedShop) -> None:
    open_shop(shop)
    add, total = shop.app.signature("shop.add", [1, 2]), shop.app.signature("shop.total")
    assert chain(add, shop.app.signature("shop.add", [3])).delay().get(timeout=PATIENCE) == 6
    assert chord([add.clone() for _ in range(3)], total).delay().get(timeout=PATIENCE) == 9
    (of_chain,), (of_chord,) = shop.found("send chain"), shop.found("send chord")
    added, (body,) = shop.found("process shop.add", 5), shop.found("process shop.total")
    workflows = {span.attributes["celeriac.workflow"] for span in added}
    assert len(workflows) == 2
    assert sorted(span.parent or "" for span in added) == sorted([of_chain.id] * 2 + [of_chord.id] * 3)
    assert body.parent == of_chord.id


@pytest.mark.parametrize("members", [LINKED_FROM, LINKED_FROM + 1])
@pytest.mark.parametrize("kind", ["group", "chord"])
def test_members_of_a_large_group_are_only_linked(shop: TracedShop, kind: str, members: int) -> None:
    open_shop(shop)
    add, total = shop.app.signature("shop.add", [1]), shop.app.signature("shop.total")
    parts = [add.clone() for _ in range(members)]
    if kind == "group":
        assert group(parts).delay().get(timeout=PATIENCE) == [2] * members
    else:
        assert chord(parts, total).delay().get(timeout=PATIENCE) == 2 * members
        (body,) = shop.found("process shop.total")
        assert body.parent == shop.found("send chord")[0].id
    (send,) = shop.found(f"send {kind}")
    spans = shop.found("process shop.add", members)
    assert {*(span.links[0] for span in spans)} == {send.id}
    assert {*(span.parent for span in spans)} == ({send.id} if members <= LINKED_FROM else {None})


def test_a_linked_task_and_an_error_callback_belong_to_the_call(shop: TracedShop) -> None:
    open_shop(shop)
    app = shop.app
    app.send_task("shop.add", [1], link=app.signature("shop.total", [[5]], immutable=True))
    app.send_task("shop.fail", [1], link_error=app.signature("shop.total", [[6]], immutable=True))
    totals = shop.found("process shop.total", 2)
    sends = [*shop.found("send shop.add"), *shop.found("send shop.fail")]
    assert sorted(span.parent or "" for span in totals) == sorted(send.id for send in sends)


@pytest.mark.parametrize(("otel_parent", "is_child"), [("always", True), ("never", False)])
def test_the_setting_says_what_is_a_parent(shop: TracedShop, otel_parent: str, is_child: bool) -> None:
    open_shop(shop, otel_parent=otel_parent)
    results = [shop.app.send_task("shop.add", [1]), shop.app.send_task("shop.add", [1], countdown=0.01)]
    for result in results:
        result.get(timeout=PATIENCE)
    sends = {span.attributes["messaging.message.id"]: span for span in shop.found("send shop.add", 2)}
    for span in shop.found("process shop.add", 2):
        send = sends[span.attributes["messaging.message.id"]]
        assert (span.parent, span.links) == (send.id if is_child else None, [send.id])


def test_signed_messages_carry_the_context(shop: TracedShop) -> None:
    open_shop(shop, security_keys=[KEY])
    shop.app.send_task("shop.add", [1]).get(timeout=PATIENCE)
    (process,), (send,) = shop.found("process shop.add"), shop.found("send shop.add")
    assert process.parent == send.id


def test_a_schedule_begins_a_trace_for_each_tick(shop: TracedShop) -> None:
    open_shop(shop, "processes", "--beat")
    with shop.tracer().start_as_current_span("setup"):
        shop.app.schedules.add("often", timedelta(seconds=1), shop.app.signature("shop.add", [1]))
    shop.wait(lambda: len(named(shop.spans(), "process shop.add")) > 1, "two ticks")
    processes = named(shop.spans(), "process shop.add")
    assert {(span.parent, *span.links) for span in processes} == {(None,)}
    assert len({span.trace for span in processes}) == len(processes)


def test_a_worker_without_a_provider_passes_the_context_on(shop: TracedShop) -> None:
    open_shop(shop, processor="")
    with shop.tracer().start_as_current_span("checkout"):
        headers = shop.app.send_task("shop.headers", headers={"tenant": "acme"}).get(timeout=PATIENCE)
    (send,) = shop.found("send shop.headers")
    assert headers.pop("traceparent").startswith(f"00-{send.trace}-{send.id}-")
    assert headers == {"tenant": "acme"}
    assert shop.app.send_task("shop.loaded").get(timeout=PATIENCE) == []
