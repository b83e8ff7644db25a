"""What a worker's log says, in real workers: each line once, with its task, whoever configured logging."""

from __future__ import annotations

import logging
import re

import pytest

from celeriac import Celeriac, get_task_logger
from tests.logs.shop import AFTER, BASIC, DJANGO, NAMING, ONE_LOGGER, OURS, RECEIVERS, Shop
from tests.patience import PATIENCE

DISABLING = DJANGO.format(disable=True)
KEEPING = DJANGO.format(disable=False)


@pytest.mark.parametrize(
    ("arguments", "setup", "begin", "named"),
    [
        ((), "", OURS, True),
        (("--pool", "threads"), "", OURS, True),
        (("--pool", "solo"), "", OURS, True),
        ((), BASIC, "APP ", False),
        ((), NAMING, "APP ", True),
        ((), KEEPING, "APP ", True),
        ((), DISABLING, "APP ", True),
        (("--pool", "threads"), DISABLING, "APP ", True),
        ((), RECEIVERS.format(django=BASIC), "APP ", False),
    ],
    ids=["none", "none-threads", "none-solo", "basicConfig", "basicConfig-with-filter", "Django",
         "Django-disabling", "Django-threads", "setup_logging"],
)  # fmt: skip
def test_each_line_is_logged_once_whoever_configured_logging(
    shop: Shop, arguments: tuple[str, ...], setup: str, begin: str, named: bool
) -> None:
    shop.open("-l", "info", *arguments, setup=setup)
    (shop.folder / "go").touch()
    plain, coroutine, failed = shop.run("note", "tea"), shop.run("anote", "milk"), shop.run("fail", "cups")
    shop.stop()
    by_task = [
        (plain, "shop.tasks", "plain tea"), (plain, "stock", "stock of tea"), (coroutine, "shop.tasks", "before milk"),
        (coroutine, "shop.tasks", "after milk"), (failed, "shop.tasks", "about to fail cups"),
    ]  # fmt: skip
    for id, logger, message in by_task:
        (line,) = shop.lines(message)
        assert re.match(f"{begin}(INFO|WARNING) {logger}", line), line
        assert (id in line) is named
    for message in (f"shop.note[{plain}] succeeded", f"shop.anote[{coroutine}] succeeded", "w1 is ready and receives",
                    f"shop.fail[{failed}] failed: ValueError: cups", "w1 has stopped"):  # fmt: skip
        (line,) = shop.lines(message)
        assert re.match(f"{begin}(INFO|ERROR) celeriac.worker", line), line
    assert not shop.lines("unseen")


def test_loggers_that_a_receiver_has_disabled_log_all_the_same_if_they_are_of_tasks_or_the_worker(shop: Shop) -> None:
    shop.open("-l", "info", setup=RECEIVERS.format(django=DISABLING.replace("\n", "\n    ")))
    id = shop.run("note", "tea")
    shop.stop()
    assert shop.lines("tea") == [f"APP INFO stock shop.note[{id}]: stock of tea"]
    assert shop.lines("has stopped") == ["APP INFO celeriac.worker -[-]: w1 has stopped"]


def test_coroutines_of_one_child_log_their_own_ids(shop: Shop) -> None:
    shop.open("-l", "info")
    results = {name: shop.app.send_task("shop.anote", [name]) for name in ("first", "second")}
    shop.wait(lambda: all(shop.lines(f"before {name}") for name in results))
    (shop.folder / "go").touch()
    for result in results.values():
        result.get(timeout=PATIENCE)
    for name, result in results.items():
        for message in (f"before {name}", f"after {name}"):
            assert re.fullmatch(rf"{OURS}INFO shop.tasks: shop.anote\[{result.id}\]: {message}", shop.lines(message)[0])


def test_without_a_level_tasks_log_warnings(shop: Shop) -> None:
    shop.open()
    shop.run("note", "tea")
    id = shop.run("fail", "cups")
    shop.stop()
    assert not shop.lines("plain tea")
    assert len(shop.lines("WARNING shop.tasks", f"shop.fail[{id}]", "about to fail cups")) == 1


def test_a_line_that_a_handler_of_the_app_has_shown_is_not_shown_again(shop: Shop) -> None:
    shop.open("-l", "info", setup=ONE_LOGGER)
    shop.run("note", "tea")
    shop.stop()
    assert shop.lines("plain tea") == ["APP INFO shop.tasks: plain tea"]
    assert len(shop.lines("stock of tea")) == 1
    assert len(shop.lines("w1 has stopped")) == 1


def test_the_root_logger_can_be_hijacked(shop: Shop) -> None:
    shop.open("-l", "info", setup=BASIC, worker_hijack_root_logger=1)
    shop.run("note", "tea")
    shop.stop()
    assert not shop.lines("APP ")
    assert len(shop.lines("plain tea")) == len(shop.lines("w1 has stopped")) == 1


def test_formats_are_settings(shop: Shop) -> None:
    shop.open("-l", "info", worker_log_format="W %(message)s", worker_task_log_format="T %(task_id)s %(message)s")
    id = shop.run("note", "tea")
    shop.stop()
    assert f"T {id} plain tea" in shop.lines("tea")
    assert shop.lines("has stopped") == ["W w1 has stopped"]


def test_receivers_can_add_handlers(shop: Shop) -> None:
    shop.open("-l", "info", setup=AFTER)
    shop.run("note", "tea")
    shop.stop()
    assert len(shop.lines("plain tea")) == 1
    assert "EXTRA plain tea\nEXTRA stock of tea\n" in (shop.folder / "extra.log").read_text()
    assert (shop.folder / "tasks.log").read_text() == "stock of tea\n"


def test_a_format_that_cannot_be_filled_in_is_refused() -> None:
    with pytest.raises(Exception, match=r"worker_log_format: a format of the module logging, not '%\(nothing\)s'"):
        Celeriac("shop", environ={}, worker_log_format="%(nothing)s")
    with pytest.raises(Exception, match="worker_task_log_format"):
        Celeriac("shop", environ={}, worker_task_log_format="json")


# --- Task loggers -------------------------------------------------------------------------------------


def test_a_task_logger_stands_below_celeriac_task() -> None:
    logger = get_task_logger("test_logging_shop.tasks")
    assert logger is logging.getLogger("test_logging_shop.tasks")
    assert logger.parent is logging.getLogger("celeriac.task")
    assert get_task_logger("test_logging_shop.tasks.mail").parent is logger
    for name in ("celeriac", "celeriac.task", "celeriac.worker"):
        with pytest.raises(ValueError, match="one of Celeriac's own loggers"):
            get_task_logger(name)
