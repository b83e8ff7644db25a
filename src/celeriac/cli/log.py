"""Logging of a worker: sets it up unless the app has done so, with a handler that writes to stderr and never blocks.

A task can fill the pipe behind stderr, or its reader can stop reading. A supervisor that blocked on it would miss its
heartbeats and lose its lease. The handler therefore opens the pipe a second time, in non-blocking mode. The original
descriptor is shared with the children and stays blocking, so prints in tasks wait as usual. So do lines that tasks log.
A pipe takes 4,096 bytes at once, or in parts: in a line longer than that, one of another process may come in between.
"""

from __future__ import annotations

import logging
import os
import select
import socket
import stat
import sys
from collections.abc import Iterator

from celeriac import signals
from celeriac.app.app import Celeriac
from celeriac.cli.output import printable
from celeriac.config.definitions import JSON, LOG_FORMAT
from celeriac.config.settings import Settings
from celeriac.logs import JSONFormatter, add_task, shortened, task_logger

__all__ = ["LogFormatter", "NonBlockingHandler", "set_up_logging", "stderr_handler"]

log = logging.getLogger("celeriac.worker")

SUPERVISOR = "celeriac.worker"  # the logger whose lines about a task name it in their texts

ABOUT_THE_LOG = {"name": log.name, "levelname": "WARNING", "levelno": logging.WARNING}


def set_up_logging(app: Celeriac, worker: str, level: str | None, log_format: str | None) -> logging.Formatter | None:
    """Log to stderr, from the root logger, unless the app has configured logging. Call it once the app is imported.

    Return the formatter; None if the app's own handlers are used.
    """
    conf = app.conf
    shown = _shown(log_format, conf)
    number = logging.root.level if level is None else logging.getLevelNamesMapping()[level.upper()]
    facts = {"loglevel": number, "logfile": None, "format": shown, "colorize": False}  # the names are Celery's
    formatter: logging.Formatter | None = None
    if signals.setup_logging.receivers:
        signals.setup_logging.send(None, **facts)
    else:
        formatter = _set_up(app, worker, level, shown)
        signals.after_setup_logger.send(None, logger=logging.root, **facts)
        signals.after_setup_task_logger.send(None, logger=task_logger, **facts)
    _enable()
    if shown == JSON and formatter is None and not signals.setup_logging.receivers:
        log.warning("Log lines are not JSON, because the app has configured logging. Use celeriac.logs.JSONFormatter "
                    "there, or set worker_hijack_root_logger.")  # fmt: skip
    return formatter


def _shown(log_format: str | None, conf: Settings) -> str:
    """Return the format of lines that no task writes: "json", or a format of `logging`."""
    if log_format == "text" and conf.worker_log_format == JSON:
        return LOG_FORMAT
    return JSON if log_format == JSON else conf.worker_log_format


def _set_up(app: Celeriac, worker: str, level: str | None, shown: str) -> logging.Formatter | None:
    conf = app.conf
    ours = logging.getLogger("celeriac")
    if conf.worker_hijack_root_logger:
        logging.root.handlers.clear()
        ours.handlers.clear()
    if level is not None:
        ours.setLevel(level.upper())
    if ours.hasHandlers():
        return None
    of_tasks = conf.worker_task_log_format
    formatter = JSONFormatter(worker, app.main or "") if shown == JSON else LogFormatter(shown, of_tasks)
    handler = stderr_handler()
    handler.setFormatter(formatter)
    handler.addFilter(_is_not_shown)
    logging.root.addHandler(handler)
    if level is not None:
        logging.root.setLevel(level.upper())
    return formatter


def _enable() -> None:
    """Enable Celeriac's loggers, and those of `get_task_logger`.

    `logging.config` disables all loggers that exist already, unless it is told not to.
    """
    for logger in list(logging.root.manager.loggerDict.values()):
        if isinstance(logger, logging.Logger) and any(f"{one.name}.".startswith("celeriac.") for one in _line(logger)):
            logger.disabled = False


