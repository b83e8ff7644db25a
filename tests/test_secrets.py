"""Passwords and arguments stay out of representations, errors and logs."""

from __future__ import annotations

import pydantic
import pytest

from celeriac import Celeriac
from celeriac.drivers.amqp.address import Address as AmqpAddress
from celeriac.drivers.redis.address import Address as RedisAddress
from celeriac.errors import DecodeError, ImproperlyConfigured
from celeriac.model.arguments import Arguments
from celeriac.model.masks import masked

SECRET = "s3cr3t"


@pytest.mark.parametrize(
    "url",
    [
        "redis://user:s3cr3t@host/0",
        "redis://:s3cr3t@host/0",
        "amqp://user:s3cr3t@a,b/vhost",
        "reds://user:s3cr3t@host",
        "redis:/user:s3cr3t@host",
        "redis:user:s3cr3t@host",
        "redis://user:s3/cr3t@host/0",
        "redis://user:x@s3cr3t@host/0",
        "redis://host/0?password=s3cr3t",
        "amqps://host?token=s3cr3t&x=1",
    ],
)
def test_a_password_in_a_url_is_masked(url: str) -> None:
    text = masked(f"Cannot use {url}.")
    assert SECRET not in text
    assert "cr3t" not in text
    assert "***" in text


def test_the_app_and_its_settings_show_no_password() -> None:
    app = Celeriac("x", broker_url=f"redis://user:{SECRET}@host/0", result_backend=f"redis://:{SECRET}@other")
    assert SECRET not in repr(app)
    assert SECRET not in repr(app.conf)
    assert "redis://user:***@host/0" in repr(app.conf)


@pytest.mark.parametrize("of", [RedisAddress.of, AmqpAddress.of])
def test_an_address_shows_no_password(of: object) -> None:
    scheme = "redis" if of == RedisAddress.of else "amqp"
    address = of(f"{scheme}://user:{SECRET}@host:1234/0")  # type: ignore[operator]
    assert address.password == SECRET
    assert SECRET not in repr(address) + str(address) + f"{[address]}"


@pytest.mark.parametrize("scheme", ["redis", "rediss", "amqp", "amqps"])
@pytest.mark.parametrize("password", ["s3/cr3t", "s3?cr3t", "s3#cr3t", "/s3cr3t"])
def test_an_unescaped_password_is_an_error_that_does_not_show_it(scheme: str, password: str) -> None:
    of = RedisAddress.of if scheme.startswith("redis") else AmqpAddress.of
    with pytest.raises(ImproperlyConfigured, match="must be written as %2F %3F %23") as caught:
        of(f"{scheme}://user:{password}@host/0")
    assert "cr3t" not in str(caught.value)
    assert "s3" not in str(caught.value)


@pytest.mark.parametrize("setting", ["broker_url", "result_backend"])
def test_an_unknown_scheme_is_an_error_without_the_password(setting: str) -> None:
    app = Celeriac("x", **{"broker_url": "memory://x", setting: f"reds://user:{SECRET}@host/0"})
    with pytest.raises(ImproperlyConfigured, match="Did you mean 'redis://'") as caught:
        _ = app.broker if setting == "broker_url" else app.backend
    assert SECRET not in str(caught.value)


def test_an_argument_that_does_not_fit_is_not_shown() -> None:
    class Card(pydantic.BaseModel):
        number: int

    def pay(card: Card) -> None:
        """Take a card."""

    pay.__annotations__ = {"card": Card}
    reason = "'card' of pay cannot be rebuilt: number: Input should be a valid integer"
    with pytest.raises(DecodeError, match=reason) as caught:
        Arguments(pay, "pay", bound=False).rebuild([{"number": SECRET}], {})
    assert SECRET not in str(caught.value)
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__
