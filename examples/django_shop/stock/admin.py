"""Products in the admin."""

from django.contrib import admin

from stock.models import Product

admin.site.register(Product, list_display=["name", "price", "pieces"], search_fields=["name"])
