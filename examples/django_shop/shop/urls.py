"""The pages of the shop, and the status of its tasks."""

from django.contrib import admin
from django.urls import include, path
from orders.views import page
from stock.views import cancel, prices

urlpatterns = [
    path("", page),
    path("prices/", prices),
    path("prices/<uuid:key>/cancel/", cancel),
    path("admin/", admin.site.urls),
    path("tasks/", include("celeriac.contrib.django.urls")),
]
