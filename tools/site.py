"""Build the documentation's site and check it: `python tools/site.py` (`make site`).

    docs/, and the files that its pages link to   →   build/pages   →  zensical  →   build/site

The pages are written for GitHub as well, where a link may lead to any file of the repository: an example, a test that
proves a promise, the changelog. On the site each of these becomes a page of its own, below its path in the repository.

Anything a reader would stumble over is an error: a page without a place in the navigation, a place without a page, a
link or an anchor that leads nowhere, and anything that the browser would load from another server.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path, PurePosixPath
from urllib.parse import unquote, urlsplit

import click

__all__ = ["build"]

ROOT = Path(__file__).parents[1]
SHIM = "https://unpkg.com/iframe-worker/shim"  # zensical loads it for the search of pages opened from disk
OWN_SHIM = "assets/search-from-disk.js"
LANGUAGES = {
    ".html": "html", ".ipynb": "json", ".py": "python", ".toml": "toml", ".yaml": "yaml", "Dockerfile": "docker"
}  # fmt: skip
FENCED = re.compile(r"^(```.*?^```)$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r'(\]\()([^)\s]+)((?: "[^"]*")?\))')
SOURCE = """\
---
search:
  exclude: true
---

# {path}

{fence}{language}
{text}{fence}
"""


def build(root: Path) -> list[str]:
    """Build `build/site` below `root`; return what is wrong with it, one line each."""
    pages = root / "build" / "pages"
    for folder in (pages, root / "build" / "site"):
        shutil.rmtree(folder, ignore_errors=True)
    written = Writer(root, pages)
    written.write_all()
    if faults := list(_navigation_faults(root, written)):
        return faults
    command = [sys.executable, "-m", "zensical", "build", "--clean", "--strict"]
    built = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    if built.returncode != 0:
        return ["zensical: " + (built.stdout + built.stderr).strip()]
    site = root / "build" / "site"
    _load_own_shim(site)
    return list(_faults_of_site(site))


# --- From the repository to pages ---------------------------------------------------------------------


class Writer:
    """Writes the pages: those of `docs/`, then whatever they link to, then whatever these link to.

    A page of a file of source shows it, and that of a folder without a README lists its files.
    """

    def __init__(self, root: Path, pages: Path) -> None:
        self.root = root
        self.docs = root / "docs"
        self.pages = pages
        self.linked: list[Path] = []
        """Files outside of `docs/` that pages link to, in order of the first link."""

    def write_all(self) -> None:
        for file in sorted(path for path in self.docs.rglob("*") if path.is_file() and path.suffix != ".py"):
            self.write(file)
        for file in self.linked:  # which grows meanwhile
            self.write(file)

    def write(self, file: Path) -> None:
        page = self.pages / self.page_of(file)
        page.parent.mkdir(parents=True, exist_ok=True)
        if file.is_dir():
            names = sorted(path.name for path in file.iterdir() if path.is_file())
            text = f"# {file.relative_to(self.root)}\n\n" + "".join(f"- [{name}]({name})\n" for name in names)
            page.write_text(self._turned(text, file / "README.md"), encoding="utf-8")
        elif file.suffix == ".md":
            page.write_text(self._turned(file.read_text(encoding="utf-8"), file), encoding="utf-8")
        elif file in self.linked and (language := _language(file)):
            text = file.read_text(encoding="utf-8")
            shown = SOURCE.format(path=file.relative_to(self.root), fence="````", language=language, text=text)
            page.write_text(shown, encoding="utf-8")
        else:
            shutil.copyfile(file, page)

    def page_of(self, file: Path) -> PurePosixPath:
        """Return where a file's page is, from the folder of all pages."""
        path = PurePosixPath(file.relative_to(self.docs if file.is_relative_to(self.docs) else self.root).as_posix())
        if file.is_dir():
            return path / "README.md"
        return path.with_name(f"{path.name}.md") if file in self.linked and _language(file) else path

    def _turned(self, text: str, file: Path) -> str:
        """Return the text of a page, its links turned to the pages of what they name."""

        def turn(link: re.Match[str]) -> str:
            path, hash_, anchor = link[2].partition("#")
            target = (file.parent / path).resolve()
            if urlsplit(path).scheme or not path or not target.exists():
                return link[0]  # zensical reports those that lead nowhere
            if (target / "README.md").exists():
                target = target / "README.md"
            if not target.is_relative_to(self.docs) and target not in self.linked:
                self.linked.append(target)
            to = os.path.relpath(self.page_of(target), self.page_of(file).parent)
            return f"{link[1]}{to}{hash_}{anchor}{link[3]}"

        parts = FENCED.split(text)
        return "".join(part if part.startswith("```") else LINK.sub(turn, part) for part in parts)


