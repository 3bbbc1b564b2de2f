"""What a process spills for want of autoscaled clusters, and how the control plane hears of it."""

import asyncio
from datetime import UTC, datetime

import pytest
from prometheus_client import REGISTRY

from gateway import demand
from gateway.demand import WakeDemand
from routing.choose import choose
from routing.types import Wakeable
from tests.fakes.desk_threads import DeskThreads
from tests.routing.values import deployment, flat, fleet, profile, provider

NOW = datetime(2030, 1, 1, tzinfo=UTC)
NOW_S = 5.0


@pytest.fixture
def told(monkeypatch):
    """What the control plane was told."""
    found = []
    monkeypatch.setattr(demand, "note_demand", lambda **values: found.append(values))
    return found


def demand_of(threads=None):
    return WakeDemand(threads=threads or DeskThreads(), wall_clock=lambda: NOW)


def autoscaled(name="auto", **changed):
    values = {"billing": "autoscaled", "state": "cold", "wakeable": Wakeable(warm_up_s=90.0)}
    return deployment(name, **{**values, **changed})


def spill(wishes, *candidates):
    one = fleet(*candidates, policy="marginal")
    decision = choose(profile(), one, {}, NOW_S, 0.0)
    wishes.on_choice(decision, plan=one.routes["m"], profile=profile(), settings=one.settings, now_s=NOW_S)
    return decision.ranked[0].cost_nanousd


PRICED = provider("p", rate=flat(2_500_000, 10_000_000))


async def test_what_is_spilt_is_summed_up_and_told_once(told):
    wishes = demand_of()
    before = REGISTRY.get_sample_value("gateway_spilt_nanousd_total", {"cluster": "cluster-auto"}) or 0
    costs = [spill(wishes, autoscaled(), PRICED) for _ in range(2)]
    await wishes.tell()
    await wishes.tell()

    assert min(costs) > 0
    assert told == [{"spilt_nanousd": {"cluster-auto": sum(costs)}, "asked": set(), "now": NOW}]
    counted = REGISTRY.get_sample_value("gateway_spilt_nanousd_total", {"cluster": "cluster-auto"})
    assert counted - before == sum(costs)


async def test_what_stays_at_home_or_is_nobodys_want_is_not_told(told):
    wishes = demand_of()
    spill(wishes, autoscaled(state="active"), PRICED)
    spill(wishes, deployment(state="draining"), PRICED)
    await wishes.tell()

    assert told == []


async def test_what_could_not_be_told_is_kept(told):
    threads = DeskThreads()
    wishes = demand_of(threads)
    threads.is_down = True
    first = spill(wishes, autoscaled(), PRICED)
    wishes.on_stranded(stranded())
    await wishes.tell()
    threads.is_down = False
    second = spill(wishes, autoscaled(), PRICED)
    await wishes.tell()

    assert told == [
        {"spilt_nanousd": {"cluster-auto": first + second}, "asked": {"cluster-auto"}, "now": NOW}
    ]


def stranded():
    return choose(profile(), fleet(autoscaled(), policy="marginal"), {}, NOW_S, 0.0)


async def test_a_request_without_a_place_is_told_at_once(told, monkeypatch):
    monkeypatch.setattr(demand, "TELL_S", 60.0)
    wishes = demand_of()
    loop = asyncio.ensure_future(wishes.run())
    await asyncio.sleep(0)
    wishes.on_stranded(stranded())
    wishes.on_stranded(stranded())
    for _ in range(20):
        await asyncio.sleep(0)
    loop.cancel()

    assert told == [{"spilt_nanousd": {}, "asked": {"cluster-auto"}, "now": NOW}]
