"""`python -m benchmarks.peers.several N MODULE ARGUMENT …`: N processes of `python -m MODULE ARGUMENT …`.

For contenders whose command starts one process. Whoever ends this one ends its whole group.
"""

from __future__ import annotations

import subprocess
import sys

__all__ = ["main"]


def main(count: str, *command: str) -> int:
    """Start them and wait for them; return the worst of their exit codes."""
    processes = [subprocess.Popen([sys.executable, "-m", *command]) for _ in range(int(count))]
    return max(abs(process.wait()) for process in processes)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
