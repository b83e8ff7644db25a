"""The form for an order."""

from typing import Any

from django import forms
from stock.models import Product


class OrderForm(forms.Form):
    """A customer, and how many pieces of each product."""

    title = "Buy"
    customer = forms.EmailField(initial="ada@example.org")

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.products = {f"product-{product.pk}": product for product in Product.objects.order_by("name")}
        for name, product in self.products.items():
            self.fields[name] = forms.IntegerField(min_value=0, initial=0, label=f"{product} ({product.price})")

    def clean(self) -> dict[str, Any]:
        """Collect the basket. Refuses an empty one."""
        found = {product: self.cleaned_data.get(name) for name, product in self.products.items()}
        basket = {product: pieces for product, pieces in found.items() if pieces}
        if not basket:
            raise forms.ValidationError("The basket is empty.")
        return {**self.cleaned_data, "basket": basket}
