"""`manage.py migrate_beat`: copies the schedules of django-celery-beat to Celeriac's store."""

from __future__ import annotations

from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from celeriac.app.app import Celeriac
from celeriac.contrib.django.beat_rows import COPY_ERRORS, NOT_NEEDED, entry_of, rows_of
from celeriac.errors import ImproperlyConfigured
from celeriac.ports.schedules import Entry
from celeriac.tasks.current_app import current_app

__all__ = ["Command"]


class Command(BaseCommand):
    """Copies each row that has no schedule of its name yet, so that it may be called again."""

    help = "Copy the schedules of django-celery-beat. Stop Celery's beat before."

    def add_arguments(self, parser: CommandParser) -> None:
        """Add the options."""
        parser.add_argument("--database", default="default", help="The database with the tables of django-celery-beat.")
        parser.add_argument("--dry-run", action="store_true", help="Say what would be done, and do nothing.")

    def handle(self, *args: Any, database: str, dry_run: bool, **options: Any) -> None:
        """Copy the rows. Raises `CommandError` at the end if one of them cannot be copied."""
        app: Any = current_app()
        try:
            app.import_tasks()
            rows = rows_of(database)
        except ImproperlyConfigured as error:
            raise CommandError(str(error)) from error
        failed = 0
        for row in sorted(rows["periodictask"].values(), key=lambda row: str(row["name"])):
            name = row["name"]
            if row["task"] in NOT_NEEDED:
                self.stdout.write(f"left out: {name} ({NOT_NEEDED[row['task']]})")
                continue
            try:
                entry = entry_of(app, row, rows)
            except COPY_ERRORS as error:
                failed += 1
                self.stderr.write(f"not copied: {name}: {error}")
                continue
            done = dry_run or _create(app, entry)
            paused = " (paused)" if entry.paused else ""
            told = "to be copied" if dry_run else "copied" if done else "there already"
            self.stdout.write(f"{told}: {name}{paused}")
        if failed:
            raise CommandError(f"{failed} could not be copied. Change them in django-celery-beat and call this again, "
                               "or add them with `celeriac schedules add`.")  # fmt: skip


def _create(app: Celeriac, entry: Entry) -> bool:
    (done,) = app.broker.complete(app.schedules.store.create([entry]))
    return bool(done)
