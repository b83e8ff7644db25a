"""The demonstration: its site, its arithmetic, and the whole of it as a user runs it."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import pytest

from celeriac.demo import tasks
from celeriac.demo.report import Check, percentile
from celeriac.demo.site import ORPHANS, START, Site, SitePage, build, reachable
from celeriac.demo.truth import library_files, read_library
from tests.patience import PATIENCE

WITH_CTRL_C = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # off in a shell's background
RUN = [sys.executable, "-c", WITH_CTRL_C + "import sys; from celeriac.demo import run_demo; sys.exit(run_demo())"]
SITE = [sys.executable, "-m", "celeriac.demo.site", "12"]


# --- The site -----------------------------------------------------------------------------------------


@asynccontextmanager
async def serving(pages: dict[str, SitePage]) -> AsyncIterator[tuple[Site, str]]:
    site = Site(pages)
    server = await asyncio.start_server(site.answer, "127.0.0.1", 0)
    async with server:
        yield site, f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"


def test_a_site_is_always_the_same_for_its_number_of_pages() -> None:
    assert build(300) == build(300)


def test_links_lead_to_all_pages_but_the_orphans() -> None:
    pages = build(300)
    found = reachable(pages)
    assert len(found) == 300
    assert len(pages) == 300 + ORPHANS


def test_a_site_has_slow_busy_and_missing_pages() -> None:
    pages = build(500).values()
    assert 20 < sum(page.delay >= 0.2 for page in pages) < 100
    assert {page.busy for page in pages} == {0, 1, 2}
    assert 3 < sum(page.missing for page in pages) < 40


async def fetched(url: str) -> list[str]:
    page: tasks.Page = await tasks.fetch_page(url)
    return page.links


def test_a_fetched_page_tells_its_links() -> None:
    async def scene() -> list[str]:
        async with serving({START: SitePage(["/page/1", "/page/2"])}) as (_, base):
            return await fetched(base + START)

    assert asyncio.run(scene()) == ["/page/1", "/page/2"]


def test_a_busy_page_works_after_its_number_of_requests() -> None:
    async def scene() -> None:
        async with serving({START: SitePage(["/page/1"], busy=2)}) as (site, base):
            for _ in range(2):
                with pytest.raises(tasks.PageBusyError):
                    await fetched(base + START)
            assert await fetched(base + START) == ["/page/1"]
            assert site.requests == {START: 3}

    asyncio.run(scene())


@pytest.mark.parametrize("path", ["/gone", "/never-was"])
def test_a_missing_page_stays_missing(path: str) -> None:
    async def scene() -> None:
        async with serving({"/gone": SitePage(missing=True)}) as (_, base):
            for _ in range(3):
                with pytest.raises(tasks.PageMissingError):
                    await fetched(base + path)

    asyncio.run(scene())


def test_the_site_survives_clients_that_do_not_speak_http() -> None:
    async def scene() -> list[str]:
        async with serving({START: SitePage(["/page/1"])}) as (_, base):
            for noise in (b"", b"\r\n\r\n", b"x" * 100_000):
                _, writer = await asyncio.open_connection("127.0.0.1", int(base.rpartition(":")[2]))
                writer.write(noise)
                writer.write_eof()
                writer.close()
            return await fetched(base + START)

    assert asyncio.run(scene()) == ["/page/1"]


def test_the_site_process_ends_with_its_input_and_tells_what_it_was_asked() -> None:
    with subprocess.Popen(SITE, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        port = int(process.stdout.readline())
        asyncio.run(fetched(f"http://127.0.0.1:{port}{START}"))
        told, _ = process.communicate(timeout=PATIENCE)
    assert msgspec.json.decode(told) == {START: 1}
    assert process.returncode == 0


# --- The tasks and the arithmetic ---------------------------------------------------------------------


def test_the_tasks_count_as_the_plain_loop_does(tmp_path: Path) -> None:
    source = tmp_path / "source.py"
    source.write_text("class Nothing:\n    def at_all(self): 'nothing at all, naïve café'\n")
    found = tasks.index_file.apply((str(source),)).get()
    truth = read_library([source])
    assert found.definitions == 2
    assert found.lines == truth.lines == 2
    assert Counter(found.words) == truth.words
    assert found.words["nothing"] == 2
    pairs = tasks.pair_words.apply(([str(source)],)).get()
    assert pairs.total == truth.pairs == truth.words.total() - 1


def test_a_file_that_is_no_python_has_no_definitions(tmp_path: Path) -> None:
    source = tmp_path / "old.py"
    source.write_text("print 'this was Python once'\n")
    assert tasks.index_file.apply((str(source),)).get().definitions == 0


def test_the_library_has_hundreds_of_files() -> None:
    assert len(library_files()) > 300


@pytest.mark.parametrize(("percent", "value"), [(50, 50.0), (95, 95.0), (99, 99.0), (100, 100.0)])
def test_percentiles_of_one_to_a_hundred(percent: float, value: float) -> None:
    assert percentile([float(number) for number in range(100, 0, -1)], percent) == value


def test_a_percentile_of_nothing_is_nothing() -> None:
    assert percentile([], 99) == 0.0


def test_a_check_needs_equal_numbers_and_whatever_else_must_hold() -> None:
    assert Check("files", 3, 3).right
    assert not Check("files", 3, 2).right
    assert not Check("files", 3, 3, more=False).right


# --- The whole of it ----------------------------------------------------------------------------------


def environment(folder: Path, **more: str) -> dict[str, str]:
    # Settings for another app, which must not lead it astray, and a folder that shows what is left behind.
    return {**os.environ, "TMPDIR": str(folder), "CELERIAC_BROKER_URL": "memory://", "COLUMNS": "100", **more}


@pytest.mark.parametrize("hub", [False, True], ids=["embedded", "hub"])
def test_the_demonstration_loses_nothing_and_leaves_nothing_behind(tmp_path: Path, hub: bool) -> None:
    command = [part.replace("run_demo()", f"run_demo(hub={hub})") for part in RUN]
    done = subprocess.run(command, env=environment(tmp_path), capture_output=True, text=True, timeout=PATIENCE,
                          check=False)  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == ""
    rows = dict(re.findall(r"│ (.+?) +│(.*)│\n", done.stdout))
    assert rows["tasks lost"].split("│")[1].strip() == "0"
    assert rows["deliveries of the killed task"].split() == ["2", "│", "2", "│", "yes"]
    assert rows["pages found"].split() == ["500", "│", "500", "│", "yes"]
    assert int(rows["files indexed"].split()[0]) == len(library_files())
    assert re.search(r"Killed child (\d+) on purpose", done.stdout)
    assert re.search(r"Child \d+ has started the task again", done.stdout)
    assert ("over a hub" in done.stdout) is hub
    assert "NO" not in done.stdout
    assert "Nothing was lost, and every number is right." in done.stdout
    assert "celeriac -A tasks worker" in done.stdout
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupted_demonstration_leaves_nothing_behind(tmp_path: Path, number: int, code: int) -> None:
    pipe = subprocess.PIPE
    with subprocess.Popen(RUN, env=environment(tmp_path), stdout=pipe, stderr=pipe, text=True) as process:
        assert process.stdout is not None
        begun = (re.search(r"worker is process (\d+)", line) for line in process.stdout)
        worker = next(int(match[1]) for match in begun if match)
        threading.Timer(2.0, process.send_signal, (number,)).start()
        _, errors = process.communicate(timeout=PATIENCE)
    assert process.returncode == code, errors
    assert errors == ""
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(ProcessLookupError):
        os.kill(worker, 0)


NO_WORKER = """#!/bin/sh
case "$*" in
*worker*) echo "This worker does not like Mondays." >&2; exit 3 ;;
*) exec {python} "$@" ;;
esac
"""

WITH_ANOTHER_PYTHON = """
import sys, types
from celeriac.demo import processes, run_demo
processes.sys = types.SimpleNamespace(executable=sys.argv[1])
sys.exit(run_demo())
"""


def test_a_worker_that_does_not_start_is_explained_by_its_own_last_words(tmp_path: Path) -> None:
    (temporary := tmp_path / "tmp").mkdir()
    python = tmp_path / "python"
    python.write_text(NO_WORKER.format(python=sys.executable))
    python.chmod(0o700)
    done = subprocess.run([sys.executable, "-c", WITH_ANOTHER_PYTHON, str(python)], env=environment(temporary),
                          capture_output=True, text=True, timeout=PATIENCE, check=False)  # fmt: skip
    assert done.returncode == 1, done.stdout + done.stderr
    assert "FAILED. The worker exited unexpectedly, with exit code 3." in done.stdout
    assert "does not like Mondays" in done.stdout
    assert list(temporary.iterdir()) == []
