"""What the shop remembers."""

from django.db import models


class Order(models.Model):
    """What somebody has bought."""

    customer = models.CharField(max_length=100)
    pieces = models.PositiveIntegerField()
    packed = models.PositiveIntegerField(default=0)

    def __str__(self) -> str:
        return f"{self.pieces} pieces for {self.customer}"
