"""The pages are true: a reader who does what they say sees what they show.

How a page is read (`Reader`):

- a block of code whose first line is `# name.py` (or `.toml`), or `<!-- name.html -->`, is written to that file, in a
  folder of the page's own;
- in a ```console block each `$ command` is run there, and must print what stands below it. `…` stands for any text,
  a run of spaces for any other. `$ echo $?` shows the exit code of the command before it; without one that code is 0;
- `$ celeriac … worker …` goes to the background, and what stands below it is how its output begins. It is stopped by
  the next one, or at the end of the page, and must then exit with 0. So does a scheduler, `$ celeriac … beat …`, and a
  web server, `$ uvicorn …`, `$ flask … run` or `$ celeriac … web`. It takes a free port, which stands in for the one
  that the page shows;
- a ```python block whose first line is `# In [n]` is a cell of a notebook, which prints the ```text block after it;
- other ```python blocks must compile, and ```sh blocks are for other machines than this.
"""

from __future__ import annotations

import ast
import functools
import importlib.util
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from celeriac import signals, states
from celeriac.config.celery_settings import NOT_NEEDED
from celeriac.config.definitions import DEFINITIONS
from celeriac.model.failure import Failure
from celeriac.model.options import CALL_OPTIONS, TASK_OPTIONS
from celeriac.model.outcome import Outcome
from tests.patience import PATIENCE, wait_for

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted(DOCS.rglob("*.md"))]
READ = [ROOT / "README.md", DOCS / "index.md", DOCS / "tutorial.md", DOCS / "backends" / "sql.md",
        *sorted((DOCS / "howto").glob("*.md"))]  # fmt: skip
"""Pages that are followed here. Those of servers are followed by the tests of the server: `test_mongodb.py` …"""

READY = "is ready. Ctrl-C stops it."
FILE = re.compile(r"(?:# |<!-- )([\w./-]+\.(?:py|toml|html))(?: -->)?\n")
ANYTHING = r"(?:.|\n)*?"
CELL = re.compile(r"# In \[\d+\]\n")
SERVING = re.compile(r"[Rr]unning on (http://[\w.:]+).*\n")
SHOWN = re.compile(r"http://127\.0\.0\.1:[58]000")  # the addresses that pages show

WITHOUT = " ".join(f"-p no:{name}" for name in ("anyio", "hypothesispytest", "randomly", "schemathesis", "xdist"))
"""Options for a pytest that a page runs: without the plugins of ours that take a second to import."""

WORKER, SCHEDULER, SERVER = "a worker", "a scheduler", "a web server"
LOGS = {WORKER: "worker.log", SCHEDULER: "scheduler.log", SERVER: "server.log"}  # pages may send the same text there
BACKGROUND = {
    WORKER: (re.compile(r"celeriac\b.*\bworker\b"), signal.SIGTERM),
    SCHEDULER: (re.compile(r"celeriac\b.*\bbeat\b"), signal.SIGTERM),
    SERVER: (re.compile(r"uvicorn\b|flask\b.*\brun\b|celeriac\b.*\bweb$"), signal.SIGINT),
}
"""What goes to the background: how it is recognised, and the signal that stops it."""


