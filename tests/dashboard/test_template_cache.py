"""Compiled templates are kept between starts, where nobody else can write."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from jinja2 import DictLoader, Environment

from celeriac.dashboard.template_cache import TemplateCache


class _Compiling(Environment):
    """Counts what it compiles."""

    compiled = 0

    def _generate(self, *given: object, **more: object) -> str:
        self.compiled += 1
        return super()._generate(*given, **more)  # type: ignore[arg-type]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("LOCALAPPDATA", str(tmp_path))
    return tmp_path / "celeriac"


def compiled(text: str = "{{ 6 * 7 }}", *sources: str) -> int:
    """Render a template in a new process's environment, as it were; return how many were compiled."""
    environment = _Compiling(loader=DictLoader({"page.html": text}), bytecode_cache=TemplateCache(*sources))
    assert environment.get_template("page.html").render() == "42"
    return environment.compiled


def test_what_was_compiled_is_kept_until_it_or_what_it_is_made_by_changes(home: Path, tmp_path: Path) -> None:
    source = tmp_path / "filters.py"
    source.write_text("1")
    assert [compiled(), compiled(), compiled("{{ 7 * 6 }}")] == [1, 0, 1]
    assert [compiled("42", str(source)), compiled("42", str(source))] == [1, 0]
    source.write_text("2")
    assert compiled("42", str(source)) == 1
    assert len(list((home / "templates").iterdir())) == 1


@pytest.mark.parametrize("damage", [b"", b"x" * 500, None])
def test_a_damaged_file_is_compiled_again(home: Path, damage: bytes | None) -> None:
    assert compiled() == 1
    (file,) = (home / "templates").iterdir()
    file.write_bytes(file.read_bytes()[:-1] if damage is None else damage)
    assert [compiled(), compiled()] == [1, 0]


def test_a_folder_that_others_may_write_to_is_not_used(home: Path) -> None:
    assert compiled() == 1
    for folder in (home, home / "templates"):
        folder.chmod(0o770)
        assert compiled() == 1
        folder.chmod(0o700)
        assert compiled() == 0


def test_without_a_folder_all_is_compiled_each_time(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home.write_text("a file in its place")
    assert [compiled(), compiled()] == [1, 1]
    home.unlink()
    assert compiled() == 1
    (file,) = (home / "templates").iterdir()
    monkeypatch.setattr(os, "replace", _full)
    assert [compiled("{{ 40 + 2 }}"), compiled("{{ 40 + 2 }}")] == [1, 1]
    assert list((home / "templates").iterdir()) == [file]


def _full(*given: object) -> None:
    raise OSError(28, "No space left on device")
