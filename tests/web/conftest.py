"""One worker and one server for all tests that leave them running."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import httpx
import pytest

from tests.patience import PATIENCE
from tests.web.served import Served, check_shape, serving


class Running(NamedTuple):
    served: Served
    address: str


def worker_of(workers: httpx.Response) -> dict[str, Any]:
    """Return the worker of `running` out of all workers. Other tests leave leases of clients behind for a while."""
    (worker,) = [found for found in workers.json() if found["queues"] == ["default", "mail"]]
    return dict(worker)


@pytest.fixture(scope="session")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A folder with a worker, and a server without tokens."""
    with serving(tmp_path_factory.mktemp("shop")) as served:
        served.worker("-Q", "default,mail")
        yield Running(served, served.web()[1])


@pytest.fixture(scope="session")
def guarded(running: Running, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """Another server for the same queues, with tokens."""
    folder = tmp_path_factory.mktemp("guarded")
    url = f"sqlite:///{running.served.folder}/celeriac.db"
    with serving(folder, broker_url=url, web_token_file=str(folder / "tokens")) as served:
        served.run("web", "token", "add", "first", "--scope", "viewer")
        yield Running(served, served.web()[1])


@pytest.fixture
def client(running: Running) -> Iterator[httpx.Client]:
    """A client of the server without tokens. It checks that answers have the form that is declared."""
    with httpx.Client(base_url=running.address, timeout=PATIENCE, trust_env=False,
                      event_hooks={"response": [check_shape]}) as made:  # fmt: skip
        yield made
