"""What the pytest plugin's fixtures are made of. It works with any other test runner, too, and does not import pytest.

The fixtures themselves are in `pytest_celeriac`, a module beside this package: pytest imports it in each test run, also
for projects that only have Celeriac installed, and importing any module of `celeriac` imports all of that.
"""

from celeriac.contrib.pytest.clock import VirtualClock
from celeriac.contrib.pytest.isolation import isolated
from celeriac.contrib.pytest.sent import SentTask, SentTasks, recording
from celeriac.contrib.pytest.worker_process import WorkerProcess, running_process

__all__ = ["SentTask", "SentTasks", "VirtualClock", "WorkerProcess", "isolated", "recording", "running_process"]