def _language(file: Path) -> str | None:
    return LANGUAGES.get(file.suffix) or LANGUAGES.get(file.name)


def _navigation_faults(root: Path, written: Writer) -> Iterator[str]:
    """Yield pages of `docs/` that the navigation lacks, and its entries that have no page."""
    nav = tomllib.loads((root / "zensical.toml").read_text(encoding="utf-8"))["project"]["nav"]
    placed: set[Path] = set()
    for entry in _entries(nav):
        found = set(written.pages.glob(entry))
        if not found:
            yield f"zensical.toml: the navigation has {entry}, which does not exist"
        placed |= found
    for page in sorted(written.docs.rglob("*.md")):
        if written.pages / written.page_of(page) not in placed:
            yield f"docs/{page.relative_to(written.docs)}: not in the navigation (zensical.toml)"


def _entries(nav: object) -> Iterator[str]:
    if isinstance(nav, str):
        yield nav
    elif isinstance(nav, list):
        for entry in nav:
            yield from _entries(entry)
    elif isinstance(nav, dict):
        for entry in nav.values():
            yield from _entries(entry)


def _load_own_shim(site: Path) -> None:
    for page in site.rglob("*.html"):
        own = os.path.relpath(site / OWN_SHIM, page.parent)
        page.write_text(page.read_text(encoding="utf-8").replace(SHIM, own), encoding="utf-8")


# --- The site as a browser sees it --------------------------------------------------------------------


class Page(HTMLParser):
    """The links, the anchors and the loaded resources of one page."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.links: list[str] = []
        self.loads: list[str] = []
        self.anchors: set[str] = set()
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        values = {name: value for name, value in attributes if value}
        self.anchors |= {values[name] for name in ("id", "name") if name in values}
        if tag == "a" and "href" in values:
            self.links.append(values["href"])
        elif tag == "link" and values.get("rel") not in ("canonical", "next", "prev") and "href" in values:
            self.loads.append(values["href"])
        elif "src" in values:
            self.loads.append(values["src"])


def _faults_of_site(site: Path) -> Iterator[str]:
    """Yield links and anchors that lead nowhere, and resources of other servers."""
    pages = {path: Page(path) for path in sorted(site.rglob("*.html"))}
    for path, page in pages.items():
        name = path.relative_to(site)
        yield from (f"{name}: loads {url} from another server" for url in page.loads if urlsplit(url).netloc)
        if path.name == "404.html":  # is shown at any address: its links begin at the root of the site
            continue
        for url in [*page.links, *page.loads]:
            parts = urlsplit(url)
            if parts.scheme or parts.netloc:
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            target = target / "index.html" if target.is_dir() else target
            anchor = unquote(parts.fragment)
            if not target.is_file():
                yield f"{name}: links to {url}, which does not exist"
            elif anchor and target in pages and anchor not in pages[target].anchors:
                yield f"{name}: links to {url}, which has no such heading"
    for style in site.rglob("*.css"):
        for url in re.findall(r"url\(\s*['\"]?(?:https?:)?//[^)]*\)", style.read_text(encoding="utf-8")):
            yield f"{style.relative_to(site)}: loads {url} from another server"


if __name__ == "__main__":
    found = build(ROOT)
    for fault in found:
        click.echo(fault, err=True)
    if found:
        sys.exit(f"{len(found)} faults in the documentation's site.")
    click.echo("The site is in build/site: open build/site/index.html.")
