"""The form for a list of prices."""

from django import forms


class PricesForm(forms.Form):
    """A file with a list of prices."""

    title = "Import prices"
    prices = forms.FileField(label="Prices", help_text="CSV: a name and a price in each line")

    def clean_prices(self) -> str:
        """Return the text of the file."""
        try:
            return self.cleaned_data["prices"].read().decode("utf-8-sig")
        except UnicodeDecodeError:
            raise forms.ValidationError("The file is not text in UTF-8.") from None
