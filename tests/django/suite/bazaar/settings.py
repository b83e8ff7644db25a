"""Settings that the tests vary by their environment."""

import json
import os

import django

FOLDER = os.environ["BAZAAR_FOLDER"]

SECRET_KEY = "bazaar"
DEBUG = False
USE_TZ = not os.environ.get("BAZAAR_WITHOUT_ZONES")
ALLOWED_HOSTS = ["*"]
ROOT_URLCONF = "bazaar.urls"
STATIC_URL = "static/"
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
INSTALLED_APPS = [
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.admin",
    "celeriac.contrib.django",
    *([] if os.environ.get("BAZAAR_WITHOUT_MODELS") else ["celeriac.contrib.django.db"]),
    *(["django_tasks"] if django.VERSION < (6, 0) else []),
    "shop",
    "mail",
]
MIDDLEWARE = [
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
]
PROCESSORS = ["django.template.context_processors.request", "django.contrib.auth.context_processors.auth",
              "django.contrib.messages.context_processors.messages"]  # fmt: skip
TEMPLATES = [{"BACKEND": "django.template.backends.django.DjangoTemplates", "APP_DIRS": True,
              "OPTIONS": {"context_processors": PROCESSORS}}]  # fmt: skip

if "mysql" in os.environ.get("BAZAAR_DATABASE", ""):
    import pymysql

    pymysql.version_info = (2, 2, 7, "final", 0)  # as mysqlclient, whose place it takes
    pymysql.install_as_MySQLdb()

DATABASES = {
    "default": json.loads(os.environ.get("BAZAAR_DATABASE", "null"))
    or {"ENGINE": "django.db.backends.sqlite3", "NAME": f"{FOLDER}/bazaar.sqlite3",
        "OPTIONS": {"timeout": 60, "transaction_mode": "IMMEDIATE"}},
    "archive": {"ENGINE": "django.db.backends.sqlite3", "NAME": f"{FOLDER}/archive.sqlite3"},
}
DATABASES["default"]["CONN_MAX_AGE"] = json.loads(os.environ.get("BAZAAR_CONN_MAX_AGE", "0"))

CELERIAC_BROKER_URL = os.environ.get("BAZAAR_BROKER_URL", f"sqlite:///{FOLDER}/celeriac.db")
CELERIAC_RESULT_BACKEND = os.environ.get("BAZAAR_RESULT_BACKEND", f"sqlite:///{FOLDER}/celeriac.db")
CELERIAC_WORKER_LEASE_SECONDS = 60
CELERIAC_TASK_QUEUES = ["default", "reports"]

TASKS = {
    "default": {"BACKEND": "celeriac.contrib.django.tasks.CeleriacBackend", "QUEUES": ["default", "urgent"]},
    "committed": {
        "BACKEND": "celeriac.contrib.django.tasks.CeleriacBackend",
        "OPTIONS": {"enqueue_on_commit": True, "app": "bazaar.celeriac.app"},
    },
}
