"""Results and schedules in Django's own database: `django-db://`, with models and an admin.

    INSTALLED_APPS = [..., "celeriac.contrib.django", "celeriac.contrib.django.db"]
    CELERIAC_RESULT_BACKEND = "django-db://"        # of the database "default"; django-db://reporting of another one

    place.py         an entry of DATABASES as SQLAlchemy reaches it
    columns.py       what the tables show to Django's ORM, besides what Celeriac reads
    backend.py       the result backend: that of SQL databases, at such a place
    operations.py, migrations/   make the tables, by `manage.py migrate`
    models.py, fields.py, kinds.py, periodic.py   TaskResult and PeriodicTask: the rows, as Django's ORM reads them
    admin.py, …      the pages of Django's admin

Django writes no row by itself: a model's `save` and `delete` change the entry that its row is of.
"""
