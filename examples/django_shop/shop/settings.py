"""The settings. Those of Celeriac begin with CELERIAC_."""

from pathlib import Path

import django

FOLDER = Path(__file__).parent.parent

SECRET_KEY = "an example's secret: make your own"
DEBUG = True
ROOT_URLCONF = "shop.urls"
USE_TZ = True
TIME_ZONE = "Europe/Berlin"
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
DATABASES = {
    "default": {
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": FOLDER / "shop.sqlite3",
        "OPTIONS": {"init_command": "PRAGMA journal_mode=WAL", "transaction_mode": "IMMEDIATE", "timeout": 20},
    }
}
INSTALLED_APPS = [
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.staticfiles",
    "django.contrib.admin",
    "celeriac.contrib.django",
    "celeriac.contrib.django.db",
    "stock",
    "orders",
    "mail",
]
MIDDLEWARE = [
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
]
CONTEXT = [
    "django.template.context_processors.request",
    "django.contrib.auth.context_processors.auth",
    "django.contrib.messages.context_processors.messages",
]
TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "APP_DIRS": True,
        "OPTIONS": {"context_processors": CONTEXT},
    }
]
STATIC_URL = "static/"
DEFAULT_FROM_EMAIL = "shop@example.org"
MAILS = "django.core.mail.backends.console.EmailBackend"
if django.VERSION >= (6, 1):
    MAILERS = {"default": {"BACKEND": MAILS}}
else:
    EMAIL_BACKEND = MAILS
LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "filters": {"task": {"()": "celeriac.logs.TaskFilter"}},
    "formatters": {"line": {"format": "%(asctime)s %(levelname)s %(name)s [%(task_id)s] %(message)s"}},
    "handlers": {"console": {"class": "logging.StreamHandler", "filters": ["task"], "formatter": "line"}},
    "root": {"handlers": ["console"], "level": "INFO"},
}

GATEWAY_FAULTS = 0.3  # the part of the calls that the payment service does not answer

CELERIAC_BROKER_URL = f"sqlite:///{FOLDER / 'celeriac.db'}"
CELERIAC_RESULT_BACKEND = "django-db://"
CELERIAC_RESULT_EXTENDED = True
CELERIAC_TIMEZONE = TIME_ZONE

TASKS = {"default": {"BACKEND": "celeriac.contrib.django.tasks.CeleriacBackend", "QUEUES": ["default", "mail"]}}
