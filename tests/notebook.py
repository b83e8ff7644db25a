"""Runs cells as Jupyter's kernel does: an event loop runs already, and `await` needs no function around it.

Each line of stdin is a cell, as JSON; each line of stdout is what the cell has printed, the value of its last line
included, as JSON.
"""

from __future__ import annotations

import ast
import asyncio
import contextlib
import inspect
import io
import json
import os
import sys
from typing import Any


async def main() -> None:
    namespace: dict[str, Any] = {"__name__": "__main__"}
    while line := await asyncio.to_thread(sys.stdin.readline):
        with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(out):
            await run(json.loads(line), namespace)
        print(json.dumps(out.getvalue()), flush=True)


async def run(cell: str, namespace: dict[str, Any]) -> None:
    lines = ast.parse(cell).body
    for tree, mode in ((ast.Module(lines[:-1], []), "exec"), (ast.Interactive(lines[-1:]), "single")):
        code = compile(tree, "cell", mode, flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
        done = eval(code, namespace)
        if code.co_flags & inspect.CO_COROUTINE:
            await done


if __name__ == "__main__":
    sys.path[0] = os.getcwd()
    asyncio.run(main())
