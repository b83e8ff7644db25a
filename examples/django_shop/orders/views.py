"""The pages."""

from django.db import transaction
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.shortcuts import render
from django.views.decorators.csrf import ensure_csrf_cookie
from django.views.decorators.http import require_POST

from celeriac.contrib.django.views import status_path
from orders.models import Order
from orders.tasks import pack


@ensure_csrf_cookie
def page(request: HttpRequest) -> HttpResponse:
    """Show the page."""
    return render(request, "page.html")


@require_POST
@transaction.atomic
def create(request: HttpRequest) -> HttpResponse:
    """Save an order, and have it packed once it is saved."""
    order = Order.objects.create(customer=request.POST["customer"], pieces=int(request.POST["pieces"]))
    result = pack.delay_on_commit(order)
    return JsonResponse({"id": result.id, "status": status_path(result)}, status=202)
