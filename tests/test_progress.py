"""The progress bar for sets of tasks: what it yields, what it draws on a terminal, what it writes elsewhere."""

from __future__ import annotations

import io
import re
import sys
from collections.abc import Iterator

import pytest
from rich.console import Console

from celeriac import Celeriac, group, progress
from celeriac.errors import ResultTimeout
from celeriac.progress import atrack, track
from tests.patience import PATIENCE
from tests.worker_loop import working


@pytest.fixture
def halves(app: Celeriac) -> Celeriac:
    @app.task(name="half")
    def half(number: int) -> int:
        if number % 2:
            raise ValueError(f"{number} is odd")
        return number // 2

    return app


def screen(terminal: bool) -> Console:
    xterm = {"TERM": "xterm"}
    return Console(file=io.StringIO(), force_terminal=terminal, width=100, color_system=None, _environ=xterm)


def written(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def last_frame(console: Console) -> str:
    """Return what the bar looked like at its end: each frame begins by clearing the line."""
    return written(console).rpartition("\x1b[2K")[2]


def test_a_groups_results_are_yielded_as_they_arrive_and_its_failures_counted(halves: Celeriac) -> None:
    half, console = halves.tasks["half"], screen(terminal=False)
    with working(halves):
        sent = group(half.s(number) for number in range(4)).delay()
        found = list(track(sent, "Halving", console=console, timeout=PATIENCE))
    assert {result.id for result in found} == {result.id for result in sent.results}
    assert sorted(result.get() for result in found if result.successful()) == [0, 1]
    assert written(console).startswith("Halving: 4 of 4, 2 failed in ")


def test_a_list_of_results_is_waited_for_as_a_group_is(halves: Celeriac) -> None:
    console = screen(terminal=False)
    with working(halves):
        found = list(track(halves.tasks["half"].delay_many([(0,), (2,)]), console=console, timeout=PATIENCE))
    assert sorted(result.get() for result in found) == [0, 1]
    assert written(console).startswith("Tasks: 2 of 2 in ")


def test_a_maps_values_keep_their_order_and_exceptions_among_them_are_counted(halves: Celeriac) -> None:
    console = screen(terminal=False)
    with working(halves):
        values = halves.map(halves.tasks["half"], [4, 3, 2], return_exceptions=True)
        found = list(track(values, "Halving", total=3, console=console))
    assert found[0] == 2
    assert isinstance(found[1], ValueError)
    assert found[2] == 1
    assert written(console).startswith("Halving: 3 of 3, 1 failed in ")


async def test_coroutines_track_groups_and_maps(halves: Celeriac) -> None:
    half, console = halves.tasks["half"], screen(terminal=False)
    with working(halves):
        sent = await group(half.s(number) for number in (0, 2)).adelay()
        assert sorted([result.get() async for result in atrack(sent, console=console, timeout=PATIENCE)]) == [0, 1]
        assert [value async for value in atrack(halves.amap(half, [4, 2]), console=console)] == [2, 1]
    assert written(console).count("Tasks: 2") == 2


def test_on_a_terminal_a_bar_moves_to_its_end() -> None:
    console = screen(terminal=True)
    assert list(track("abc", "[Letters]", console=console)) == ["a", "b", "c"]
    assert "[Letters]" in last_frame(console)
    assert "3 of 3" in last_frame(console)


def test_a_bar_without_a_total_ends_full() -> None:
    console = screen(terminal=True)
    assert len(list(track(iter("abc"), console=console))) == 3
    assert re.search("━{40} +3 ", last_frame(console))


def test_what_the_caller_prints_stays_on_stdout(capsys: pytest.CaptureFixture[str]) -> None:
    console = screen(terminal=True)
    for letter in track("ab", console=console):
        print(letter)
    assert capsys.readouterr().out == "a\nb\n"
    assert sys.stdout.isatty() is False


def test_elsewhere_a_line_is_written_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "LINE_SECONDS", 0.0)
    console = screen(terminal=False)
    list(track("ab", "Letters", console=console))
    assert written(console).splitlines()[:2] == ["Letters: 1 of 2", "Letters: 2 of 2"]


def test_a_loop_that_is_left_early_shows_how_far_it_was() -> None:
    console = screen(terminal=False)
    tracked = track(iter("abc"), "Letters", console=console)
    assert isinstance(tracked, Iterator)
    assert next(tracked) == "a"
    tracked.close()  # type: ignore[attr-defined]
    assert written(console).startswith("Letters: 1 in ")


def test_a_set_that_does_not_end_in_time_raises(halves: Celeriac) -> None:
    sent = group(halves.tasks["half"].s(number) for number in range(2)).delay()
    with pytest.raises(ResultTimeout):
        list(track(sent, console=screen(terminal=False), timeout=0.01))


def test_a_timeout_is_for_sets_alone() -> None:
    with pytest.raises(TypeError, match="timeout goes with a GroupResult"):
        track("abc", timeout=1)  # type: ignore[call-overload]
