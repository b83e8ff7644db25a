"""Environments of their own, for peers that do not allow the client library that the others want.

`python -m benchmarks.environments` makes those that are not there, in `.venv/peers/`. arq wants redis-py below 6, SAQ
below 8, taskiq-redis 8: each is measured with what its authors allow. `stage` asks for the interpreter of a contender.
"""

from __future__ import annotations

import subprocess
import sys
import venv
from pathlib import Path

__all__ = ["REQUIREMENTS", "interpreter", "main"]

FOLDER = Path(__file__).resolve().parent.parent / ".venv" / "peers"
REQUIREMENTS = {
    "arq_redis": ("arq>=0.26", "uvloop>=0.19"),
    # It needs typing-extensions, too, and does not say so.
    "saq_redis": ("saq[redis,hiredis]>=0.24", "typing-extensions", "uvloop>=0.19"),
}
"""By contender: what pip installs for it."""


def interpreter(contender: str) -> str:
    """Return the Python that runs a contender: its own, if it has one."""
    own = FOLDER / contender / "bin" / "python"
    return str(own) if contender in REQUIREMENTS and own.exists() else sys.executable


def main() -> int:
    """Make what is missing."""
    for contender, requirements in REQUIREMENTS.items():
        folder = FOLDER / contender
        python = folder / "bin" / "python"
        if not python.exists():
            print(f"{contender}: {', '.join(requirements)} into {folder}")
            venv.create(folder, with_pip=True)
        command = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *requirements]
        if subprocess.run(command, check=False).returncode:
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
