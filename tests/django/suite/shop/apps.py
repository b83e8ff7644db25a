import os

from django.apps import AppConfig
from django.core import checks


class ShopConfig(AppConfig):
    name = "shop"

    def ready(self):
        if os.environ.get("BAZAAR_BROKEN"):
            checks.register(lambda **more: [checks.Error("The bazaar is broken.", id="bazaar.E001")])
        if os.environ.get("BAZAAR_WARNS"):
            checks.register(lambda **more: [checks.Warning("The bazaar is dusty.", id="bazaar.W001")])
        if os.environ.get("BAZAAR_IN_TRANSACTION"):
            from django.db import transaction

            transaction.atomic().__enter__()
        if os.environ.get("BAZAAR_OPENS"):
            from pathlib import Path

            from django.conf import settings

            from shop.tasks import session

            Path(settings.FOLDER, "opened").write_text(str(session()))
