"""The queue of a route in one process: turns, bounds, early refusals, who leaves."""

import asyncio

import pytest

from gateway.errors import (
    ClusterAsleepError,
    DrainingError,
    InvalidRequestError,
    NoHealthyClusterError,
    OverloadedError,
)
from gateway.outbox import Outbox
from gateway.waiting import POLL_S, Patron, WaitRoom, is_worth_waiting, wait_asked
from routing.types import Candidate, Decision, Exclusion, Wakeable
from tests.routing.values import deployment

FULL = "Every cluster is full."


class Scene:
    """A room, and places that the test gives out."""

    def __init__(self):
        self.is_draining = False
        self.room = WaitRoom(clock=asyncio.get_running_loop().time, is_draining=lambda: self.is_draining)
        self.places = 0
        self.served = []

    def patron(self, *, team="a", weight=1, priority=0, places_max=10, wait_s_max=5.0, route="m"):
        return Patron(
            route=route,
            team=team,
            weight=weight,
            priority=priority,
            places_max=places_max,
            wait_s_max=wait_s_max,
        )

    def enter(self, name, *, outbox=None, refusal=None, warm_in_s=None, **values):
        def take():
            if not self.places:
                return None
            self.places -= 1
            self.served.append(name)
            return name

        waiting = self.room.wait(
            self.patron(**values),
            outbox=outbox or Outbox(bytes_max=10),
            refusal=refusal or OverloadedError(FULL),
            take=take,
            warm_in_s=warm_in_s,
        )
        return asyncio.ensure_future(waiting)

    async def give(self, count=1):
        self.places += count
        self.room.on_departure("m")
        await settle()


async def settle():
    for _ in range(20):
        await asyncio.sleep(0)


async def test_places_are_given_in_turn_and_told():
    scene = Scene()
    first, second, important = scene.enter("1"), scene.enter("2"), scene.enter("!", priority=3)
    await settle()

    for _ in range(3):
        await scene.give()

    assert scene.served == ["!", "1", "2"]
    place, headers = await second
    told = dict(headers)
    assert (place, told["x-gateway-queue-position"]) == ("2", "2")
    assert int(told["x-gateway-queue-wait-ms"]) < 5000
    assert [(await first)[0], (await important)[0]] == ["1", "!"]
    assert (scene.room.has_line("m"), scene.room.count()) == (False, 0)


async def test_several_places_at_once_are_all_taken():
    scene = Scene()
    tasks = [scene.enter(str(n)) for n in range(4)]
    await settle()

    await scene.give(3)

    assert scene.served == ["0", "1", "2"]
    assert scene.room.count() == 1
    tasks[3].cancel()
    await settle()
    assert not scene.room.has_line("m")


async def test_a_place_that_nobody_told_of_is_found_soon():
    scene = Scene()
    task = scene.enter("1")
    await settle()
    scene.places = 1

    assert (await asyncio.wait_for(task, 2.0))[0] == "1"


async def test_a_place_found_by_looking_goes_to_whose_turn_it_is():
    scene = Scene()
    tasks = [scene.enter("1"), scene.enter("!", priority=3)]
    await settle()
    scene.places = 1
    await asyncio.sleep(3 * POLL_S)

    assert scene.served == ["!"]
    for task in tasks:
        task.cancel()


async def test_a_full_line_refuses_with_words_and_leaves_nothing_behind():
    scene = Scene()
    tasks = [scene.enter(str(n), places_max=2) for n in range(2)]
    await settle()

    with pytest.raises(OverloadedError) as caught:
        await scene.enter("3", places_max=2)

    assert caught.value.message == f"{FULL} 2 requests wait already."
    assert ("x-gateway-queue-position", "3") in caught.value.headers
    assert scene.room.count() == 2
    for task in tasks:
        task.cancel()


async def test_who_would_wait_too_long_is_refused_at_once():
    scene = Scene()
    for _ in range(5):
        scene.room.on_departure("m")  # half a place a second, as it fades over ten
    waiting = [scene.enter(str(n)) for n in range(2)]
    await settle()

    with pytest.raises(OverloadedError) as caught:
        await scene.enter("late", wait_s_max=1.0)

    told = dict(caught.value.headers)
    assert "number 3 in line, is expected in 6.0 s, and it may wait 1 s." in caught.value.message
    assert told["x-gateway-queue-expected-ms"][:2] in {"59", "60"}
    assert told["retry-after"] in {"6", "7"}
    assert scene.served == []
    for task in waiting:
        task.cancel()


async def test_a_wait_that_is_over_is_refused():
    scene = Scene()

    with pytest.raises(OverloadedError, match=r"It waited 0\.1 s for a place"):
        await scene.enter("1", wait_s_max=0.1)

    assert not scene.room.has_line("m")


