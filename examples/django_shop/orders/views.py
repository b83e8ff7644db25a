"""The page of the shop."""

from django.db import transaction
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.shortcuts import render
from stock.models import OutOfStock

from celeriac import AsyncResult
from celeriac.contrib.django.views import status_path
from orders.forms import OrderForm
from orders.models import Order
from orders.tasks import fulfilment


def page(request: HttpRequest) -> HttpResponse:
    """Show the page; save an order, and have it paid and packed once it is saved."""
    if request.method != "POST":
        return render(request, "page.html", {"form": OrderForm()})
    form = OrderForm(request.POST)
    if not form.is_valid():
        return JsonResponse({"detail": form.errors.as_text()}, status=400)
    try:
        with transaction.atomic():
            order = Order.place(form.cleaned_data["customer"], form.cleaned_data["basket"])
            transaction.on_commit(fulfilment(order).delay)
    except OutOfStock as error:
        return JsonResponse({"detail": str(error)}, status=409)
    return JsonResponse({"status": status_path(AsyncResult(str(order.key)))}, status=202)
