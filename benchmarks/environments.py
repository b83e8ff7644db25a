"""Separate environments, for contenders that cannot share one with the others, or that only `clients` needs.

`python -m benchmarks.environments` creates the missing ones in `.venv/peers/`. arq requires redis-py below 6, SAQ
below 8, taskiq-redis 8: each is measured with a version that its authors allow. Flower is measured with the Celery and
Tornado that it chooses. aiormq and AMQPStorm are client
libraries (`benchmarks.clients`) that no task queue here uses. `stage` and `clients` ask
for a contender's interpreter.
"""

from __future__ import annotations

import subprocess
import sys
import venv
from pathlib import Path

__all__ = ["FOLDER", "REQUIREMENTS", "interpreter", "main"]

FOLDER = Path(__file__).resolve().parent.parent / ".venv" / "peers"
REQUIREMENTS = {
    "aiormq_client": ("aiormq>=6.8", "uvloop>=0.19"),
    "amqpstorm_client": ("amqpstorm>=2.11",),
    "arq_redis": ("arq>=0.26", "uvloop>=0.19"),
    "flower_redis": ("flower>=2.0", "celery[redis]>=5.4", "hiredis"),
    # It also needs typing-extensions, but does not declare it.
    "saq_redis": ("saq[redis,hiredis]>=0.24", "typing-extensions", "uvloop>=0.19"),
}
"""By contender: the packages to install with pip."""


def interpreter(contender: str) -> str:
    """Return the Python interpreter for a contender: its own if it has one, otherwise this one."""
    own = FOLDER / contender / "bin" / "python"
    return str(own) if contender in REQUIREMENTS and own.exists() else sys.executable


def main() -> int:
    """Create missing environments, and install the packages."""
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
