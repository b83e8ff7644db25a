"""The page for lists of prices, for the staff."""

from uuid import UUID

from django.contrib.admin.views.decorators import staff_member_required
from django.db import transaction
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.shortcuts import get_object_or_404, render
from django.urls import reverse
from django.views.decorators.http import require_POST

from celeriac import AsyncResult
from celeriac.contrib.django.views import status_path
from stock.forms import PricesForm
from stock.models import PriceList
from stock.tasks import import_prices


@staff_member_required
@transaction.atomic
def prices(request: HttpRequest) -> HttpResponse:
    """Show the page; save a list, and have it imported once it is saved."""
    if request.method != "POST":
        return render(request, "page.html", {"form": PricesForm()})
    form = PricesForm(request.POST, request.FILES)
    if not form.is_valid():
        return JsonResponse({"detail": form.errors.as_text()}, status=400)
    saved = PriceList.objects.create(text=form.cleaned_data["prices"])
    result = import_prices.apply_async_on_commit((saved,), task_id=str(saved.key))
    return JsonResponse({"status": status_path(result), "cancel": reverse(cancel, args=[saved.key])}, status=202)


@require_POST
@staff_member_required
def cancel(request: HttpRequest, key: UUID) -> HttpResponse:
    """Cancel an import, whether it waits or runs."""
    get_object_or_404(PriceList, key=key)
    AsyncResult(str(key)).revoke(terminate=True)
    return JsonResponse({}, status=202)
