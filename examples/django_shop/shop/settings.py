"""The settings. Those of Celeriac begin with CELERIAC_."""

from pathlib import Path

FOLDER = Path(__file__).parent.parent

SECRET_KEY = "an example's secret: make your own"
DEBUG = True
ROOT_URLCONF = "shop.urls"
USE_TZ = True
TIME_ZONE = "Europe/Berlin"
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
DATABASES = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": FOLDER / "shop.sqlite3"}}
INSTALLED_APPS = [
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "celeriac.contrib.django",
    "orders",
    "mail",
]
MIDDLEWARE = [
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
]
TEMPLATES = [{"BACKEND": "django.template.backends.django.DjangoTemplates", "APP_DIRS": True}]

CELERIAC_BROKER_URL = f"sqlite:///{FOLDER / 'celeriac.db'}"
CELERIAC_TIMEZONE = TIME_ZONE

TASKS = {"default": {"BACKEND": "celeriac.contrib.django.tasks.CeleriacBackend", "QUEUES": ["default", "mail"]}}
