"""When periodic tasks are due: a function of the schedule alone, without a clock, a store or a connection."""

from celeriac.schedules.cron import cron
from celeriac.schedules.crontab import crontab
from celeriac.schedules.intervals import every
from celeriac.schedules.once import at
from celeriac.schedules.solar import solar

__all__ = ["at", "cron", "crontab", "every", "solar"]
