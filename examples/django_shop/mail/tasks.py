"""A task in the words of Django's own framework: `django.tasks` of Django 6, or the package django-tasks before."""

import django
from django.core import mail

if django.VERSION >= (6, 0):
    from django.tasks import task
else:
    from django_tasks import task


@task(queue_name="mail", priority=20)
def send_mail(to: str, subject: str, text: str) -> str:
    """Send a mail. (With the settings of this example, it goes to the log of the worker.)"""
    mail.send_mail(subject, text, None, [to])
    return to
