"""What belongs to an app can be pickled and copied: it is found again, and never made twice."""

from __future__ import annotations

import copy
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from celeriac import Celeriac, GroupResult, group, shared_task
from celeriac.errors import DecodeError, EncodeError
from tests.patience import PATIENCE

app = Celeriac("pickled", broker_url="memory://pickled", environ={})


@app.task
def add(x: int, y: int = 1) -> int:
    return x + y


charge = app.http_task("billing.charge", "https://billing.internal/charge")


class Holder:
    """Makes apps that no module has."""

    app = Celeriac("hidden", broker_url="memory://hidden", environ={})


def kept() -> list[Any]:
    eager = add.apply((1,))
    many = add.delay_many([(1,), (2,)])
    signatures = [add.s(1).set(link=add.s()), add.s(1) | add.s(), group(add.s(1), add.s(2)) | add.s()]
    results = [add.delay(1), (add.s(1) | add.s()).delay(), group([add.s(1)]).delay(), GroupResult("whole", list(many))]
    return [app, add, charge, eager, many, *signatures, *results]


@pytest.mark.parametrize("carry", [copy.copy, copy.deepcopy, lambda item: pickle.loads(pickle.dumps(item))])
def test_what_belongs_to_an_app_is_carried(carry: Callable[[Any], Any]) -> None:
    for item in kept():
        carried = carry(item)
        if item is app or item is add:
            assert carried is item
        else:
            assert list(carried) == list(item) if hasattr(item, "ids") else carried == item
            assert getattr(carried, "app", app) is app
    assert carry(add.apply((1,))).get() == 2
    chained = (add.s(1) | add.s()).delay()
    assert carry(chained).parent == chained.parent


def test_shared_tasks_are_carried() -> None:
    @shared_task(name="shared.carried")
    def shared(x: int) -> int:
        return x

    assert repr(pickle.loads(pickle.dumps(shared))) == repr(shared)


def test_calls_are_made_by_a_pool_of_processes(tmp_path: Path) -> None:
    (tmp_path / "pooled.py").write_text(
        "import multiprocessing, sys\n"
        "from celeriac import Celeriac\n"
        "app = Celeriac('pooled')\n"
        "@app.task\n"
        "def add(x): return x + 1\n"
        "if __name__ == '__main__':\n"
        "    for method in ('fork', 'spawn'):\n"
        "        with multiprocessing.get_context(method).Pool(2) as pool:\n"
        "            results = pool.map(add.delay, [1, 2, 3])\n"
        "        assert {result.app for result in results} == {app}\n"
        "        assert all(result.exists() for result in results)\n"
    )
    ran = subprocess.run([sys.executable, "pooled.py"], cwd=tmp_path, capture_output=True, text=True, timeout=PATIENCE)
    assert ran.returncode == 0, ran.stderr


def test_an_app_that_no_module_has_is_copied_but_not_pickled() -> None:
    hidden = Holder.app.task(name="hidden")(lambda: 1)
    assert copy.deepcopy(hidden.s()) == hidden.s()
    assert copy.deepcopy(hidden) is copy.copy(hidden) is hidden
    with pytest.raises(EncodeError, match="it is not a global variable of any module"):
        pickle.dumps(hidden.delay())


def test_an_app_that_is_gone_is_missed(monkeypatch: pytest.MonkeyPatch) -> None:
    data = pickle.dumps(add)
    monkeypatch.delattr(sys.modules[__name__], "app")
    with pytest.raises(DecodeError, match="has no app named 'app'"):
        pickle.loads(data)
