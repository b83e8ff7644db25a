"""The settings of the example, with the database of the tests."""

import json
import os

from shop.settings import *  # noqa: F403

DATABASES = {"default": json.loads(os.environ["SHOP_DATABASE"])}
GATEWAY_FAULTS = 0
PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
