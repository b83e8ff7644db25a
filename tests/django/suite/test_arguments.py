"""Lazy strings, model instances and querysets as arguments and results."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from bazaar import app
from django.utils.functional import SimpleLazyObject
from django.utils.translation import gettext_lazy, override
from shop.models import Order
from shop.tasks import adescribe, describe, numbers, plain

from celeriac.errors import EncodeError
from celeriac.model.serialization import loads
from tests.patience import PATIENCE


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> list:
    """What is published, in place of publishing it."""
    messages: list = []
    monkeypatch.setattr(app.broker, "publish", messages.extend)
    return messages


@pytest.fixture
def order() -> Order:
    return Order.objects.create(number="B1")


def test_a_lazy_string_is_sent_as_its_text_in_the_language_of_the_call(sent: list) -> None:
    with override("de"):
        plain.delay({"day": gettext_lazy("Monday")})
    assert loads(sent[0].body) == [[{"day": "Montag"}], {}]


def test_an_instance_is_refused_with_the_advice_to_send_its_key(sent: list, order: Order) -> None:
    with pytest.raises(EncodeError, match=r"Argument 'value' of shop.tasks.plain .*send its key, `.pk`"):
        plain.delay(order)
    with pytest.raises(EncodeError, match=r"at \['order'\]\[0\]"):
        plain.delay({"order": [order]})
    assert sent == []


def test_an_instance_in_a_dataclass_is_refused(sent: list, order: Order) -> None:
    @dataclass
    class Job:
        order: Order

    with pytest.raises(EncodeError, match="send its key"):
        plain.delay(Job(order))


def test_a_queryset_is_refused_with_the_advice_to_send_the_keys(sent: list) -> None:
    with pytest.raises(EncodeError, match=r"values_list\('pk'"):
        plain.delay(Order.objects.all())
    with pytest.raises(EncodeError, match=r"values_list\('pk'"):
        plain.delay(Order.objects)


def test_an_instance_is_sent_by_its_key_where_the_parameter_is_annotated(sent: list, order: Order) -> None:
    describe.delay(order)
    describe.delay(SimpleLazyObject(lambda: order))
    describe.apply_async(kwargs={"order": order})
    describe.delay_many([(order,), (order,)])
    describe.s(order).apply_async()
    assert {message.body for message in sent} == {b"[[%d],{}]" % order.pk}


def test_an_instance_that_is_not_saved_has_no_key(sent: list) -> None:
    with pytest.raises(EncodeError, match="save it first"):
        describe.delay(Order(number="B2"))


@pytest.mark.parametrize("task", [describe, adescribe])
def test_the_worker_loads_the_instance(worker, order: Order, task) -> None:
    assert task.delay(order).get(timeout=PATIENCE) == "Order B1 of default"
    assert task.delay(order.pk).get(timeout=PATIENCE) == "Order B1 of default"


def test_instances_in_lists_and_optional_ones_are_loaded(worker, order: Order) -> None:
    other = Order.objects.create(number="B3")
    assert numbers.delay([order, other]).get(timeout=PATIENCE) == ["B1", "B3"]
    assert numbers.delay([order], more=other).get(timeout=PATIENCE) == ["B1", "B3"]
    assert numbers.delay([], None).get(timeout=PATIENCE) == []


def test_an_instance_of_another_database_is_loaded_from_there(worker) -> None:
    archived = Order.objects.using("archive").create(number="B4")
    assert describe.delay(archived).get(timeout=PATIENCE) == "Order B4 of archive"


@pytest.mark.parametrize("task", [describe, adescribe])
def test_a_missing_row_fails_the_task_with_what_may_be_the_reason(worker, order: Order, task) -> None:
    key = order.pk
    order.delete()
    error = task.delay(key).get(timeout=PATIENCE, propagate=False)
    assert f"there is no shop.Order with the key {key} in the database 'default'" in str(error)
    assert "delay_on_commit" in str(error)


def test_a_link_takes_an_instance_too(worker, order: Order) -> None:
    result = (plain.s("first") | describe.si(order)).apply_async()
    assert result.get(timeout=PATIENCE) == "Order B1 of default"


def test_an_eager_task_gets_what_a_worker_would(order: Order) -> None:
    assert describe.apply((order,)).get() == "Order B1 of default"
