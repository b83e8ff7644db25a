import os

from celeriac import Celeriac

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "bazaar.settings")

app = Celeriac("bazaar")
app.config_from_object("django.conf:settings", namespace="CELERIAC")
app.autodiscover_tasks()
