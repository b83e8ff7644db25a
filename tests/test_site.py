"""The documentation's site is built from pages without faults, and what a reader would stumble over is named."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from tools.site import OWN_SHIM, build

ROOT = Path(__file__).parent.parent

CONFIGURATION = """
[project]
site_name = "Shop"
docs_dir = "build/pages"
site_dir = "build/site"
nav = [{ "Shop" = "index.md" }, { "How to" = "howto/*" }, { "Changes" = "CHANGELOG.md" }]
[project.theme]
font = false
[project.plugins.literate-nav]
[project.plugins.offline]
"""

INDEX = """\
# Shop

See [how to buy](howto/buy.md#by-card), the [changes](../CHANGELOG.md) and an [example](../examples).

```md
In a block of code, [this](nowhere.md) is no link.
```
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    files = {
        "zensical.toml": CONFIGURATION,
        "docs/index.md": INDEX,
        "docs/howto/buy.md": "# How to buy\n\n## By card\n\n[Home](../index.md)\n",
        "CHANGELOG.md": "# Changes\n\nRead [how to buy](docs/howto/buy.md).\n",
        "examples/buy.py": 'print("bought")\n',
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text, encoding="utf-8")
    shim = tmp_path / "docs" / OWN_SHIM
    shim.parent.mkdir()
    shutil.copyfile(ROOT / "docs" / OWN_SHIM, shim)
    return tmp_path


def append(page: Path, text: str) -> None:
    page.write_text(f"{page.read_text(encoding='utf-8')}\n{text}\n", encoding="utf-8")


def test_files_outside_of_the_docs_that_pages_link_to_become_pages(project: Path) -> None:
    assert build(project) == []
    site = project / "build/site"
    assert 'href="examples/index.html"' in (site / "index.html").read_text(encoding="utf-8")
    assert 'href="buy.py.html"' in (site / "examples/index.html").read_text(encoding="utf-8")
    assert "bought" in (site / "examples/buy.py.html").read_text(encoding="utf-8")
    assert 'href="howto/buy.html"' in (site / "CHANGELOG.html").read_text(encoding="utf-8")


def test_the_search_of_a_page_from_disk_needs_no_other_server(project: Path) -> None:
    assert build(project) == []
    for name, shim in (("index.html", OWN_SHIM), ("howto/buy.html", f"../{OWN_SHIM}")):
        assert f'src="{shim}"' in (project / "build/site" / name).read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("page", "text", "fault"),
    [
        ("docs/index.md", "[gone](gone.md)", "page does not exist"),
        ("docs/index.md", "[gone](howto/buy.md#by-cheque)", "anchor does not exist"),
        ("docs/index.md", "[gone](gone.txt)", "index.html: links to gone.txt, which does not exist"),
        ("CHANGELOG.md", "[gone](docs/howto/buy.md#by-cheque)", "anchor does not exist"),
        ("docs/howto/buy.md", "![a](https://pictures.test/a.png)",
         "howto/buy.html: loads https://pictures.test/a.png from another server"),
    ],
)  # fmt: skip
def test_what_leads_nowhere_or_to_another_server_is_a_fault(project: Path, page: str, text: str, fault: str) -> None:
    append(project / page, text)
    (found,) = build(project)
    assert fault in found


def test_a_page_without_a_place_in_the_navigation_is_a_fault(project: Path) -> None:
    (project / "docs/left-out.md").write_text("# Left out\n", encoding="utf-8")
    assert build(project) == ["docs/left-out.md: not in the navigation (zensical.toml)"]


def test_a_place_in_the_navigation_without_a_page_is_a_fault(project: Path) -> None:
    configuration = project / "zensical.toml"
    configuration.write_text(CONFIGURATION.replace('"index.md" }', '"index.md" }, { "Gone" = "gone.md" }'), "utf-8")
    assert build(project) == ["zensical.toml: the navigation has gone.md, which does not exist"]
