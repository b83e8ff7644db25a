"""The pages of the shop, and the status of its tasks."""

from django.contrib import admin
from django.urls import include, path
from orders import views

urlpatterns = [
    path("", views.page),
    path("admin/", admin.site.urls),
    path("orders/", views.create),
    path("tasks/", include("celeriac.contrib.django.urls")),
]
