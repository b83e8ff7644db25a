"""Celeriac in a Django project. Django is imported in this package alone.

    framework.py     what an app asks of Django: setup, INSTALLED_APPS, transactions (`ports/framework.py`)
    connections.py   database connections between tasks, and over forks
    shared_file.py   a broker in the SQLite file of Django's database
    instances.py     lazy strings and model instances as arguments
    tasks.py         the backend for `django.tasks`; running.py runs its tasks, task_results.py makes Django's results
    views.py, urls.py  the status of a task, for pages
    asgi.py          the HTTP API, for the users of Django's sessions
    mail.py          mails by Django's settings
    db/              results and schedules in Django's database, with models and an admin: an app of its own
    management/      `manage.py celeriac …`; `manage.py migrate_beat`, by beat_rows.py

An app that reads its settings from `django.conf:settings` needs no more. `INSTALLED_APPS` has this package for the
commands of manage.py.
"""