async def test_a_caller_who_leaves_frees_its_turn():
    scene = Scene()
    outbox = Outbox(bytes_max=10)
    gone, second = scene.enter("gone", outbox=outbox), scene.enter("2")
    await settle()
    outbox.abandon()
    await settle()

    await scene.give()

    assert scene.served == ["2"]
    with pytest.raises(OverloadedError):
        await gone
    await second


async def test_a_drain_sends_who_waits_away():
    scene = Scene()
    task = scene.enter("1")
    await settle()
    scene.is_draining = True
    scene.room.ring()

    with pytest.raises(DrainingError):
        await task


async def test_what_can_never_be_served_leaves_the_line_with_its_reason():
    scene = Scene()

    def take():
        raise NoHealthyClusterError("none")

    with pytest.raises(NoHealthyClusterError):
        await scene.room.wait(
            scene.patron(), outbox=Outbox(bytes_max=10), refusal=OverloadedError(FULL), take=take
        )
    assert not scene.room.has_line("m")


@pytest.mark.parametrize(
    ("reasons", "is_worth"),
    [([], False), (["unhealthy"], False), (["unhealthy", "in_flight_max"], True), (["rate_limit"], True)],
)
def test_waiting_is_worth_it_where_something_is_only_full(reasons, is_worth):
    exclusions = tuple(Exclusion(deployment=deployment(str(n)), reason=r) for n, r in enumerate(reasons))
    decision = Decision(model="m", policy="cost", reason="none_eligible", ranked=(), exclusions=exclusions)

    assert is_worth_waiting(decision) is is_worth


def test_waiting_is_worth_it_where_places_went_to_others_just_now():
    ranked = (Candidate(deployment=deployment(), score=0.0, cost_nanousd=1),)

    assert is_worth_waiting(Decision(model="m", policy="cost", reason="cost", ranked=ranked))


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [([], None), ([(b"x-gateway-max-wait", b"0")], 0.0), ([(b"x-gateway-max-wait", b"2.5")], 2.5)],
)
def test_a_caller_may_say_how_long_it_waits(headers, seconds):
    assert wait_asked(headers) == seconds


@pytest.mark.parametrize("value", [b"", b"-1", b"soon", b"1e3", b"nan", b"9" * 30])
def test_a_wait_that_is_no_number_is_refused(value):
    with pytest.raises(InvalidRequestError, match=r"write a number such as 2\.5"):
        wait_asked([(b"x-gateway-max-wait", value)])


ASLEEP = "What serves `m` is asleep."


async def test_who_waits_for_a_waking_cluster_gets_its_place_when_it_is_there():
    scene = Scene()
    waiting = scene.enter("a", refusal=ClusterAsleepError(ASLEEP), warm_in_s=3.0)
    await settle()
    scene.places = 1

    place, headers = await waiting

    assert (place, dict(headers)["x-gateway-queue-expected-ms"]) == ("a", "3000")


async def test_who_cannot_wait_so_long_is_told_when_the_cluster_should_be_there():
    scene = Scene()

    with pytest.raises(ClusterAsleepError) as caught:
        await scene.enter("a", refusal=ClusterAsleepError(ASLEEP), warm_in_s=90.0)

    assert caught.value.message == (
        f"{ASLEEP} Its turn, number 1 in line, is expected in 90.0 s, and it may wait 5 s."
    )
    assert dict(caught.value.headers)["retry-after"] == "90"
    assert scene.room.count() == 0


async def test_who_waited_in_vain_is_told_what_is_left():
    scene = Scene()

    with pytest.raises(ClusterAsleepError) as caught:
        await scene.enter("a", refusal=ClusterAsleepError(ASLEEP), warm_in_s=0.2, wait_s_max=0.3)

    assert caught.value.message == f"{ASLEEP} It waited 0.3 s for a place."
    assert dict(caught.value.headers)["retry-after"] == "1"


@pytest.mark.parametrize(
    ("state", "wakeable", "is_worth"),
    [
        ("cold", Wakeable(warm_up_s=90.0), True),
        ("cold", Wakeable(warm_up_s=90.0, can_grow=False), False),
        ("cold", None, False),
        ("waking", Wakeable(warm_up_s=90.0, can_grow=False), True),
    ],
)
def test_waiting_is_worth_it_where_something_is_woken(state, wakeable, is_worth):
    place = deployment(billing="autoscaled", state=state, wakeable=wakeable)
    exclusions = (Exclusion(deployment=place, reason=state),)
    decision = Decision(model="m", policy="p", reason="none_eligible", ranked=(), exclusions=exclusions)

    assert is_worth_waiting(decision) is is_worth
