"""Commands and the dashboard, where a server does not tell how many messages a queue holds."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from celeriac import Celeriac
from celeriac.dashboard.templating import ENVIRONMENT
from celeriac.ports.operations import QueueCounts
from tests.activemq_server import ActiveMQServer
from tests.commands import command, patient
from tests.patience import PATIENCE
from tests.rabbitmq_server import RabbitServer

SHOWN = 400  # messages that ActiveMQ shows of a queue, unless it is set up to show more


def app_on(url: str) -> Celeriac:
    return Celeriac("shop", broker_url=url, result_backend=None, environ={}, broker_publish_timeout=PATIENCE)


@pytest.fixture
def on_rabbitmq(rabbit: RabbitServer) -> Iterator[Celeriac]:
    vhost = rabbit.vhost()
    app = app_on(rabbit.stomp_url(vhost))
    yield app
    app.close()
    rabbit.drop(vhost)


@pytest.fixture
def on_activemq(activemq: ActiveMQServer) -> Iterator[Celeriac]:
    app = app_on(activemq.url(credentials="me:se%3Acret@", port=activemq.bare_port))
    yield app
    command(app, "purge", "default", "--yes")
    app.close()


def test_what_rabbitmq_does_not_count_by_stomp_is_a_question_mark(on_rabbitmq: Celeriac) -> None:
    id = on_rabbitmq.send_task("shop.add").id
    for arguments in (["queues"], ["status"]):
        result = command(on_rabbitmq, *patient(*arguments))
        [line] = [line for line in result.stdout.splitlines() if line.startswith("default")]
        assert line.split()[1:5] == ["?", "0", "0", "?"]
        assert result.stderr.count("does not count the messages of a queue") == 1
    [counts] = json.loads(command(on_rabbitmq, "queues", "--json").stdout)
    assert "does not count" in counts["uncounted"]
    assert "Traceback" not in command(on_rabbitmq, *patient("explain", id)).output
    assert "at least 0 in default" in command(on_rabbitmq, "purge", "default").stderr


def test_a_queue_of_activemq_has_at_least_what_is_shown_of_it(on_activemq: Celeriac) -> None:
    add = on_activemq.task(name="shop.add")(lambda: None)
    add.delay_many([()] * (SHOWN + 1))
    result = command(on_activemq, "queues")
    [line] = [line for line in result.stdout.splitlines() if line.startswith("default")]
    assert line.split()[1:5] == ["400+", "0", "0", "?"]
    assert "maxBrowsePageSize" in result.stderr


@pytest.mark.parametrize(
    ("count", "why", "shown"), [(1200, "", "1,200"), (0, "", "0"), (0, "no", "?"), (400, "no", "400+")]
)
def test_the_dashboard_shows_numbers_as_far_as_they_are_known(count: int, why: str, shown: str) -> None:
    counts = QueueCounts(queue="mail", ready=count, uncounted=why)
    assert ENVIRONMENT.from_string("{{ counts|tally(counts.ready) }}").render(counts=counts) == shown
