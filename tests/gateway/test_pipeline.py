"""The choice of an attempt, where other processes take every place first."""

from types import SimpleNamespace

import pytest

from gateway.admission import Ticket
from gateway.errors import OverloadedError
from gateway.exchange import Exchange
from gateway.overload import UNCOUNTED
from gateway.pipeline import PLACE_TRIES_MAX, Pipeline
from gateway.reroutes import Course
from gateway.retry_budget import RetryBudget
from gateway.traffic import Traffic
from gateway.waiting import Patron
from tests.changes import replace
from tests.routing.values import deployment, fleet, profile


def clock():
    return 100.0


@pytest.fixture
def beaten():
    """A pipeline whose every place is taken at the last moment, a request of it, and the places asked for."""
    asked = []
    traffic = Traffic(clock=clock, exchange=Exchange(clock=clock))
    traffic.takes_place = lambda place, *, now_s: asked.append(place.id)
    parts = dict.fromkeys(name for name in Pipeline.__slots__)
    given = {
        "observer": SimpleNamespace(traffic=traffic),
        "latest": lambda: job.snapshot,
        "retries": RetryBudget(clock=clock),
        "clock": clock,
    }
    pipeline = Pipeline(**{**parts, **given, "reroutes_max": 3})
    request = SimpleNamespace(
        model="m", profile=profile(), session="", body=b"{}", surface="chat", document={}, is_stream=False
    )
    request.wait_s_max = None
    job = SimpleNamespace(
        request=request,
        snapshot=SimpleNamespace(fleet=fleet(deployment("a"), queue_places_max=5, queue_wait_s_max=2.0)),
        principal=SimpleNamespace(key_id="k", team="t", weight=3, priority=1),
        started_s=100.0,
        outbox="outbox",
        ticket=Ticket(headers=(("a", "b"),)),
        work=UNCOUNTED,
    )
    return pipeline, job, asked


def test_a_request_that_finds_no_place_is_refused(beaten):
    pipeline, job, asked = beaten

    with pytest.raises(OverloadedError, match="Other requests took each place"):
        pipeline._next_attempt(job, Course())

    assert asked == ["a"] * PLACE_TRIES_MAX


def test_one_that_failed_already_goes_no_further_so_that_its_failure_is_settled(beaten):
    pipeline, job, asked = beaten
    for _ in range(100):
        pipeline.retries.on_request()
    course = Course()
    course.on_attempt(cluster="elsewhere")

    assert pipeline._next_attempt(job, course) is None
    assert asked


async def test_a_newcomer_does_not_overtake_who_waits_already(beaten):
    pipeline, job, asked = beaten
    joined = []

    async def wait(patron, *, outbox, refusal, take, warm_in_s):
        assert warm_in_s is None
        joined.append((patron, outbox, take()))
        return "attempt", (("x", "y"),)

    waiting = SimpleNamespace(has_line=lambda route: route == "m", wait=wait)
    pipeline = replace(pipeline, waiting=waiting)

    attempt = await pipeline._first_attempt(job, Course())

    patron = Patron(route="m", team="t", weight=3, priority=1, places_max=5, wait_s_max=2.0)
    # It asked for a place only when it was told to.
    assert (attempt, joined, len(asked)) == ("attempt", [(patron, "outbox", None)], PLACE_TRIES_MAX)
    assert job.ticket.headers == (("a", "b"), ("x", "y"))
