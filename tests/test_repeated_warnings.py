"""A fault that is in many records is told a few times, and then counted."""

from __future__ import annotations

import logging
from types import SimpleNamespace

import pytest

from celeriac import Celeriac
from celeriac.model import repeated_warnings
from celeriac.model.repeated_warnings import MOST, RepeatedWarnings
from celeriac.ports import history as ports_history
from celeriac.ports import schedules as ports_schedules
from celeriac.ports.schedules import Entry, decode_entry, encode_entry, readable


@pytest.fixture
def passed(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Return a list; the monotonic clock is the sum of what is in it."""
    seconds = [0.0]
    monkeypatch.setattr(repeated_warnings, "time", SimpleNamespace(monotonic=lambda: sum(seconds)))
    return seconds


def test_a_few_of_each_kind_are_told_in_a_minute_and_then_how_many_others_there_were(
    passed: list[float], caplog: pytest.LogCaptureFixture
) -> None:
    warnings = RepeatedWarnings(logging.getLogger("shop"))
    for number in range(MOST + 1_501):
        warnings.warn("Row %d is bad", number)
    warnings.warn("The file is 100 %% bad")
    passed.append(61.0)
    warnings.warn("Row %d is bad", 2000)
    warnings.warn("Row %d is bad", 2001)
    assert [record.getMessage() for record in caplog.records] == [
        *(f"Row {number} is bad" for number in range(MOST)),
        "The file is 100 % bad",
        "Row 2000 is bad (1,501 more like this since the last such line)",
        "Row 2001 is bad",
    ]


def test_a_history_of_another_version_does_not_fill_the_log(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(ports_history, "warnings", RepeatedWarnings(logging.getLogger("celeriac.history")))
    app = Celeriac("shop", broker_url="memory://another-version", environ={})
    history = app.history
    assert history is not None
    assert list(history.attempts_of([b"junk"] * 1_000)) == []
    assert len([one for one in caplog.records if "An attempt of the history is unreadable" in one.message]) == MOST
    app.close()


def test_schedules_of_another_version_do_not_fill_the_log(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(ports_schedules, "warnings", RepeatedWarnings(logging.getLogger("celeriac.schedules")))
    good = Entry(name="good", cursor=0)
    rows = [(f"bad {number}", b"junk") for number in range(1_000)]
    assert readable([*rows, ("good", encode_entry(good)), *rows], decode_entry) == [good]
    told = [one.getMessage() for one in caplog.records]
    assert len(told) == MOST
    assert told[0].startswith("The schedule 'bad 0' is unreadable: ")
