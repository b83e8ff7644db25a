"""The tables printed at the end: tasks, lanes, the kill, the findings, and the comparison with expected numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rich.console import Console
from rich.table import Table

from celeriac import states
from celeriac.demo.jobs import Crawl, Index, Job, Kill
from celeriac.demo.site import SitePage, reachable
from celeriac.demo.tasks import PageMissingError, app
from celeriac.demo.truth import LibraryTruth
from celeriac.model.outcome import Outcome

__all__ = ["Check", "checks_of", "percentile", "show_checks", "show_tables"]

TOP = 5

NEXT_STEPS = """\
Next, write your own:
  tasks.py:  from celeriac import Celeriac
             app = Celeriac("shop")

             @app.task
             def add(x, y): return x + y

  $ celeriac -A tasks worker          starts a worker; creates celeriac.db next to tasks.py
  $ celeriac -A tasks call tasks.add --args '[2, 2]' --wait
Settings are keyword arguments of Celeriac(...), or environment variables like CELERIAC_TASK_TIME_LIMIT.
Continue with docs/tutorial.md."""


@dataclass(frozen=True)
class Check:
    """One number: its expected and its actual value."""

    what: str
    expected: object
    found: object
    more: bool = True  # a further condition, if comparing two numbers is not enough

    @property
    def right(self) -> bool:
        """Whether the check passes."""
        return self.expected == self.found and self.more


def checks_of(index: Index, crawl: Crawl, kill: Kill, truth: LibraryTruth, pages: Mapping[str, SitePage],
              requests: Mapping[str, int]) -> list[Check]:  # fmt: skip
    """Compare the workers' results with numbers computed without workers."""
    links = reachable(pages)
    expected_requests = {path: 1 + pages[path].busy for path in links}
    indexed = index.count(states.SUCCESS)
    return [
        Check("tasks lost", 0, index.lost + crawl.lost + kill.lost),
        Check("files indexed", truth.files, indexed),
        Check("lines", truth.lines, index.lines),
        Check("words", truth.words.total(), index.words.total()),
        Check("distinct words, with counts", len(truth.words), len(index.words), index.words == truth.words),
        Check("word pairs, by the killed task", truth.pairs, kill.pairs.total if kill.pairs else None),
        Check("deliveries of the killed task", 2, kill.pairs.delivery if kill.pairs else None),
        Check("pages found", len(links), len(crawl.seen), crawl.seen == links),
        Check("pages fetched", sum(not pages[path].missing for path in links), crawl.count(states.SUCCESS)),
        Check("missing pages: failed as intended", sum(pages[path].missing for path in links),
              crawl.failures(PageMissingError.__name__)),
        Check("retries, one for each 503", sum(pages[path].busy for path in links), crawl.retried),
        Check("requests to the site", sum(expected_requests.values()), sum(requests.values()),
              expected_requests == requests),
    ]  # fmt: skip


