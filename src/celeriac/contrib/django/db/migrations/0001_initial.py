"""Makes the tables. The models are views of two of them."""

from __future__ import annotations

from django.db import migrations, models

from celeriac.contrib.django.db import fields
from celeriac.contrib.django.db.operations import MakeTables

__all__ = ["Migration"]


class Migration(migrations.Migration):
    """The tables in version 3."""

    initial = True

    dependencies: list[tuple[str, str]] = []

    operations = [
        MakeTables(3),
        migrations.CreateModel(
            name="PeriodicTask",
            fields=[
                ("id", fields.KeyField(editable=False, max_length=69, primary_key=True, serialize=False)),
                ("name", models.CharField(db_column="title", max_length=255)),
                ("task", models.CharField(max_length=255)),
                ("kind", models.CharField(editable=False, max_length=16)),
                ("state", models.CharField(editable=False, max_length=16)),
                (
                    "words",
                    models.CharField(db_column="schedule", editable=False, max_length=500, verbose_name="schedule"),
                ),
                ("args", models.TextField(blank=True, default="[]", verbose_name="arguments")),
                ("kwargs", models.TextField(blank=True, default="{}", verbose_name="named arguments")),
                ("queue", models.CharField(blank=True, default="", max_length=255)),
                ("description", models.CharField(blank=True, default="", max_length=500)),
                ("enabled", models.BooleanField(default=True)),
                ("one_off", models.BooleanField(default=False, verbose_name="one-off")),
                ("start_time", models.DateTimeField(blank=True, null=True, verbose_name="starts")),
                ("expires", models.DateTimeField(blank=True, null=True, verbose_name="ends")),
                ("last_run_at", models.DateTimeField(editable=False, null=True, verbose_name="last run")),
                ("total_run_count", models.IntegerField(default=0, editable=False, verbose_name="runs")),
                ("next_at", models.BigIntegerField(editable=False, null=True)),
                ("revision", models.BigIntegerField(editable=False)),
                ("raw_name", models.BinaryField(db_column="name")),
                ("data", models.BinaryField(db_column="entry")),
            ],
            options={
                "verbose_name": "periodic task",
                "db_table": "celeriac_django_schedules",
                "ordering": ["name"],
                "permissions": [("run_periodictask", "Can run periodic tasks now")],
                "managed": False,
            },
        ),
        migrations.CreateModel(
            name="TaskResult",
            fields=[
                (
                    "task_id",
                    fields.KeyField(
                        db_column="id", max_length=69, primary_key=True, serialize=False, verbose_name="task ID"
                    ),
                ),
                ("task_name", models.CharField(max_length=255, verbose_name="task")),
                ("status", fields.StateField(db_column="state", max_length=69, verbose_name="state")),
                ("worker", models.CharField(max_length=255)),
                ("date_created", models.DateTimeField(null=True, verbose_name="created")),
                ("date_started", models.DateTimeField(null=True, verbose_name="started")),
                ("date_done", models.DateTimeField(null=True, verbose_name="done")),
                ("stored_at", models.BigIntegerField(editable=False)),
                ("is_final", models.SmallIntegerField(editable=False)),
                ("data", models.BinaryField(db_column="outcome")),
            ],
            options={
                "verbose_name": "task result",
                "db_table": "celeriac_django_outcomes",
                "ordering": ["-stored_at"],
                "permissions": [
                    ("retry_taskresult", "Can retry failed tasks"),
                    ("revoke_taskresult", "Can revoke tasks"),
                ],
                "get_latest_by": "stored_at",
                "managed": False,
                "default_permissions": ("view", "delete"),
            },
        ),
    ]
