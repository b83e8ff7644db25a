"""Text from tasks and servers cannot control the operator's terminal, nor pass for a line of the log."""

from __future__ import annotations

import io
import json
import logging
import sys
from typing import Any

import pytest
from click.testing import CliRunner

from celeriac.cli.documents import emit
from celeriac.cli.log import LogFormatter
from celeriac.cli.output import echo, echo_value, printable
from celeriac.cli.tables import show, when
from celeriac.logs import LONGEST_TEXT

EVIL = "\x1b]0;owned\x07\x1b[2J\x9b2J\u202eb\r\x00"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("char", [chr(code) for code in (*range(9), *range(11, 32), *range(127, 160), 0x202E, 0x2066)])
def test_a_control_character_is_escaped(char: str) -> None:
    assert char not in printable(f"a{char}b\n\tc")
    assert printable(f"a{char}b\n\tc").startswith("a\\")


def test_other_text_is_left_as_it_is() -> None:
    text = "Größe 日本 🎉 a\tb\nc"
    assert printable(text) == text


def test_what_is_echoed_is_printable(capsys: pytest.CaptureFixture[str]) -> None:
    echo(f"Error: {EVIL}", err=True)
    assert capsys.readouterr().err == "Error: \\x1b]0;owned\\x07\\x1b[2J\\x9b2J\\u202eb\\r\\x00\n"


def test_a_value_is_escaped_on_a_terminal_and_exact_in_a_pipe(monkeypatch: pytest.MonkeyPatch) -> None:
    found = []
    for stream in (Terminal(), io.StringIO()):
        monkeypatch.setattr(sys, "stdout", stream)
        echo_value(EVIL)
        found.append(stream.getvalue())
    assert found == [printable(EVIL) + "\n", EVIL + "\n"]


def test_json_and_tables_are_printable(capsys: pytest.CaptureFixture[str]) -> None:
    emit({"error": EVIL})
    text = capsys.readouterr().out
    assert json.loads(text) == {"error": EVIL}
    assert not set(text) & {"\x1b", "\x9b", "\x07", "\r"}
    show(["task"], [[EVIL]])
    assert not set(capsys.readouterr().out) & set("\x1b\x9b\x07\r\u202e")


@pytest.mark.parametrize("instant", [-1e30, -7e10, 1.7e9, 253_402_300_799.0, 3e11, 1e300])
def test_any_instant_can_be_shown(instant: float) -> None:
    assert when(instant)


def record(message: str, *args: Any) -> str:
    made = logging.LogRecord("celeriac.worker", logging.ERROR, __file__, 1, message, args, None)
    return LogFormatter("%(levelname)s %(name)s: %(message)s").format(made)


def test_no_text_of_a_task_looks_like_a_line_of_the_log() -> None:
    forged = "shop.add\nERROR celeriac.worker: all is lost"
    lines = record("%s failed", forged).split("\n")
    assert lines == ["ERROR celeriac.worker: shop.add", "  ERROR celeriac.worker: all is lost failed"]


def test_a_log_line_is_printable_and_bounded() -> None:
    assert "\x1b" not in record("%s", EVIL)
    assert len(record("%s", "x" * 20_000_000)) < LONGEST_TEXT + 100


def test_an_error_of_the_command_is_printable() -> None:
    from celeriac.cli import main

    result = CliRunner().invoke(main, ["-A", f"no{EVIL}such", "status"])
    assert result.exit_code != 0
    assert not set(result.output) & set("\x1b\x9b\x07\u202e\0")
