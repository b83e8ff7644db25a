"""`describe()`: schedules in words."""

from __future__ import annotations

import pytest

from celeriac.schedules.cron import cron
from celeriac.schedules.crontab import crontab
from celeriac.schedules.intervals import every
from celeriac.schedules.kinds import AnySchedule
from celeriac.schedules.once import at


@pytest.mark.parametrize(
    ("expression", "text"),
    [
        ("0 9 1 * mon", "at 09:00 on the 1st and every Monday"),
        ("* * * * *", "every minute"),
        ("*/15 * * * *", "every 15 minutes"),
        ("@hourly", "every hour"),
        ("0 */2 * * *", "every 2 hours"),
        ("@daily", "at 00:00 every day"),
        ("@weekly", "at 00:00 every Sunday"),
        ("@monthly", "at 00:00 on the 1st"),
        ("@yearly", "at 00:00 on the 1st of January"),
        ("30 9,17 * * 1-5", "at 09:30 and 17:30, Monday to Friday"),
        ("5 * * * *", "at minute 5 of every hour"),
        ("5,35 */2 * * *", "at minutes 5 and 35 of every 2 hours"),
        ("*/10 9-17 * * *", "every 10 minutes of hours 9 to 17"),
        ("* 9 * * *", "every minute of hour 9"),
        ("0 0 L * *", "at 00:00 on the last day of the month"),
        ("0 0 L-3 * *", "at 00:00 on the 3rd day before the last"),
        ("0 0 15,L * *", "at 00:00 on the 15th and the last day of the month"),
        ("0 0 1-7,21,22 * *", "at 00:00 on the 1st to 7th, 21st and 22nd"),
        ("0 0 1-31/2 * *", "at 00:00 on every 2nd day from the 1st"),
        ("0 0 * * mon#2", "at 00:00 on the second Monday of the month"),
        ("0 18 * * 5L", "at 18:00 on the last Friday of the month"),
        ("0 18 * jan-mar,jul *", "at 18:00 every day in January to March and July"),
        ("0 9 1 6 mon", "at 09:00 on the 1st and every Monday in June"),
        ("30 0 9 * * *", "at 09:00:30 every day"),
        ("* * * * * *", "every second"),
        ("*/10 * * * * *", "every 10 seconds"),
        ("30 * * * * *", "at second 30 of every minute"),
        ("*/10 0-4 9 * * *", "every 10 seconds of minutes 0 to 4 of hour 9"),
    ],
)
def test_an_expression_in_words(expression: str, text: str) -> None:
    assert cron(expression).describe() == f"{text}, UTC"


@pytest.mark.parametrize(
    ("schedule", "text"),
    [
        (crontab(minute=0, hour=0, day_of_month=13, day_of_week="fri"), "at 00:00 on the 13th if it is a Friday, UTC"),
        (
            cron("0 9 * * *", tz="Europe/Berlin", starts="2026-07-01T00:00+02:00", ends="2026-12-31T00:00+01:00"),
            "at 09:00 every day, Europe/Berlin, from 2026-07-01T00:00:00+02:00, until 2026-12-31T00:00:00+01:00",
        ),
        (every(30), "every 30 seconds"),
        (every(1), "every second"),
        (every(days=1, phase=3600), "every day, 3600 seconds after"),
        (at("2026-01-01T00:00Z"), "once, at 2026-01-01T00:00:00+00:00"),
    ],
)
def test_a_schedule_in_words(schedule: AnySchedule, text: str) -> None:
    assert schedule.describe() == text
