"""The pages of Django's admin: `django.contrib.admin` imports this module, if it is installed."""

from __future__ import annotations

from django.contrib import admin

from celeriac.contrib.django.db.models import PeriodicTask, TaskResult
from celeriac.contrib.django.db.periodic_admin import PeriodicTaskAdmin
from celeriac.contrib.django.db.result_admin import TaskResultAdmin

__all__: list[str] = []

admin.site.register(TaskResult, TaskResultAdmin)
admin.site.register(PeriodicTask, PeriodicTaskAdmin)