def percentile(values: Sequence[float], percent: float) -> float:
    """Return the smallest value that `percent` percent of the values do not exceed; 0 if there are none.

    >>> percentile([4.0, 1.0, 3.0, 2.0], 50)
    2.0
    """
    ranked = sorted(values)
    return ranked[max(0, -int(-len(ranked) * percent // 100) - 1)] if ranked else 0.0


def show_tables(console: Console, index: Index, crawl: Crawl, kill: Kill) -> None:
    """Print what the workers did."""
    jobs: list[Job] = [index, kill, crawl]
    tasks = _table("Tasks", "task", "sent", "succeeded", "retries", "failed", "p50", "p95", "p99")
    for job in jobs:
        runtimes = [outcome.runtime for outcome in job.outcomes]
        counts = (job.sent, job.count(states.SUCCESS), job.retried, job.count(states.FAILURE))
        times = (_seconds(percentile(runtimes, percent)) for percent in (50, 95, 99))
        tasks.add_row(job.task.rpartition(".")[2], *_numbers(*counts), *times)
    console.print(tasks)

    lanes = _table("Lanes", "lane", "tasks", "attempts", "tasks/s", "concurrency", "children (pids)")
    for lane in dict.fromkeys(app.tasks[job.task].lane for job in jobs):
        here = [job for job in jobs if app.tasks[job.task].lane == lane]
        outcomes = [outcome for job in here for outcome in job.outcomes]
        pids = sorted(set().union(*(job.children for job in here)))
        attempts = len(outcomes) + sum(job.retried + job.redelivered for job in here)
        lanes.add_row(lane, *_numbers(len(outcomes), attempts), f"{_rate(here, outcomes):.0f}",
                      f"{_overlap(outcomes):.1f}", " ".join(map(str, pids)))  # fmt: skip
    console.print(lanes)

    killed = _facts("Killed child")
    redelivered = index.redelivered + crawl.redelivered
    successor = kill.pairs.pid if kill.pairs else "?"
    for row in (
        ("killed with SIGKILL", f"child {kill.victim}, by this demonstration"),
        ("its task", f"{kill.task.rpartition('.')[2]}, after {kill.killed_after}"),
        ("running again after", f"{kill.back_after:.2f} s, in child {successor}"),
        ("delivery that succeeded", str(kill.pairs.delivery) if kill.pairs else "none"),
        ("other tasks redelivered", f"{redelivered}" if redelivered else "none"),
        ("tasks lost in total", str(index.lost + crawl.lost + kill.lost)),
    ):
        killed.add_row(*row)
    console.print(killed)

    found = _facts("Results")
    words = ", ".join(f"{word} {count:,}" for word, count in index.words.most_common(TOP))
    found.add_row("in Python's library", f"{index.lines:,} lines, {index.definitions:,} definitions")
    found.add_row("most frequent words", words)
    if kill.pairs:
        found.add_row("most frequent pair", "{} {:,}".format(*kill.pairs.top[0]))
    found.add_row("on the site", f"{len(crawl.seen)} pages")
    console.print(found)


def show_checks(console: Console, checks: Sequence[Check]) -> None:
    """Print the checks and, if all of them pass, the next steps."""
    table = _table("Compared with numbers computed without workers", "what", "expected", "found", "right")
    for check in checks:
        numbers = _numbers(check.expected, check.found)
        table.add_row(check.what, *numbers, "yes" if check.right else "[bold red]NO")
    console.print(table)
    wrong = [check.what for check in checks if not check.right]
    if wrong:
        text = f"The demonstration FAILED. Wrong numbers: {'; '.join(wrong)}."
        console.print(text, markup=False, style="bold red", highlight=False)
    else:
        console.print("Nothing was lost, and every number is right.\n", style="bold green", highlight=False)
        console.print(NEXT_STEPS, markup=False, highlight=False, soft_wrap=True)


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold")
    for number, column in enumerate(columns):
        table.add_column(column, justify="right" if number else "left")
    return table


def _facts(title: str) -> Table:
    table = Table("what", "how", title=title, title_justify="left", title_style="bold", show_header=False)
    table.columns[0].no_wrap = True
    return table


def _numbers(*values: object) -> list[str]:
    return [f"{value:,}" if isinstance(value, int) else str(value) for value in values]


def _seconds(seconds: float) -> str:
    return f"{seconds * 1000:.0f} ms" if seconds < 1 else f"{seconds:.1f} s"


def _rate(jobs: Sequence[Job], outcomes: Sequence[Outcome]) -> float:
    """Return tasks per second, from sending the first to the end of the last."""
    if not outcomes:
        return 0.0
    began = min(job.sent_at for job in jobs)
    return len(outcomes) / max(1e-3, max(outcome.done_at for outcome in outcomes) - began)


def _overlap(outcomes: Sequence[Outcome]) -> float:
    """Return how many tasks ran concurrently, averaged over the time from the first start to the last end."""
    if not outcomes:
        return 0.0
    began = min(outcome.started_at for outcome in outcomes)
    ended = max(outcome.done_at for outcome in outcomes)
    return sum(outcome.runtime for outcome in outcomes) / max(1e-3, ended - began)
