"""The grammar of filters."""

from __future__ import annotations

import pytest

from celeriac.model.filters import Filter, duration_of, instant_of, parse_filter

NOW = 1_800_000_000.0


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("", Filter()),
        ("task:shop.* state:failure", Filter(tasks=("shop.*",), states=("FAILURE",))),
        ("task:a,b task:c", Filter(tasks=("a", "b", "c"))),
        ('task:"with space" queue:mail', Filter(tasks=("with space",), queues=("mail",))),
        ("since:2h until:30min", Filter(since=NOW - 7200, until=NOW - 1800)),
        ("since:2027-01-15T08:00:00Z", Filter(since=NOW)),
        ("runtime:>5s wait:<200ms", Filter(runtime=(5.0, float("inf")), wait=(0.0, 0.2))),
        ("runtime:1s..1.5min attempt:>=2", Filter(runtime=(1.0, 90.0), attempt=(2.0, float("inf")))),
        ("attempt:3", Filter(attempt=(3.0, 3.0))),
        ("header.tenant:acme args.user_id:42", Filter(headers=(("tenant", "acme"),), args=(("user_id", "42"),))),
        ('timeout "card: \\"declined\\""', Filter(words=("timeout", 'card: "declined"'))),
        ("error:pkg.Error signature:f00d id:x root:r group:g worker:w@h.1",
         Filter(errors=("pkg.Error",), signatures=("f00d",), ids=("x",), roots=("r",), groups=("g",),
                workers=("w@h.1",))),
    ],
)  # fmt: skip
def test_a_text_means_a_filter(text: str, meant: Filter) -> None:
    assert parse_filter(text, NOW) == meant


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("taks:a", "'task'"),
        ("state:failed", "'FAILURE'"),
        ("state:", "needs a value"),
        ("since:yesterday", "2026-11-29"),
        ("runtime:>fast", "runtime:>5s"),
        ("runtime:1s..x", "is no duration"),
        ("attempt:x", "'x' is no whole number. As in attempt:>5, attempt:<5, attempt:1..5."),
        ("attempt:nan", "is no whole number"),
        ("http://x", "quotes"),
        ("header:acme", "header.NAME"),
    ],
)
def test_a_mistake_gets_an_error_that_says_what_to_write(text: str, hint: str) -> None:
    with pytest.raises(ValueError, match=r".") as caught:
        parse_filter(text, NOW)
    assert hint in str(caught.value)


def test_no_text_takes_long_or_raises_anything_else() -> None:
    many = ('"', "a:", 'x:"', "\\", "runtime:9", ":", "\0☃:1")
    for text in (part * size for part in many for size in (500, 10_000)):
        try:
            parse_filter(text, NOW)
        except ValueError as error:
            assert len(str(error)) < 10_000  # noqa: PT017


def test_durations_and_instants() -> None:
    assert [duration_of(text) for text in ("5", "1.5s", "200ms", "2m", "2min", "1h", "3d", "1w")] == [
        5.0, 1.5, 0.2, 120.0, 120.0, 3600.0, 259_200.0, 604_800.0,
    ]  # fmt: skip
    assert instant_of("1970-01-02", NOW) == 86_400.0


def test_brackets_in_a_pattern_are_no_class() -> None:
    assert Filter(tasks=("a[b]*",)).counts("a[b]c", "", "", "", "")
    assert not Filter(tasks=("a[b]*",)).counts("abc", "", "", "", "")


@pytest.mark.parametrize(
    ("text", "is_meant"),
    [
        ("args.user:42", True),
        ("args.user:43", False),
        ("args.order.item:te*", True),
        ("args.order.count:2 args.user:42", True),
        ("args.order.price:2", False),
        ("args.user.name:x", False),
        ("args.nothing:x", False),
        ("task:shop.add", True),
    ],
)
def test_arguments_are_meant_by_their_names(text: str, is_meant: bool) -> None:
    named = {"user": 42, "order": {"item": "tea", "count": 2}}
    assert parse_filter(text, 0.0).has_args(named) is is_meant
