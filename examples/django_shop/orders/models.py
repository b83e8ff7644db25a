"""Orders. Each change of their state is made once, whoever tries, and however often."""

from collections.abc import Mapping
from decimal import Decimal
from typing import Any, Self
from uuid import uuid4

from django.db import models, transaction
from stock.models import Product


class Order(models.Model):
    """What somebody has bought. The task that packs it has the key as its id."""

    class State(models.TextChoices):
        """What was done about an order."""

        PLACED = "placed"
        PAID = "paid"
        PACKED = "packed"
        EXPIRED = "expired"

    key = models.UUIDField(default=uuid4, unique=True, editable=False)
    customer = models.EmailField()
    placed_at = models.DateTimeField(auto_now_add=True)
    state = models.CharField(max_length=10, choices=State, default=State.PLACED)
    payment = models.CharField(max_length=100, blank=True)

    def __str__(self) -> str:
        return f"Order {self.pk}"

    @classmethod
    @transaction.atomic
    def place(cls, customer: str, basket: Mapping[Product, int]) -> Self:
        """Save an order and reserve its pieces. Raises `OutOfStock`, and then nothing is saved."""
        order = cls.objects.create(customer=customer)
        for product in sorted(basket, key=lambda product: product.pk):  # as everywhere: two that lock never deadlock
            product.take(basket[product])
            order.lines.create(product=product, pieces=basket[product], price=product.price)
        return order

    def move(self, before: State, after: State, **more: Any) -> bool:
        """Change the state, unless another process was faster; then read what there is now."""
        moved = Order.objects.filter(pk=self.pk, state=before).update(state=after, **more)
        self.refresh_from_db()
        return moved == 1

    @transaction.atomic
    def expire(self) -> bool:
        """Give the pieces back, unless the order was paid meanwhile."""
        expired = self.move(self.State.PLACED, self.State.EXPIRED)
        if expired:
            for line in self.lines.select_related("product").order_by("product"):
                line.product.put_back(line.pieces)
        return expired

    @property
    def total(self) -> Decimal:
        """What it costs."""
        return sum((line.total for line in self.lines.all()), Decimal(0))


class Line(models.Model):
    """One product of an order, at the price of that day."""

    class Meta:
        """Lines stand in the order in which they were made."""

        ordering = ["pk"]

    order = models.ForeignKey(Order, models.CASCADE, related_name="lines")
    product = models.ForeignKey(Product, models.PROTECT)
    pieces = models.PositiveIntegerField()
    price = models.DecimalField(max_digits=8, decimal_places=2)

    def __str__(self) -> str:
        return f"{self.pieces} × {self.product}: {self.total}"

    @property
    def total(self) -> Decimal:
        """What the line costs."""
        return self.pieces * self.price