class Block(NamedTuple):
    """A fenced block of a page."""

    page: Path
    line: int  # of its first line of text
    language: str
    text: str

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def blocks(page: Path) -> Iterator[Block]:
    text = page.read_text(encoding="utf-8")
    for found in re.finditer(r"^```(\w*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
        yield Block(page, text.count("\n", 0, found.start(2)) + 1, found[1], found[2])


def names(paths: list[Path]) -> list[str]:
    return [str(path.relative_to(ROOT)) for path in paths]


# --- What pages tell to do ----------------------------------------------------------------------------


class Reader:
    """A reader who follows one page, in an empty folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.code = 0  # the exit code of the last command
        self.running: dict[str, subprocess.Popen[bytes]] = {}  # in the background
        self.address = ""  # of the web server
        self.kernel: subprocess.Popen[str] | None = None  # of the notebook
        self.printed = ""  # by the last cell
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("CELERIAC_", "PYTEST_"))}
        path = os.pathsep.join([str(Path(sys.executable).parent), kept.get("PATH", "")])
        self.environment = {**kept, "PATH": path, "COLUMNS": "120", "TERM": "dumb", "PYTHONUNBUFFERED": "1",
                            "UVICORN_PORT": "0", "FLASK_RUN_PORT": "0", "CELERIAC_WEB_PORT": "0",
                            "no_proxy": "127.0.0.1", "PYTEST_ADDOPTS": WITHOUT}  # fmt: skip

    def read(self, block: Block) -> None:
        name = FILE.match(block.text)
        if name is not None:
            path = self.folder / name[1]
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(block.text, encoding="utf-8")
        if block.language == "console":
            for command, expected in commands(block):
                self.run(block, command, expected)
        elif CELL.match(block.text) is not None:
            self.printed = self.cell(block.text)
        elif block.language == "text" and self.printed:
            check(block, "the cell", self.printed, block.text)
            self.printed = ""

    def run(self, block: Block, command: str, expected: str) -> None:
        if command == "echo $?":
            printed, self.code = f"{self.code}\n", 0
        else:
            assert self.code == 0, f"{block}: the command before {command!r} has failed with {self.code}"
            kind = next((kind for kind, (called, _) in BACKGROUND.items() if called.match(command)), None)
            printed = self.do(self.here(command)) if kind is None else self.start(kind, command)
        check(block, f"`{command}`", printed, self.here(expected))

    def here(self, text: str) -> str:
        """Return text with the address of the web server instead of the one that the page shows."""
        return SHOWN.sub(self.address, text) if self.address else text

    def do(self, command: str) -> str:
        done = subprocess.run(["bash", "-c", command], cwd=self.folder, env=self.environment, timeout=PATIENCE,
                              stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)  # fmt: skip
        self.code = done.returncode
        return done.stdout.decode()

    def start(self, kind: str, command: str) -> str:
        """Start a worker, a scheduler or a web server; return what it has printed when it is ready, or has given up."""
        self.stop(kind)
        log = self.folder / LOGS[kind]
        with log.open("wb") as file:
            process = subprocess.Popen(["bash", "-c", f"exec {command}"], cwd=self.folder, env=self.environment,
                                       stdin=subprocess.DEVNULL, stdout=file, stderr=file)  # fmt: skip
        self.running[kind] = process
        is_up = SERVING.search if kind == SERVER else ready
        wait_for(lambda: process.poll() is not None or is_up(log.read_text()), f"{kind} that is ready (`{command}`)")
        if process.poll() is not None:
            self.code = self.running.pop(kind).returncode
        elif (serving := SERVING.search(log.read_text())) is not None:
            self.address = serving[1]
        return log.read_text()

    def cell(self, text: str) -> str:
        """Run a cell of a notebook; return what it prints."""
        if self.kernel is None:
            self.kernel = subprocess.Popen([sys.executable, ROOT / "tests" / "notebook.py"], cwd=self.folder,
                                           env=self.environment, text=True,
                                           stdin=subprocess.PIPE, stdout=subprocess.PIPE)  # fmt: skip
        assert self.kernel.stdin is not None
        assert self.kernel.stdout is not None
        self.kernel.stdin.write(json.dumps(text) + "\n")
        self.kernel.stdin.flush()
        return str(json.loads(self.kernel.stdout.readline()))

    def stop(self, kind: str) -> None:
        if (process := self.running.get(kind)) is not None:
            process.send_signal(BACKGROUND[kind][1])
            code = process.wait(PATIENCE)
            del self.running[kind]
            assert code == 0, (self.folder / LOGS[kind]).read_text()

    def leave(self) -> None:
        """End what is left of a page that was not read to its end, and the notebook."""
        for process in (*self.running.values(), *([self.kernel] if self.kernel is not None else [])):
            process.kill()
            process.communicate()


def check(block: Block, what: str, printed: str, expected: str) -> None:
    as_shown = re.fullmatch(pattern(expected), plain(printed)) is not None
    assert as_shown, f"{block}: {what} printed\n{printed}\nand not\n{expected}"


def commands(block: Block) -> Iterator[tuple[str, str]]:
    """Yield the commands of a console block, and what each is shown to print."""
    for part in re.split(r"^\$ ", block.text, flags=re.MULTILINE)[1:]:
        command, _, expected = part.partition("\n")
        while command.endswith("\\"):
            more, _, expected = expected.partition("\n")
            command = f"{command[:-1]}{more.lstrip()}"
        yield command, expected


def ready(text: str) -> bool:
    """Say whether a worker or a scheduler has written its banner to the end."""
    banner = text.partition(READY)[2]
    return re.search(r"\n  (processes|threads|solo|next) .*\n", banner) is not None


def plain(text: str) -> str:
    return "\n".join(re.sub(r"\s+", " ", line).strip() for line in text.strip().splitlines() if line.strip())


def pattern(expected: str) -> str:
    text = plain(expected)
    begun = text.removesuffix("\n…")  # more lines, or none: what goes on may not have written them yet
    return re.escape(begun).replace("…", ANYTHING) + (f"(?:\n{ANYTHING})?" if begun != text else "")


@pytest.mark.parametrize("name", names(READ))
def test_what_a_page_says_can_be_done(name: str, tmp_path: Path) -> None:
    reader = Reader(tmp_path)
    try:
        for block in blocks(ROOT / name):
            reader.read(block)
        assert (reader.code, reader.printed) == (0, "")
        for kind in (SERVER, WORKER):
            reader.stop(kind)
    finally:
        reader.leave()


# --- What pages say -----------------------------------------------------------------------------------


def test_every_python_block_compiles() -> None:
    for block in (block for page in PAGES for block in blocks(page)):
        if block.language == "python":
            compile(block.text, str(block), "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)


CODE = re.compile(r"`([\w/]+\.py)(?:: ([\w.]+))?`")


def test_internals_names_only_files_and_names_that_exist() -> None:
    sources = {str(path.relative_to(ROOT / "src/celeriac")): path for path in (ROOT / "src/celeriac").rglob("*.py")}
    others = {path.name for path in (ROOT / "tests").rglob("*.py")}
    found = CODE.findall((DOCS / "internals.md").read_text(encoding="utf-8"))
    assert len(found) > 60
    for file, name in found:
        paths = [path for known, path in sources.items() if f"/{known}".endswith(f"/{file}")]
        assert paths or Path(file).name in others, file
        if name:
            defined = {found for path in paths for found in _definitions(path)}
            assert name in defined, f"{file}: {name}"


def _definitions(path: Path) -> Iterator[str]:
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield node.name
        if isinstance(node, ast.ClassDef):
            yield from (f"{node.name}.{inner.name}" for inner in node.body
                        if isinstance(inner, ast.FunctionDef | ast.AsyncFunctionDef))  # fmt: skip


def test_every_link_leads_somewhere() -> None:
    faults = []
    for page in PAGES:
        name = page.relative_to(ROOT)
        text = re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
        for target in re.findall(r"\]\(([^)\s]+)\)", text):
            if re.match(r"[a-z]+:", target):
                continue
            path, _, anchor = target.partition("#")
            to = (page.parent / path).resolve() if path else page
            if not to.exists():
                faults.append(f"{name} links to {target}, which is not there")
            elif anchor and anchor not in anchors(to):
                faults.append(f"{name} links to {target}, and {to.name} has no such heading")
    assert not faults, "\n".join(faults)


@functools.cache
def anchors(page: Path) -> set[str]:
    """Return the anchors that GitHub makes of a page's headings."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_every_setting_that_a_page_names_exists() -> None:
    columns = {"task_id", "task_name", "task_args", "task_kwargs"}
    known = {*DEFINITIONS, *NOT_NEEDED, *columns, *signals.__all__, *signals.NOT_SENT}
    faults = []
    for page in [*READ, *sorted((DOCS / "reference").glob("*.md"))]:
        if page.name == "from-celery.md":
            continue  # it names Celery's too
        text = page.read_text(encoding="utf-8")
        named = set(re.findall(r"`((?:broker|task|result|worker|message|sqlite)_[a-z_]+)(?:=[^`]*)?`", text))
        faults += [f"{page.relative_to(ROOT)} names {name}, which is no setting" for name in sorted(named - known)]
    assert not faults, "\n".join(faults)


def table(page: str, heading: str) -> set[str]:
    """Return what stands in the first column of the table below a heading."""
    text = (DOCS / page).read_text(encoding="utf-8").partition(f"## {heading}\n")[2].partition("\n## ")[0]
    return set(re.findall(r"^\| `(\w+)` ", text, re.MULTILINE))


def test_the_options_page_has_every_option() -> None:
    assert table("reference/options.md", "Task options") == {*TASK_OPTIONS, "name", "bind", "base"}
    assert table("reference/options.md", "Call options") == {*CALL_OPTIONS, "args", "kwargs"}


def test_the_states_page_has_every_state() -> None:
    assert table("reference/states.md", "States") == {*states.__all__} - {"READY_STATES"}


def test_the_outcome_page_has_every_field() -> None:
    page = (DOCS / "reference/outcome.md").read_text(encoding="utf-8")
    before, _, after = page.partition("\n## Failures\n")
    for struct, text in ((Outcome, before), (Failure, after)):
        named = re.findall(r"^\| (`\w+`(?:, `\w+`)*) \|", text, re.MULTILINE)
        assert {name.strip("`") for cell in named for name in cell.split(", ")} == {*struct.__struct_fields__}


def test_the_generated_pages_are_up_to_date() -> None:
    spec = importlib.util.spec_from_file_location("generate", DOCS / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    generate = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(generate)
    for name, text in generate.pages().items():
        page = DOCS / "reference" / name
        assert page.read_text(encoding="utf-8") == text, f"{page.name} is out of date: run python docs/generate.py"
