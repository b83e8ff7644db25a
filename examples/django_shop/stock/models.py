"""Products, and the lists of prices that are imported."""

import csv
from uuid import uuid4

from django.core.exceptions import ValidationError
from django.core.validators import MinValueValidator
from django.db import models
from django.db.models import F


class OutOfStock(Exception):
    """Nothing was reserved: there are not as many pieces."""


class Product(models.Model):
    """Something to be sold."""

    name = models.CharField(max_length=100, unique=True)
    price = models.DecimalField(max_digits=8, decimal_places=2, validators=[MinValueValidator(0)])
    pieces = models.PositiveIntegerField(default=0)

    def __str__(self) -> str:
        return self.name

    def take(self, pieces: int) -> None:
        """Reserve pieces for the transaction that is open. The database counts: of two buyers, one gets the last."""
        if not Product.objects.filter(pk=self.pk, pieces__gte=pieces).update(pieces=F("pieces") - pieces):
            raise OutOfStock(f"There are not {pieces} pieces of {self} left.")

    def put_back(self, pieces: int) -> None:
        """Give back what was reserved."""
        Product.objects.filter(pk=self.pk).update(pieces=F("pieces") + pieces)


class PriceList(models.Model):
    """A list of prices as it was uploaded. The task that imports it has the key as its id."""

    key = models.UUIDField(default=uuid4, unique=True)
    text = models.TextField()

    def products(self) -> list[Product]:
        """Read the products, `name,price` in each line. Raises `ValueError`, which names the line."""
        found = {}
        for number, row in enumerate(csv.reader(self.text.splitlines()), 1):
            try:
                name, price = row
                found[name] = Product(name=name, price=price)
                found[name].clean_fields()
            except (ValueError, ValidationError):
                raise ValueError(f"Line {number} is not a name and a price: {','.join(row)}") from None
        return list(found.values())
