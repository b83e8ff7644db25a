"""Schedules against other implementations: minute by minute, cronsim, Celery, ephem."""
