"""Lists of prices: who may import and cancel them, and what is saved. The browser's test cancels one that runs."""

from __future__ import annotations

from decimal import Decimal
from typing import Any
from uuid import uuid4

import pytest
from django.core.files.uploadedfile import SimpleUploadedFile
from django.test import Client
from stock.models import PriceList, Product
from stock.tasks import import_prices

from celeriac import AsyncResult
from celeriac.errors import TaskRevoked
from celeriac.testing import running_worker
from tests.patience import PATIENCE


def prices() -> dict[str, Decimal]:
    return dict(Product.objects.values_list("name", "price"))


def file(text: str, encoding: str = "utf-8-sig") -> SimpleUploadedFile:
    """Return a file as Excel writes it, with a mark at its begin."""
    return SimpleUploadedFile("prices.csv", text.encode(encoding))


def test_an_import_changes_prices_adds_products_and_keeps_what_is_left(tea: Product) -> None:
    text = "\n".join(["Tea,5.10", *(f"Cake {n},{n}.50" for n in range(1, 25)), "Cake 1,0.99"])
    assert import_prices.apply((PriceList.objects.create(text=text),)).get() == "25 prices were imported"
    assert prices() == {"Tea": Decimal("5.10"), "Cake 1": Decimal("0.99"),
                        **{f"Cake {n}": Decimal(f"{n}.50") for n in range(2, 25)}}  # fmt: skip
    assert Product.objects.get(name="Tea").pieces == 10


@pytest.mark.parametrize("line", ["Cake", "Cake,1,2", "Cake,cheap", "Cake,-1", "Cake,1e99", "Cake,NaN", ",1", ""])
def test_a_mistake_names_its_line_and_changes_nothing(tea: Product, line: str) -> None:
    saved = PriceList.objects.create(text=f"Tea,5.10\n{line}\nMilk,1.00")
    with pytest.raises(ValueError, match="Line 2 is not a name and a price"):
        import_prices.apply((saved,)).get()
    assert prices() == {"Tea": Decimal("4.20")}


def test_the_page_imports_a_list(staff: Client, celeriac_worker: Any, celeriac_clock: Any) -> None:
    answer = staff.post("/prices/", {"prices": file("Tea,4.20")})
    assert answer.status_code == 202
    celeriac_clock.advance(1)
    told = Client().get(answer.json()["status"]).json()
    assert told["value"] == "1 prices were imported"
    assert prices() == {"Tea": Decimal("4.20")}


@pytest.mark.parametrize(("files", "why"), [({}, "required"),
                                             ({"prices": file("Käse,1", "latin-1")}, "not text in UTF-8")])  # fmt: skip
def test_a_file_that_cannot_be_read_is_refused(staff: Client, celeriac_sent: Any, files: dict[str, Any],
                                               why: str) -> None:  # fmt: skip
    assert "errorlist" not in staff.get("/prices/").content.decode()
    answer = staff.post("/prices/", files)
    assert answer.status_code == 400
    assert why in answer.json()["detail"]
    assert (PriceList.objects.count(), len(celeriac_sent)) == (0, 0)


def test_an_import_that_is_cancelled_while_it_waits_changes_nothing(staff: Client, celeriac_app: Any) -> None:
    """The worker starts after that."""
    answer = staff.post("/prices/", {"prices": file("Tea,4.20")}).json()
    assert staff.post(answer["cancel"]).status_code == 202
    with running_worker(celeriac_app), pytest.raises(TaskRevoked):
        AsyncResult(str(PriceList.objects.get().key)).get(timeout=PATIENCE)
    assert prices() == {}


def test_only_lists_are_cancelled(staff: Client, celeriac_app: Any) -> None:
    assert staff.post(f"/prices/{uuid4()}/cancel/").status_code == 404
    assert staff.get(f"/prices/{PriceList.objects.create(text='').key}/cancel/").status_code == 405


def test_lists_are_for_the_staff(celeriac_sent: Any) -> None:
    saved = PriceList.objects.create(text="Tea,4.20")
    for answer in (Client().get("/prices/"), Client().post("/prices/", {"prices": file("Tea,1")}),
                   Client().post(f"/prices/{saved.key}/cancel/")):  # fmt: skip
        assert answer.status_code == 302
        assert answer.url.startswith("/admin/login/")
    assert (PriceList.objects.count(), len(celeriac_sent)) == (1, 0)


def test_products_are_in_the_admin(tea: Product, staff: Client) -> None:
    assert "Tea" in staff.get("/admin/stock/product/").content.decode()
