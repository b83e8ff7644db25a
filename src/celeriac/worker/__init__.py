"""The worker: one supervisor process, and the pool of children that it supervises.

`options.py` has what a worker is told, `supervisor.py` its life from start to stop.
"""

from celeriac.worker.options import WorkerOptions
from celeriac.worker.supervisor import run_worker

__all__ = ["WorkerOptions", "run_worker"]
