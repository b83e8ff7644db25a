"""How values look on the pages of the admin: states, instants in words, JSON, tracebacks. All text is escaped here."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Final

from django.utils import timezone
from django.utils.formats import date_format
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.text import Truncator
from django.utils.translation import ngettext

__all__ = ["EMPTY", "block", "duration", "exact", "in_words", "json_block", "moment", "pill", "precise"]

EMPTY: Final = "–"
LONGEST: Final = 20_000  # characters of a value on a page
UNITS: Final = ((86_400, "day", "days"), (3_600, "hour", "hours"), (60, "minute", "minutes"), (1, "second", "seconds"))
TONES: Final = {
    "SUCCESS": "good", "IGNORED": "good", "active": "good", "FAILURE": "bad", "problem": "bad", "REVOKED": "warn",
    "RETRY": "warn", "paused": "warn",
}  # fmt: skip


def pill(state: str) -> SafeString:
    """Return a state, with a dot of its colour."""
    return format_html('<span class="celeriac-state celeriac-{}">{}</span>', TONES.get(state, "plain"), state)


def moment(value: datetime | None) -> SafeString:
    """Return an instant in words, and the instant itself as a title."""
    if value is None:
        return SafeString(EMPTY)
    return format_html('<time class="celeriac-line" datetime="{}" title="{}">{}</time>', value.isoformat(),
                       exact(value), in_words(value))  # fmt: skip


def exact(value: datetime) -> str:
    """Return an instant in the current zone, in the format of the settings."""
    return str(date_format(timezone.localtime(value) if timezone.is_aware(value) else value, "DATETIME_FORMAT"))


def in_words(value: datetime, now: datetime | None = None) -> str:
    """Return how long ago an instant was, or in how long it will be: in the largest unit of which there is one."""
    if now is None:
        now = datetime.now(UTC) if timezone.is_aware(value) else timezone.make_naive(datetime.now(UTC))
    seconds = (value - now).total_seconds()
    size, one, many = next((unit for unit in UNITS if abs(seconds) >= unit[0]), UNITS[-1])
    count = int(abs(seconds) // size)
    told = f"{count} {ngettext(one, many, count)}"
    return f"in {told}" if seconds >= 0 else f"{told} ago"


def precise(value: datetime | None) -> str:
    """Return an instant to the millisecond, in the current zone."""
    if value is None:
        return EMPTY
    local = timezone.localtime(value) if timezone.is_aware(value) else value
    return f"{local:%Y-%m-%d %H:%M:%S}.{local.microsecond // 1000:03d} {local:%Z}".rstrip()


def duration(seconds: float) -> str:
    """Return a duration.

    >>> duration(0.0004), duration(0.526), duration(75)
    ('< 1 ms', '526 ms', '75.0 s')
    """
    if seconds < 0.001:
        return "< 1 ms"
    return f"{seconds * 1000:.0f} ms" if seconds < 1 else f"{seconds:,.1f} s"


def json_block(text: str | None) -> SafeString:
    """Return JSON on several lines."""
    if text is None:
        return SafeString(EMPTY)
    return block(json.dumps(json.loads(text), ensure_ascii=False, indent=2))


def block(text: str | None) -> SafeString:
    """Return text as it is, with its lines."""
    if not text:
        return SafeString(EMPTY)
    return format_html('<pre class="celeriac-block">{}</pre>', Truncator(text).chars(LONGEST))
