"""A stand-in for a payment service. Like a real one, it is down now and then, and takes each key once."""

import random
from decimal import Decimal

from django.conf import settings


class GatewayDown(Exception):
    """The payment service does not answer. Whether it has taken the money is not known."""


def charge(key: str, amount: Decimal) -> str:
    """Take money; return the payment. The same key gets the same payment, and the money is taken once."""
    if random.random() < settings.GATEWAY_FAULTS:
        raise GatewayDown("The payment service does not answer.")
    return f"payment-{key}"


def refund(payment: str) -> None:
    """Give the money back."""
