"""An order from the page to the invoice, and what may come between."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest
from django.core import mail
from django.db import connection
from django.test import Client
from django.utils import timezone
from orders import gateway
from orders.models import Order
from orders.tasks import OrderExpired, expire_unpaid, fulfilment, pay, report_sales
from stock.models import OutOfStock, Product

from celeriac import AsyncResult
from tests.patience import PATIENCE

State = Order.State
ADA = "ada@example.org"


def letters() -> list[Any]:
    """Return what was mailed to the customer. A clock that passes 6:00 UTC has the report of sales sent too."""
    return [letter for letter in mail.outbox if letter.to == [ADA]]


class Gateway:
    """The payment service: what it was asked, and how often it does not answer first."""

    def __init__(self) -> None:
        self.down = 0
        self.charged: list[tuple[str, Decimal]] = []
        self.refunded: list[str] = []
        self.meanwhile: Callable[[], Any] = lambda: None

    def charge(self, key: str, amount: Decimal) -> str:
        self.charged.append((key, amount))
        self.meanwhile()
        if self.down:
            self.down -= 1
            raise gateway.GatewayDown("The payment service does not answer.")
        return f"payment-{key}"


@pytest.fixture
def bank(monkeypatch: pytest.MonkeyPatch) -> Gateway:
    made = Gateway()
    monkeypatch.setattr(gateway, "charge", made.charge)
    monkeypatch.setattr(gateway, "refund", made.refunded.append)
    return made


def left(product: Product) -> int:
    product.refresh_from_db()
    return product.pieces


def state(order: Order) -> State:
    order.refresh_from_db()
    return State(order.state)


def both(call: Callable[[], Any]) -> list[Any]:
    """Call a function in two threads at once; return what it gives, errors too."""
    gate, found = threading.Barrier(2), []

    def run() -> None:
        gate.wait(PATIENCE)
        try:
            found.append(call())
        except Exception as error:
            found.append(error)
        finally:
            connection.close()

    threads = [threading.Thread(target=run) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    return found


# --- Placing ------------------------------------------------------------------------------------------


def test_an_order_is_paid_in_spite_of_a_faulty_gateway_then_packed_and_invoiced(
    tea: Product, cake: Product, bank: Gateway, celeriac_worker: Any, celeriac_clock: Any
) -> None:
    bank.down = 2
    answer = Client().post("/", {"customer": ADA, f"product-{tea.pk}": 2, f"product-{cake.pk}": 1})
    assert answer.status_code == 202
    order = Order.objects.get()
    celeriac_clock.advance(timedelta(minutes=1))
    assert bank.charged == [(str(order.key), Decimal("11.90"))] * 3
    assert (state(order), order.payment) == (State.PACKED, f"payment-{order.key}")
    (letter,) = letters()
    assert (letter.to, letter.subject) == ([ADA], f"Order {order.pk} is on its way")
    assert letter.body == "2 × Tea: 8.40\n1 × Cake: 3.50\nTotal: 11.90"
    told = Client().get(answer.json()["status"]).json()
    assert (told["id"], told["value"]) == (str(order.key), f"Order {order.pk}: 3 pieces are packed")


def test_an_order_that_cannot_be_served_leaves_nothing(tea: Product, cake: Product, celeriac_sent: Any) -> None:
    answer = Client().post("/", {"customer": ADA, f"product-{tea.pk}": 10, f"product-{cake.pk}": 11})
    assert (answer.status_code, answer.json()) == (409, {"detail": "There are not 11 pieces of Cake left."})
    assert (left(tea), left(cake), Order.objects.count(), len(celeriac_sent)) == (10, 10, 0, 0)


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({}, "This field is required."),
        ({"customer": ADA}, "The basket is empty."),
        ({"customer": ADA, "product": -1}, "greater than or equal to 0"),
        ({"customer": "Ada", "product": 1}, "valid email address"),
    ],
)
def test_a_form_with_a_mistake_is_refused(tea: Product, fields: dict[str, Any], why: str) -> None:
    named = {f"product-{tea.pk}" if name == "product" else name: value for name, value in fields.items()}
    assert "errorlist" not in Client().get("/").content.decode()
    answer = Client().post("/", named)
    assert answer.status_code == 400
    assert why in answer.json()["detail"]
    assert not Order.objects.exists()


def test_of_two_buyers_one_gets_the_last_piece(tea: Product) -> None:
    found = both(lambda: Order.place(ADA, {tea: 10}))
    assert {type(one) for one in found} == {Order, OutOfStock}
    assert (left(tea), Order.objects.count()) == (0, 1)


def test_a_price_that_changes_later_is_not_that_of_the_order(tea: Product) -> None:
    order = Order.place(ADA, {tea: 2})
    Product.objects.update(price=Decimal("9.99"))
    assert Order.objects.get(pk=order.pk).total == Decimal("8.40")


# --- Paying -------------------------------------------------------------------------------------------


def test_a_payment_that_is_delivered_twice_is_made_once(tea: Product, bank: Gateway) -> None:
    order = Order.place(ADA, {tea: 1})
    assert pay(order) == pay(Order.objects.get()) == f"payment-{order.key}"
    assert len(bank.charged) == 1


def test_a_second_delivery_during_the_first_has_the_same_key_and_changes_nothing(tea: Product, bank: Gateway) -> None:
    order = Order.place(ADA, {tea: 1})
    copies = iter([Order.objects.get()])
    bank.meanwhile = lambda: [pay(copy) for copy in copies]
    assert pay(order) == f"payment-{order.key}"
    assert {key for key, _ in bank.charged} == {str(order.key)}
    assert (state(order), bank.refunded) == (State.PAID, [])


def test_an_order_that_expires_during_the_payment_gets_its_money_back(tea: Product, bank: Gateway) -> None:
    order = Order.place(ADA, {tea: 1})
    bank.meanwhile = lambda: Order.objects.get().expire()
    with pytest.raises(OrderExpired, match="Please order again"):
        pay(order)
    assert bank.refunded == [f"payment-{order.key}"]
    assert (state(order), left(tea)) == (State.EXPIRED, 10)


def test_an_expired_order_is_not_charged(tea: Product, bank: Gateway) -> None:
    order = Order.place(ADA, {tea: 1})
    assert order.expire()
    with pytest.raises(OrderExpired):
        pay(order)
    assert bank.charged == []


def test_an_order_that_cannot_be_paid_is_neither_packed_nor_invoiced(
    tea: Product, bank: Gateway, celeriac_worker: Any, celeriac_clock: Any
) -> None:
    bank.down = 100
    order = Order.place(ADA, {tea: 1})
    last = fulfilment(order).delay()
    celeriac_clock.advance(timedelta(hours=1))
    assert (len(bank.charged), state(order), letters()) == (11, State.PLACED, [])
    packing = AsyncResult(str(order.key))
    assert packing.state == last.state == "FAILURE"
    assert "does not answer" in packing.to_dict()["error"]["message"]


# --- By night -----------------------------------------------------------------------------------------


def test_unpaid_orders_expire_and_give_their_pieces_back_once(tea: Product) -> None:
    old, paid, new = (Order.place(ADA, {tea: 1}) for _ in range(3))
    Order.objects.exclude(pk=new.pk).update(placed_at=timezone.now() - timedelta(hours=25))
    paid.move(State.PLACED, State.PAID)
    assert left(tea) == 7
    assert (expire_unpaid(), expire_unpaid()) == (1, 0)
    assert (state(old), state(paid), state(new)) == (State.EXPIRED, State.PAID, State.PLACED)
    assert left(tea) == 8


def test_of_two_that_expire_an_order_one_gives_its_pieces_back(tea: Product) -> None:
    order = Order.place(ADA, {tea: 4})
    assert sorted(both(lambda: Order.objects.get(pk=order.pk).expire())) == [False, True]
    assert left(tea) == 10


def test_sales_are_those_of_yesterday_that_were_paid(tea: Product, cake: Product) -> None:
    orders = [Order.place(ADA, basket) for basket in ({tea: 1}, {tea: 2, cake: 1}, {cake: 5}, {cake: 3})]
    for order in orders[:3]:
        order.move(State.PLACED, State.PAID)
    Order.objects.exclude(pk=orders[2].pk).update(placed_at=timezone.now() - timedelta(days=1))
    assert report_sales.apply().get() == "1 × Cake: 3.50\n3 × Tea: 12.60"


def test_the_schedules_are_kept_every_night(tea: Product, celeriac_worker: Any, celeriac_clock: Any) -> None:
    order = Order.place(ADA, {tea: 1})
    Order.objects.update(placed_at=timezone.now() - timedelta(days=2))
    celeriac_clock.advance(timedelta(days=1))
    assert (state(order), left(tea)) == (State.EXPIRED, 10)
    assert [letter.subject.partition(" of ")[0] for letter in mail.outbox] == ["Sales"]


# --- The admin ----------------------------------------------------------------------------------------


def test_the_admin_shows_orders_and_lets_nobody_change_them(tea: Product, staff: Client) -> None:
    order = Order.place(ADA, {tea: 2})
    assert ADA in staff.get("/admin/orders/order/").content.decode()
    page = staff.get(f"/admin/orders/order/{order.pk}/change/").content.decode()
    assert "8.40" in page
    assert 'name="customer"' not in page
    assert staff.get("/admin/orders/order/add/").status_code == 403


def test_the_admin_sends_invoices_of_packed_orders_again(
    tea: Product, staff: Client, celeriac_worker: Any, celeriac_clock: Any
) -> None:
    packed, unpaid = Order.place(ADA, {tea: 2}), Order.place("bob@example.org", {tea: 1})
    Order.objects.filter(pk=packed.pk).update(state=State.PACKED)
    form = {"action": "resend_invoice", "_selected_action": [packed.pk, unpaid.pk]}
    answer = staff.post("/admin/orders/order/", form, follow=True)
    assert "Invoices are on their way: 1 of 2." in answer.content.decode()
    celeriac_clock.advance(1)
    assert [(letter.to, letter.body) for letter in letters()] == [([ADA], "2 × Tea: 8.40\nTotal: 8.40")]
