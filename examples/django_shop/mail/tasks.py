"""A task in the words of Django's own framework: `django.tasks` of Django 6, or the package django-tasks before."""

import django

if django.VERSION >= (6, 0):
    from django.tasks import task
else:
    from django_tasks import task


@task(queue_name="mail", priority=20)
def send_mail(to: str, text: str) -> str:
    """Send a letter. (This one writes to the log of the worker.)"""
    print(f"To {to}: {text}", flush=True)
    return to
