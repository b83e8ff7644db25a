"""The form for a list of prices."""

from django import forms


class PricesForm(forms.Form):
    """A list of prices."""

    title = "Import prices"
    prices = forms.CharField(widget=forms.Textarea, initial="Tea,4.20\nCake,3.50")
