"""What the HTTP API is made of is imported only by those who serve it."""

from __future__ import annotations

import subprocess
import sys

from tests.environment import without_settings

WITHOUT = """
import sys
class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("jinja2", "starlette", "uvicorn"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Missing())
"""


def run(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=without_settings())


def test_nothing_else_needs_the_extra() -> None:
    done = run(f"{WITHOUT}import celeriac, celeriac.cli.web, celeriac.cli.worker, celeriac.documents, celeriac.testing")
    assert done.returncode == 0, done.stderr


def test_without_it_the_command_names_it() -> None:
    app = "import types, celeriac; sys.modules['shop'] = types.SimpleNamespace(app=celeriac.Celeriac('shop'))"
    for command in ("['web']", "['web', 'token', 'list']"):
        done = run(f"{WITHOUT}{app}\nfrom celeriac.cli import main\nmain(['-A', 'shop', *{command}])")
        assert (done.returncode, "pip install 'celeriac[web]'" in done.stderr) == (2, True), done.stderr


def test_metrics_name_their_own_extra() -> None:
    done = run(f"""{WITHOUT.replace('"jinja2", "starlette", "uvicorn"', '"prometheus_client",')}
import asyncio, celeriac, httpx
from celeriac.web import api
async def ask():
    transport = httpx.ASGITransport(api(celeriac.Celeriac("shop", broker_url="memory://")))
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
        print((await client.get("/livez")).status_code, (await client.get("/metrics")).text)
asyncio.run(ask())
""")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("200 ")
    assert "pip install 'celeriac[prometheus]'" in done.stdout
    assert "urn:celeriac:problem:misconfigured" in done.stdout


def test_help_needs_no_extra() -> None:
    done = run(f"{WITHOUT}from celeriac.cli import main\nmain(['web', '--help'])")
    assert (done.returncode, "Serve the dashboard and the HTTP API" in done.stdout) == (0, True), done.stderr
