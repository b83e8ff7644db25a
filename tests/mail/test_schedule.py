"""When mails about failures are due: a function of the failures, of what was mailed, and of the time."""

from __future__ import annotations

import random
from typing import Any

import msgspec
import pytest

from celeriac.mail import schedule
from celeriac.mail.schedule import Mailed, Plan, decide, event_of, failure_call, mailed_of
from celeriac.mail.tasks import MAIL
from celeriac.model.history import Event, FailureSignature

START = 1_800_000_000.0
DAY = 86_400.0


def failing(signature: str = "62f0", count: int = 1, first: float = START, last: float | None = None,
            **fields: Any) -> FailureSignature:  # fmt: skip
    return FailureSignature(signature=signature, task="shop.charge", error="builtins.ValueError", title="", first=first,
                            last=first if last is None else last, count=count, **fields)  # fmt: skip


class Desk:
    """Decides again and again, on a clock of its own, and keeps what was mailed."""

    def __init__(self, most_per_hour: int = 20) -> None:
        self.now = START
        self.most_per_hour = most_per_hour
        self.events: list[Event] = []
        self.waits = False

    def decide(self, *signatures: FailureSignature) -> Plan:
        recent = [event for event in self.events if event.at > self.now - schedule.REMEMBERED]
        plan = decide(signatures, mailed_of(recent), [event.at for event in recent], self.now, self.most_per_hour)
        self.events += [event_of(mail, "w", self.now) for mail in plan.mails]
        self.waits = plan.waits
        return plan

    def told(self, *signatures: FailureSignature) -> list[str]:
        """Return what is told: the kind and the count of each notice, each mail in brackets."""
        return [str([f"{one.kind} {one.count}" for one in mail.notices]) for mail in self.decide(*signatures).mails]


@pytest.fixture
def desk() -> Desk:
    return Desk()


def test_a_new_signature_is_mailed_once_it_was_gathered_for_30_seconds(desk: Desk) -> None:
    for second in range(30):
        desk.now = START + second
        assert desk.told(failing(count=second + 1)) == []
        assert desk.waits
    desk.now = START + 30
    assert desk.told(failing(count=31)) == ["['new 31']"]
    assert desk.told(failing(count=31)) == []
    assert not desk.waits


def test_what_goes_on_is_mailed_after_5_minutes_30_minutes_4_hours_and_then_daily(desk: Desk) -> None:
    """Each mail tells what has failed since the one before it: nothing is told twice or left out."""
    sent = []
    total = 0
    for minute in range(4 * 24 * 60):
        desk.now = START + 60 * minute
        count = 10 * (minute + 1)
        for mail in desk.decide(failing(count=count, last=desk.now)).mails:
            sent.append((minute, mail.notices[0].kind))
            total += mail.notices[0].count
            assert total == count
    first, five, thirty, four_hours = 1, 6, 36, 276
    daily = [(four_hours + day * 24 * 60, "more") for day in range(1, 4)]
    assert sent == [(first, "new"), (five, "more"), (thirty, "more"), (four_hours, "more"), *daily]


def test_what_has_stopped_is_not_mailed_again(desk: Desk) -> None:
    for minute in range(3 * 24 * 60):
        desk.now = START + 60 * minute
        desk.decide(failing(count=37, last=START + 10))
    assert len(desk.events) == 1


def test_what_was_quiet_for_more_than_a_day_begins_anew(desk: Desk) -> None:
    desk.now = START + 30
    desk.decide(failing())
    desk.now = START + 1.5 * DAY
    assert desk.told(failing(count=3, last=desk.now)) == ["['again 2']"]
    desk.now += 299
    assert desk.told(failing(count=4, last=desk.now)) == []
    desk.now += 1
    assert desk.told(failing(count=4, last=desk.now)) == ["['more 1']"]


def test_what_comes_back_after_months_is_told_as_known(desk: Desk) -> None:
    assert desk.told(failing(count=7, first=START - 90 * DAY, last=START)) == ["['again 7']"]


def test_what_failed_before_there_were_administrators_is_not_mailed(desk: Desk) -> None:
    assert (
        desk.told(*(failing(f"s{number}", first=START - 9 * DAY, last=START - 2 * DAY) for number in range(50))) == []
    )
    assert not desk.waits


def test_retries_are_not_mailed(desk: Desk) -> None:
    desk.now = START + 60
    assert desk.told(failing(count=0, retries=500)) == []


def test_what_is_muted_is_not_mailed(desk: Desk) -> None:
    desk.now = START + 60
    assert desk.told(failing(count=500, status="muted")) == []


def test_what_is_not_wanted_is_not_mailed() -> None:
    assert decide([failing()], {}, [], START + 60, 20, lambda one: False).mails == []


def test_nothing_is_mailed_about_the_task_that_sends_mails(desk: Desk) -> None:
    assert schedule.OWN == MAIL
    desk.now = START + 60
    assert desk.told(msgspec.structs.replace(failing(), task=MAIL)) == []


def test_what_was_resolved_is_told_once_and_a_regression_at_once(desk: Desk) -> None:
    desk.now = START + 30
    desk.decide(failing(last=START))
    resolved = {"status": "resolved", "marked_at": START + 40, "marked_by": "ann"}
    desk.now = START + 50
    assert desk.told(failing(last=START, **resolved)) == ["['resolved 0']"]
    desk.now = START + 60
    assert desk.told(failing(last=START, **resolved)) == []
    assert desk.told(failing(count=2, last=START + 59, **resolved)) == ["['regressed 1']"]
    assert desk.told(failing(count=3, last=START + 60, **resolved)) == []
    desk.now += 300
    assert desk.told(failing(count=3, last=START + 61, **resolved)) == ["['more 1']"]


