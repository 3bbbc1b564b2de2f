"""The record of a decision: always short, with what was compared, and its words."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from routing.decision_record import RECORD_BYTES_MAX, exclusion_words, explained, next_best, record_of
from routing.scoring import LATE
from routing.types import Candidate, Decision, Exclusion
from tests.routing.values import LIGHT, deployment, provider


def candidate(name="a", *, cost=7, score=0.25, kind=deployment, **values):
    return Candidate(deployment=kind(name, **values), score=score, cost_nanousd=cost)


def decision(*ranked, excluded=(), policy="marginal", reason="marginal"):
    exclusions = tuple(Exclusion(deployment=deployment(name), reason=why) for name, why in excluded)
    return Decision(model="m", policy=policy, reason=reason, ranked=ranked, exclusions=exclusions)


def usd(nanousd):
    return f"${nanousd}"


def test_record_has_the_chosen_first_then_the_best_and_the_excluded():
    places = [candidate("a"), candidate("b", cost=9, score=4.0123456, kind=provider, model="other")]

    assert record_of(decision(*places, excluded=[("c", "unhealthy")]), chosen=places[1]) == {
        "policy": "marginal",
        "reason": "marginal",
        "chosen": "cluster-b/other",
        "cost": 9,
        "ranked": [["cluster-b/other", 9, 4.012], ["cluster-a", 7, 0.25]],
        "excluded": [["cluster-c", "unhealthy"]],
        "others": 0,
    }


def test_record_counts_what_it_does_not_name():
    places = [candidate(f"{n}", cost=n) for n in range(6)]
    excluded = [(f"x{n}", "unhealthy") for n in range(7)]

    record = record_of(decision(*places, excluded=excluded), chosen=places[0])

    assert [entry[0] for entry in record["ranked"]] == [f"cluster-{n}" for n in range(4)]
    assert len(record["excluded"]) + len(record["ranked"]) + record["others"] == 13


names = st.text(min_size=1, max_size=200)
reasons = st.sampled_from(["unhealthy", "external_fallback_disabled", "lacks_json_schema"])


@LIGHT
@given(
    st.lists(st.tuples(names, st.integers(0, 10**15), st.floats(0, 1e16)), min_size=1, max_size=12),
    st.lists(st.tuples(names, reasons), max_size=12),
    st.sampled_from(["marginal", "external_first"]),
)
def test_record_is_never_longer_than_its_maximum(drawn, excluded, policy):
    places = [candidate("a", cluster=name, cost=cost, score=score) for name, cost, score in drawn]
    exclusions = tuple(
        Exclusion(deployment=deployment(cluster=name, model="x" * 200), reason=why) for name, why in excluded
    )
    made = Decision(
        model="m", policy=policy, reason="last_resort", ranked=tuple(places), exclusions=exclusions
    )

    record = record_of(made, chosen=places[-1])

    with_clamp = {**record, "output_tokens_max": 1_000_000}
    assert len(json.dumps(with_clamp, separators=(",", ":"))) <= RECORD_BYTES_MAX
    assert record["ranked"][0][:2] == [record["chosen"], record["cost"]]
    assert len(record["ranked"]) + len(record["excluded"]) + record["others"] == len(drawn) + len(excluded)


@pytest.mark.parametrize(
    ("score", "words"),
    [
        (0.25, "capacity that is paid already, first token expected within 25% of the objective"),
        (2.5, "capacity that is running anyway, first token expected within 50% of the objective"),
        (14.0, "about $7 and $3 for what its failures and late answers are expected to cost"),
        (LATE + 2, "about $7: late, but sooner than any other"),
    ],
)
def test_scores_of_marginal_are_told_in_parts(score, words):
    chosen = candidate(score=score)

    lines = explained(record_of(decision(chosen), chosen=chosen), usd_text=usd)

    assert lines == ["Policy marginal.", f"cluster-a was chosen, {words}."]


def test_explanation_names_the_next_best_and_why_the_others_could_not():
    first, second = candidate(cost=7, score=7.0), candidate("b", cost=9, score=9.0)
    excluded = [("c", "in_flight_max"), ("d", "lacks_tools"), ("e", "some_new_reason")]
    made = decision(first, second, excluded=excluded, policy="cost", reason="fallback")
    record = {**record_of(made, chosen=first), "others": 2, "output_tokens_max": 40}

    assert next_best(record) == ("cluster-b", 9)
    assert explained(record, usd_text=usd) == [
        "Policy cost: no candidate of the route could serve it, so a fallback does.",
        "cluster-a was chosen, about $7, score 7.",
        "Next best: cluster-b, about $9.",
        "cluster-c had as many requests at once as it may.",
        "cluster-d does not offer tools.",
        "cluster-e was excluded: some new reason.",
        "2 more were considered.",
        "Its budget had 40 tokens left for each answer.",
    ]


@pytest.mark.parametrize(
    ("record", "lines"),
    [
        ({}, []),
        ({"policy": "imported"}, ["Policy imported."]),
        ({"policy": "cost", "ranked": [["a", 1], ["b", 2]]}, ["Policy cost.", "Next best: b, about $2."]),
        ({"policy": "cost", "ranked": [{"cluster": "a"}]}, ["Policy cost."]),
    ],
)
def test_older_records_are_told_as_far_as_they_go(record, lines):
    assert explained(record, usd_text=usd) == lines


def test_every_reason_of_eligibility_has_its_words():
    assert exclusion_words("rate_limit") == "had its rate limit used up"
