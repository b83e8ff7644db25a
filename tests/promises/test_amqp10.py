"""The promises on AMQP 1.0: tests of the other modules, on RabbitMQ's plugin, which is killed and frozen.

One of each promise is run by `make test`, the others by `make chaos`.
"""

from __future__ import annotations

import types
from collections.abc import Callable
from typing import Any

import pytest

from tests.promises import test_p1_nothing_is_lost as p1
from tests.promises import test_p2_exactly_once as p2
from tests.promises import test_p3_taken_over_in_time as p3
from tests.promises import test_p4_poison_is_put_aside as p4
from tests.promises import test_p5_deploys_cost_nothing as p5
from tests.promises import test_p7_consuming_again as p7
from tests.promises import test_p8_calls_never_hang as p8
from tests.promises import test_p9_nothing_is_held_back as p9
from tests.promises import test_p12_refused_at_the_door as p12

GROUND = "rabbitmq+amqp10"


def here(test: Callable[..., Any], *instead: Any, at_length: bool = True) -> Callable[..., Any]:
    """Return a copy of a test that stands on this ground; `instead`: marks in the place of its parameters."""
    copy = types.FunctionType(test.__code__, test.__globals__, test.__name__, test.__defaults__, test.__closure__)
    copy.__dict__.update(test.__dict__, __module__=__name__)
    copy.__annotations__ = test.__annotations__
    marks = [mark for mark in getattr(test, "pytestmark", []) if not (instead and mark.name == "parametrize")]
    name = "ground" if "ground" in test.__annotations__ else "stage"  # tests with the first make stages themselves
    marks = [mark for mark in marks if mark.name != "parametrize" or name not in mark.args[0]]
    given = pytest.mark.parametrize(name, [GROUND], indirect=name == "stage")
    marks += [given.mark, *(one.mark for one in instead)]
    copy.pytestmark = [*marks, *([pytest.mark.at_length.mark] if at_length else [])]  # type: ignore[attr-defined]
    return copy


WORDS = pytest.mark.parametrize(("how", "words"), [("down", "cannot be reached"), ("frozen", "did not answer")])

test_p1_producer = here(p1.test_what_a_killed_producer_has_sent_is_run)
test_p1_child = here(p1.test_the_task_of_a_killed_child_runs_again)
test_p1_worker = here(
    p1.test_the_tasks_of_a_killed_worker_run_elsewhere_and_its_children_die_with_it,
    pytest.mark.parametrize("lane", ["plain"]), at_length=False,
)  # fmt: skip
test_p1_once_child = here(p1.test_at_most_once_a_killed_child_is_recorded_as_worker_lost_at_once)
test_p1_once_worker = here(
    p1.test_at_most_once_a_killed_worker_is_recorded_as_worker_lost_within_its_lease,
    pytest.mark.parametrize("lane", ["plain"]),
)  # fmt: skip
test_p2 = here(p2.test_among_many_workers_every_task_of_thousands_runs_once, at_length=False)
test_p3 = here(p3.test_a_killed_workers_tasks_start_elsewhere_within_its_lease_and_two_seconds, at_length=False)
test_p4_child = here(p4.test_a_task_that_ends_its_child_is_put_aside_after_three_deliveries)
test_p4_again = here(p4.test_a_dead_letter_can_be_sent_again_as_if_new)
test_p4_worker = here(p4.test_a_task_that_kills_its_whole_worker_is_put_aside_too)
test_p5_load = here(p5.test_sigterm_under_load_ends_in_time_and_costs_no_attempt_and_no_delivery,
                    pytest.mark.parametrize("whole_group", [False]))  # fmt: skip
test_p5_idle = here(p5.test_an_idle_worker_is_gone_at_once)
test_p5_running = here(p5.test_workers_stopped_under_load_end_as_soon_as_their_running_tasks_have_ended)
test_p7 = here(p7.test_a_worker_consumes_again_when_its_rabbitmq_is_back, pytest.mark.parametrize("how", ["down"]),
               at_length=False)  # fmt: skip
test_p7_frozen = here(p7.test_a_worker_consumes_again_when_its_rabbitmq_is_back,
                      pytest.mark.parametrize("how", ["frozen"]))  # fmt: skip
test_p8 = here(
    p8.test_a_broker_that_is_away_is_an_error_in_time_at_every_call_and_is_used_again_on_its_return,
    WORDS, pytest.mark.parametrize("call", ["delay"]), at_length=False,
)  # fmt: skip
# A message with a countdown goes into the store, which is not away, and to the broker when it is due.
test_p8_every_call = here(
    p8.test_a_broker_that_is_away_is_an_error_in_time_at_every_call_and_is_used_again_on_its_return,
    WORDS, pytest.mark.parametrize("call", [call for call in p8.CALLS if call != "apply_async"]),
)  # fmt: skip
test_p9_slow = here(p9.test_tasks_sent_after_a_slow_one_has_begun_are_started_by_an_idle_worker)
test_p9_full = here(p9.test_a_worker_that_is_full_leaves_the_rest_to_others, at_length=False)
test_p12_unreadable = here(p12.test_a_message_that_cannot_be_read_fails_alone)
