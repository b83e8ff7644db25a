"""Computes the numbers that the demonstration must find: in this process, without workers, with different code."""

from __future__ import annotations

import re
import sysconfig
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

__all__ = ["LibraryTruth", "library_files", "read_library"]

LEFT_OUT = frozenset({"site-packages", "dist-packages", "test", "tests", "idle_test", "__pycache__"})
NO_LETTERS = re.compile(r"[^a-z]+")
SHORTEST = 3  # letters in a word


def library_files() -> list[Path]:
    """Return the source files of Python's standard library, without its tests."""
    root = Path(sysconfig.get_path("stdlib"))
    return sorted(path for path in root.rglob("*.py") if LEFT_OUT.isdisjoint(path.relative_to(root).parts))


@dataclass
class LibraryTruth:
    """Counts from a plain loop over the files."""

    files: int
    lines: int
    pairs: int
    words: Counter[str]


def read_library(paths: Iterable[Path]) -> LibraryTruth:
    """Count lines, words and pairs of words."""
    truth = LibraryTruth(0, 0, 0, Counter())
    for path in paths:
        text = path.read_text(encoding="utf-8", errors="replace")
        words = [word for word in NO_LETTERS.split(text.lower()) if len(word) >= SHORTEST]
        truth.files += 1
        truth.lines += len(text.split("\n")) - 1
        truth.pairs += max(0, len(words) - 1)
        truth.words.update(words)
    return truth
