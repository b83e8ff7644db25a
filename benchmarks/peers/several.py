"""`python -m benchmarks.peers.several N MODULE ARGUMENT …` runs N processes of `python -m MODULE ARGUMENT …`.

For contenders whose command starts only one process. To end them, kill the process group.
"""

from __future__ import annotations

import subprocess
import sys

__all__ = ["main"]


def main(count: str, *command: str) -> int:
    """Start the processes and wait for them; return their highest exit code."""
    processes = [subprocess.Popen([sys.executable, "-m", *command]) for _ in range(int(count))]
    return max(abs(process.wait()) for process in processes)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
