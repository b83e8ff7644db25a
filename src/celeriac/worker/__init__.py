"""The worker: one supervisor process and its pool of children. `supervisor.py` has its life from start to stop."""

from celeriac.worker.options import WorkerOptions
from celeriac.worker.run import run_worker

__all__ = ["WorkerOptions", "run_worker"]