def test_what_was_never_mailed_is_not_told_to_be_resolved(desk: Desk) -> None:
    assert desk.told(failing(status="resolved", marked_at=START + 1)) == []


# --- Many ---------------------------------------------------------------------------------------------


def many(count: int, begin: int = 0, **fields: Any) -> list[FailureSignature]:
    return [failing(f"s{number}", **fields) for number in range(begin, begin + count)]


def test_up_to_five_signatures_have_a_mail_each(desk: Desk) -> None:
    desk.now = START + 30
    assert len(desk.decide(*many(5)).mails) == 5


def test_more_than_five_signatures_share_a_digest_with_those_that_are_still_gathered(desk: Desk) -> None:
    desk.now = START + 30
    (mail,) = desk.decide(*many(4), *many(3, 4, first=START + 20)).mails
    assert len(mail.notices) == 7


def test_after_a_digest_there_is_no_mail_for_five_minutes(desk: Desk) -> None:
    sent = {}
    for second in range(0, 1200, 10):
        desk.now = START + 30 + second
        if mails := desk.decide(*many(10 + second, last=desk.now)).mails:
            sent[second] = [len(mail.notices) for mail in mails]
    assert list(sent) == [0, 300, 600, 900]
    assert all(len(counts) == 1 for counts in sent.values())


def test_singles_that_trickle_in_become_a_digest_too(desk: Desk) -> None:
    sent = []
    for number in range(30):
        desk.now = START + 10 * number
        sent += [len(mail.notices) for mail in desk.decide(*many(number + 1, last=desk.now, first=desk.now - 30)).mails]
    assert sent[:5] == [1, 1, 1, 1, 1]
    assert len(sent) <= 7


def test_there_are_never_more_mails_than_allowed_and_the_last_one_says_so() -> None:
    desk = Desk(most_per_hour=4)
    desk.now = START + 30
    first = desk.decide(*many(2)).mails
    desk.now += 400
    second = desk.decide(*many(2), *many(4, 2)).mails
    assert [mail.last_until for mail in first] == [None, None]
    assert [(len(mail.notices), mail.last_until) for mail in second] == [(1, None), (3, START + 30 + 3600)]
    desk.now += 400
    assert desk.decide(*many(20)).mails == []
    assert desk.waits
    desk.now = START + 30 + 3600
    (mail,) = desk.decide(*many(20)).mails
    assert len(mail.notices) == 14


@pytest.mark.parametrize("seed", range(6))
def test_at_random_nothing_is_lost_or_told_twice_and_no_limit_is_passed(seed: int) -> None:
    chance = random.Random(seed)
    desk = Desk(most_per_hour=chance.choice([1, 2, 7, 20]))
    known: dict[str, FailureSignature] = {}
    told: dict[str, int] = {}
    names: set[str] = set()
    for _ in range(1_000):
        desk.now += chance.choice([10.0, 10.0, 60.0, 600.0])
        for _ in range(chance.choice([0, 0, 0, 1, 3, 12])):
            name = f"s{chance.randrange(40)}"
            count = known[name].count if name in known else 0
            first = known[name].first if name in known else desk.now
            known[name] = failing(name, count + chance.randrange(1, 9), first, desk.now)
        plan = desk.decide(*known.values())
        for mail in plan.mails:
            assert mail.name not in names
            names.add(mail.name)
            for one in mail.notices:
                told[one.signature.signature] = told.get(one.signature.signature, 0) + one.count
                assert told[one.signature.signature] == one.signature.count
        hour = [event for event in desk.events if event.at > desk.now - 3600]
        assert len(hour) <= desk.most_per_hour
    for _ in range(200):  # the rest comes within two days, though nothing fails any more
        desk.now += 1_000.0
        for mail in desk.decide(*known.values()).mails:
            for one in mail.notices:
                told[one.signature.signature] = told.get(one.signature.signature, 0) + one.count
    assert told == {name: one.count for name, one in known.items()}


# --- What travels -------------------------------------------------------------------------------------


def test_who_decides_on_the_same_facts_finds_the_same_name() -> None:
    names = {decide([failing()], {}, [], now, 20).mails[0].name for now in (START + 30, START + 45)}
    assert names == {"62f0.0"}
    before = {"62f0": Mailed(START + 30, "new", 0, 1)}
    names = {
        decide([failing(count=2)], before, [START + 30], now, 20).mails[0].name for now in (START + 340, START + 400)
    }
    assert names == {f"62f0.{int(START) + 30}"}


def test_events_that_are_damaged_are_skipped() -> None:
    good = Event(at=1.0, kind="mail", data={"about": {"a": ["new", 0, 1]}})
    bad = [{"about": {"a": what}} for what in (None, 7, [], ["new", "x", 1])]
    events = [good, *(Event(at=2.0, kind="mail", data=data) for data in [*bad, {}, {"about": [1]}])]
    assert mailed_of(events) == {"a": Mailed(1.0, "new", 0, 1)}


def test_the_message_of_a_long_digest_is_small(desk: Desk) -> None:
    desk.now = START + 30
    long = [msgspec.structs.replace(one, title="x" * 20_000, frames=["y" * 20_000] * 5) for one in many(1_000)]
    (mail,) = desk.decide(*long).mails
    call = failure_call(mail, desk.now)
    assert call["others"] == 950
    assert len(msgspec.json.encode(call)) < 300_000
