"""Orders in the admin. Only tasks change them."""

from django.contrib import admin, messages
from django.db.models import QuerySet
from django.http import HttpRequest

from orders.models import Line, Order
from orders.tasks import invoice


class Lines(admin.TabularInline):
    """The lines of an order."""

    model = Line
    fields = readonly_fields = ["product", "pieces", "price", "total"]
    can_delete = False

    def has_add_permission(self, request: HttpRequest, order: Order | None) -> bool:
        """Refuse new lines: nothing would be reserved."""
        return False


@admin.register(Order)
class OrderAdmin(admin.ModelAdmin):
    """What was ordered, and what was done about it."""

    list_display = ["__str__", "customer", "placed_at", "state"]
    list_filter = ["state", "placed_at"]
    search_fields = ["customer", "key"]
    readonly_fields = ["key", "customer", "placed_at", "state", "payment", "total"]
    inlines = [Lines]
    actions = ["resend_invoice"]

    def has_add_permission(self, request: HttpRequest) -> bool:
        """Refuse new orders: customers make them."""
        return False

    @admin.action(description="Send the invoice again", permissions=["change"])
    def resend_invoice(self, request: HttpRequest, orders: QuerySet[Order]) -> None:
        """Send the invoice of packed orders again."""
        packed = orders.filter(state=Order.State.PACKED)
        for order in packed:
            invoice(order).delay()
        self.message_user(request, f"Invoices are on their way: {len(packed)} of {len(orders)}.", messages.SUCCESS)
