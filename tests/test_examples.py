"""The examples run, each with the one command that its docstring tells, against a real worker."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.environment import without_settings
from tests.patience import PATIENCE

ROOT = Path(__file__).parent.parent
EXAMPLES = ROOT / "examples"

PRINTED = {
    "hello": "hello world, the answer is 42",
    "word_count": r"[\d,]{6,} words in \d+ files; the most frequent:(\n +[\d,]+ \w+){5}",
    "retries": r"""retries.fetch SUCCESS at attempt 3: an answer to attempt 3
retries.wait_for_report SUCCESS at attempt 6: the report was there after 5 polls
retries.fetch FAILURE at attempt 4: no answer to attempt 4
retries.charge FAILURE at attempt 3: the bank did not take 12 EUR""",
    "crawler": r"3 pages known, 2 to fetch(\n.+)+\nAll 40 pages were fetched\.",
    "pipeline": r"""\(pipeline.crawl\(\) \| pipeline.fan_out\(\) \| pipeline.report\(\)\)
52 words; the most frequent: the, and, a
crawl: SUCCESS
fan_out: SUCCESS
report: SUCCESS""",
    "group_progress": r"60 of 60 have ended, 6 failed: picture \d+ is out of focus …\npicture 0 … picture 59",
    "dead_letters": r"""WorkerLost: .*: killed by SIGSEGV, 3 times\. .*
other tasks still run: 4
dead letter: dead_letters.convert, killed by SIGSEGV, 3 times
resent: 1
after the fix: converted""",
}
"""What each example prints to stdout, as a regular expression."""


def test_no_example_is_left_out() -> None:
    found = {path.stem for path in EXAMPLES.glob("*.py")} - {"running"}
    assert found == set(PRINTED)
    listed = set(re.findall(r"`python examples/(\w+)\.py`", (EXAMPLES / "README.md").read_text(encoding="utf-8")))
    assert listed == found


PAGES = {"adapters": "adapter", "django-shop": "django_shop", "fastapi": "web_fastapi", "flask": "web_flask",
         "http-tasks": "http_tasks", "scripts-and-notebooks": "notebook", "status-page": "status_page"}  # fmt: skip
"""The pages in docs/howto, which `test_docs.py` follows, of the examples that are folders."""

LINKED = {"http-workers": "javascript_worker"}
"""The pages of those that are too long to be shown."""

SOURCES = {".py", ".html", ".ipynb", ".mjs", ".sh"}


def test_every_folder_has_a_page() -> None:
    assert {path.parent.name for path in EXAMPLES.glob("*/*") if path.suffix in SOURCES} == {
        *PAGES.values(), *LINKED.values()
    }  # fmt: skip
    for page, folder in LINKED.items():
        assert f"(../../examples/{folder})" in (ROOT / "docs" / "howto" / f"{page}.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("page", sorted(PAGES.keys() - {"adapters"}))
def test_an_example_is_what_its_page_shows(page: str) -> None:
    text = (ROOT / "docs" / "howto" / f"{page}.md").read_text(encoding="utf-8")
    folder = EXAMPLES / PAGES[page]
    files = [path for path in folder.rglob("*") if path.suffix in SOURCES]
    assert files
    for path in files:
        content = path.read_text(encoding="utf-8")
        if path.suffix == ".ipynb":
            assert re.findall(r"\n# In \[\d+\]\n(.*?)\n```\n", text, re.DOTALL) == list(cells(content))
        else:
            name = path.relative_to(folder)
            first = {".html": f"<!-- {name} -->", ".mjs": f"// {name}"}.get(path.suffix, f"# {name}")
            assert f"\n{first}\n{content}```\n" in text, f"{page}.md does not show {path.name} as it is"


def cells(notebook: str) -> Iterator[str]:
    for cell in json.loads(notebook)["cells"]:
        if cell["cell_type"] == "code":
            yield "".join(cell["source"])


@pytest.mark.parametrize("name", PRINTED)
def test_an_example_runs_with_the_command_that_it_tells(name: str) -> None:
    before = set(EXAMPLES.iterdir())
    docstring = ast.get_docstring(ast.parse((EXAMPLES / f"{name}.py").read_text(encoding="utf-8"))) or ""
    python, script = docstring.splitlines()[-1].split()
    assert (python, script) == ("python", f"examples/{name}.py")
    environment = {**without_settings(), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run([sys.executable, script], cwd=ROOT, env=environment,
                          timeout=PATIENCE, capture_output=True, text=True, check=False)  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert re.fullmatch(PRINTED[name], done.stdout.strip()), done.stdout + done.stderr
    assert set(EXAMPLES.iterdir()) == before, "it left something behind"
