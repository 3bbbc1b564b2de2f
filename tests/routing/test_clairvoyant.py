"""The rule that knows its clusters' future: exact first tokens, bought only what would come too late."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from routing.clairvoyant import PerfectRouter, first_token_s
from routing.physics import Engine, Job, Simulation, Site
from tests.routing.test_simulate import PENALTY, PROFILE, SLO, AlwaysFirst
from tests.routing.values import LIGHT

OWN = {"name": "own", "kind": "committed", "profile": "p", "usd_per_hour": 1.0, "rtt": 0.0}
BOUGHT = {
    "name": "bought",
    "kind": "external",
    "usd_per_mtok_in": 1.0,
    "usd_per_mtok_out": 2.0,
    "ttft_p50": 0.1,
    "ttft_sigma": 0.1,
    "tpot_p50": 0.01,
    "rtt": 0.0,
}


def job(number, at_s=0.0, *, prompt_tokens=100, output_tokens=20, ttft_objective_s=1.0):
    return Job(
        number=number,
        arrived_s=at_s,
        prompt_tokens=prompt_tokens,
        output_tokens=output_tokens,
        ttft_objective_s=ttft_objective_s,
        tpot_objective_s=1.0,
    )


class Foretelling(AlwaysFirst):
    """Sends all to the first site and notes when each first token is foretold."""

    def __init__(self, sites, chance):
        super().__init__(sites, chance)
        self.foretold = {}

    def on_dispatch(self, job, site, now_s):
        self.foretold[job.number] = now_s + first_token_s(site.place(job), job, now_s)


arrivals = st.lists(
    st.tuples(st.floats(0.0, 5.0), st.integers(1, 2000), st.integers(1, 100)), min_size=1, max_size=25
)


@LIGHT
@given(arrivals)
def test_first_token_is_foretold_exactly_whatever_comes_later(given_arrivals):
    jobs = [
        job(number, at_s, prompt_tokens=given_tokens, output_tokens=made)
        for number, (at_s, given_tokens, made) in enumerate(sorted(given_arrivals))
    ]
    sites = [Site(0, OWN, {"p": PROFILE}, random.Random(0))]
    router = Foretelling(sites, random.Random(0))

    Simulation(jobs=jobs, sites=sites, router=router).run()

    assert router.foretold == pytest.approx({one.number: one.first_s for one in jobs})


def test_perfect_information_buys_just_what_would_come_too_late():
    sites = [Site(n, one, {"p": PROFILE}, random.Random(n)) for n, one in enumerate((OWN, BOUGHT))]
    router = PerfectRouter("marginal", sites=sites, slo=SLO, penalty=PENALTY, chance=random.Random(0))
    # A prompt of 1000 takes an engine that is free 10 steps of 20 ms.
    jobs = [job(n, prompt_tokens=1000, ttft_objective_s=0.5) for n in range(4)]

    Simulation(jobs=jobs, sites=sites, router=router).run()

    assert [one.site for one in jobs] == [0, 0, 1, 1]
    assert all(one.is_met for one in jobs)


def test_perfect_information_leaves_what_has_no_room_left():
    limited = {**BOUGHT, "rpm": 1}
    sites = [Site(n, one, {"p": PROFILE}, random.Random(n)) for n, one in enumerate((OWN, limited))]
    router = PerfectRouter("marginal", sites=sites, slo=SLO, penalty=PENALTY, chance=random.Random(0))
    jobs = [job(n, prompt_tokens=1000, ttft_objective_s=0.1) for n in range(3)]

    Simulation(jobs=jobs, sites=sites, router=router).run()

    assert [one.site for one in jobs] == [1, 0, 0]
    assert [one.tries for one in jobs] == [1, 1, 1]


def test_perfect_information_asks_the_replica_that_will_serve():
    given = {**OWN, "kind": "auto", "max_replicas": 2}
    sites = [Site(n, one, {"p": PROFILE}, random.Random(n)) for n, one in enumerate((given, BOUGHT))]
    busy, free = (Engine(PROFILE, now_s=0.0, up_at_s=up_at_s) for up_at_s in (1.0, 2.0))
    busy.waiting.append(job(0, prompt_tokens=1000))
    busy.jobs = 1
    sites[0].engines = [busy, free]
    router = PerfectRouter("marginal", sites=sites, slo=SLO, penalty=PENALTY, chance=random.Random(0))

    # A prompt of 1000 takes 0.2 s on the free one, and twice that on the other.
    assert router.pick(job(1, 3.0, prompt_tokens=1000, ttft_objective_s=0.3), 3.0) == 0
