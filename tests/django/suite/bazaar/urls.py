from django.contrib import admin
from django.contrib.auth.decorators import login_required
from django.urls import include, path

from celeriac.contrib.django import views

urlpatterns = [
    path("admin/", admin.site.urls),
    path("tasks/", include("celeriac.contrib.django.urls")),
    path("mine/<str:task_id>/", login_required(views.task_status)),
]
