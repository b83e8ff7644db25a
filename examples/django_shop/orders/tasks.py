"""The work of the shop. Workers find this module because `orders` is in INSTALLED_APPS."""

import time

from django.db.models import F, Sum
from mail.tasks import send_mail

from celeriac import chord, crontab, shared_task
from orders.models import Order


@shared_task(bind=True)
def pack(self, order: Order) -> str:
    """Pack an order. It is sent by its key, and loaded here, because the parameter is annotated with the model."""
    for piece in range(order.pieces):
        self.update_state(state="PROGRESS", meta={"done": piece, "of": order.pieces})
        time.sleep(0.05)
        Order.objects.filter(pk=order.pk).update(packed=F("packed") + 1)
    send_mail.enqueue(order.customer, f"Your {order.pieces} pieces are on their way.")
    return f"{order} are packed"


@shared_task
def pieces_of(customer: str) -> int:
    """Count what a customer has bought."""
    return Order.objects.filter(customer=customer).aggregate(Sum("pieces"))["pieces__sum"] or 0


@shared_task
def summary(pieces: list[int]) -> str:
    """Put the counts together."""
    return f"{len(pieces)} customers bought {sum(pieces)} pieces"


@shared_task(schedule=crontab(hour=3, minute=0))
def report() -> str:
    """Count each customer's pieces in parallel, every night; return the id of the summary."""
    customers = Order.objects.values_list("customer", flat=True).distinct()
    return chord([pieces_of.s(customer) for customer in customers])(summary.s()).id
