"""The table that compares dashboards: each "yes" of Celeriac names a test that there is."""

from __future__ import annotations

import re
from pathlib import Path

PAGE = Path(__file__).resolve().parents[2] / "docs" / "dashboards.md"
LINK = re.compile(r'\[(?:yes|and)\]\((\S+\.py) "(\w+)"\)')


def test_each_yes_is_a_link_to_a_test_that_exists() -> None:
    rows = [line.split("|")[1:] for line in PAGE.read_text(encoding="utf-8").splitlines() if line.startswith("| ")][1:]
    assert len(rows) > 20
    for row in rows:
        found = LINK.findall(row[1])
        assert found, row
        assert LINK.sub("", row[1]).strip() == "", row
        for path, name in found:
            source = (PAGE.parent / path).read_text(encoding="utf-8")
            assert re.search(rf"def {name}\(", source), f"{path} has no {name}"