def _line(logger: logging.Logger) -> Iterator[logging.Logger]:
    """Yield a logger and its parents, without the root logger."""
    while logger.parent is not None:
        yield logger
        logger = logger.parent


def _is_not_shown(record: logging.LogRecord) -> bool:
    """Return whether no handler of the app, on a logger below the root, has written this record to the terminal."""
    return not any(
        isinstance(handler, logging.StreamHandler)
        and handler.stream in (sys.stderr, sys.stdout)
        and record.levelno >= handler.level
        and handler.filter(record)
        for logger in _line(logging.getLogger(record.name))
        for handler in logger.handlers
    )


def stderr_handler() -> logging.Handler:
    """Return a non-blocking handler if stderr is a pipe, terminal or socket; otherwise a plain `StreamHandler`."""
    try:
        fd = sys.stderr.fileno()
        mode = os.fstat(fd).st_mode
        if stat.S_ISSOCK(mode):
            return NonBlockingHandler(socket.socket(fileno=os.dup(fd)))
        if stat.S_ISFIFO(mode) or os.isatty(fd):
            return NonBlockingHandler(os.open(f"/proc/self/fd/{fd}", os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY))
    except OSError:
        pass  # stderr is not a file, or this user may not open it
    return logging.StreamHandler()


class LogFormatter(logging.Formatter):
    """Formats log records for stderr: with the second format if a task has logged the record.

    Control characters are escaped, and continuation lines are indented: no text of a task (its name, the message of
    its exception) can look like a line of the log. Long records are cut.
    """

    def __init__(self, format: str, task_format: str | None = None) -> None:
        super().__init__(format)
        self._of_tasks = logging.Formatter(task_format or format)

    def format(self, record: logging.LogRecord) -> str:
        """Return the record as text."""
        is_of_task = add_task(record) and record.name != SUPERVISOR
        text = self._of_tasks.format(record) if is_of_task else super().format(record)
        return printable(shortened(text)).replace("\n", "\n  ")


class NonBlockingHandler(logging.Handler):
    """Writes lines to a pipe, terminal or socket; drops lines while it is full, and reports their number later.

    In processes forked from this one it waits instead.
    """

    def __init__(self, out: int | socket.socket) -> None:
        super().__init__()
        self._out = out
        self._pid = os.getpid()
        self._rest = b""  # the unwritten part of a line
        self._dropped = 0

    def emit(self, record: logging.LogRecord) -> None:
        """Write a line, or drop it if there is no room."""
        try:
            line = self._line(record)
        except Exception:  # noqa: BLE001 - the arguments do not match the message; the same as in every handler
            self.handleError(record)
            return
        if os.getpid() != self._pid:
            self._wait_and_write(line)
            return
        if self._dropped:
            note = f"{self._dropped} log lines were dropped here: stderr was full"
            line = self._line(logging.makeLogRecord({**ABOUT_THE_LOG, "msg": note})) + line
        self._rest = self._write(self._rest)
        left = line if self._rest else self._write(line)
        if left is line:
            self._dropped += 1
        else:
            self._rest, self._dropped = left, 0

    def _line(self, record: logging.LogRecord) -> bytes:
        return self.format(record).encode(errors="backslashreplace") + b"\n"

    def _write(self, data: bytes) -> bytes:
        """Write as much as there is room for; return the rest."""
        try:
            if isinstance(self._out, int):
                return data[os.write(self._out, data) :] if data else data
            return data[self._out.send(data, socket.MSG_DONTWAIT) :] if data else data
        except OSError:  # no room, or the reader has gone
            return data

    def _wait_and_write(self, data: bytes) -> None:
        """Write all of it, as soon as there is room; nothing if the reader has gone."""
        poll = select.poll()
        poll.register(self._out, select.POLLOUT)
        while data and all(events == select.POLLOUT for _, events in poll.poll()):
            data = self._write(data)
