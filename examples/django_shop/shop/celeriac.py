"""The app of the project's tasks."""

import os

from celeriac import Celeriac

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "shop.settings")

app = Celeriac("shop")
app.config_from_object("django.conf:settings", namespace="CELERIAC")
app.autodiscover_tasks()
