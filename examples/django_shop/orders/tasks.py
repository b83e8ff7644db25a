"""The work on orders. Workers find this module because `orders` is in INSTALLED_APPS.

    pay ──► pack ──► position of each line ──► bill ──► send_mail

A task may run twice: its process may die after the work and before the worker knows. So each asks the order's state.
"""

import logging
import time
from datetime import timedelta
from typing import Any

from django.conf import settings
from django.db.models import F, Sum
from django.utils import timezone
from mail.tasks import send_mail

from celeriac import chord, crontab, shared_task
from orders import gateway
from orders.models import Line, Order

State = Order.State
logger = logging.getLogger(__name__)


class OrderExpired(Exception):
    """The payment came too late, and was given back."""


def fulfilment(order: Order) -> Any:
    """Return the workflow of an order. If a task of it fails for good, those after it are not run."""
    return pay.si(order) | pack.si(order).set(task_id=str(order.key)) | invoice(order)


def invoice(order: Order) -> Any:
    """Return the workflow that makes an invoice: the positions in parallel, then the mail."""
    return chord([position.si(line) for line in order.lines.all()], bill.s(order=order))


@shared_task(autoretry_for=(gateway.GatewayDown,), retry_backoff=1, max_retries=10)
def pay(order: Order) -> str:
    """Have an order paid. It is sent by its key, and loaded here, because the parameter is annotated with the model."""
    if order.state == State.PLACED:
        payment = gateway.charge(str(order.key), order.total)  # outside of any transaction: it may take long
        order.move(State.PLACED, State.PAID, payment=payment)
        if order.state == State.EXPIRED:
            gateway.refund(payment)
    if order.state == State.EXPIRED:
        raise OrderExpired(f"{order} has expired. Please order again.")
    logger.info("%s is paid by %s", order, order.payment)
    return order.payment


@shared_task(bind=True)
def pack(self, order: Order) -> str:
    """Pack an order piece by piece, and tell the page."""
    pieces = order.lines.aggregate(Sum("pieces"))["pieces__sum"]
    if order.state == State.PAID:
        for piece in range(pieces):
            self.progress(piece, pieces)
            time.sleep(0.05)  # so that there is something to see
        order.move(State.PAID, State.PACKED)
    return f"{order}: {pieces} pieces are packed"


@shared_task
def position(line: Line) -> str:
    """Write one position of an invoice."""
    return str(line)


@shared_task
def bill(positions: list[str], order: Order) -> str:
    """Mail the invoice."""
    text = "\n".join([*positions, f"Total: {order.total}"])
    send_mail.enqueue(order.customer, f"{order} is on its way", text)
    return text


@shared_task(schedule=crontab(hour=3, minute=0))
def expire_unpaid(hours: int = 24) -> int:
    """Give back what unpaid orders have reserved; return how many.

    Among them are those whose tasks were not sent, as the process was killed between the commit and the sending.
    """
    before = timezone.now() - timedelta(hours=hours)
    return sum(order.expire() for order in Order.objects.filter(state=State.PLACED, placed_at__lt=before))


@shared_task(schedule=crontab(hour=6, minute=0))
def report_sales() -> str:
    """Mail what was sold yesterday, by product."""
    yesterday = timezone.localdate() - timedelta(days=1)
    sold = Line.objects.filter(order__placed_at__date=yesterday, order__state__in=[State.PAID, State.PACKED])
    sums = sold.values_list("product__name").annotate(sold=Sum("pieces"), total=Sum(F("pieces") * F("price")))
    text = "\n".join(f"{pieces} × {name}: {total:.2f}" for name, pieces, total in sums.order_by("product__name"))
    send_mail.enqueue(settings.DEFAULT_FROM_EMAIL, f"Sales of {yesterday}", text)
    return text
