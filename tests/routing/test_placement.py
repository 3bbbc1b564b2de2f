"""Rules on places: what may be written, how several bind together, and that they only ever narrow."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from routing.eligibility import exclusion_reason
from routing.learning import NOTHING_LEARNT
from routing.placement import PlacementError, checked_regions, checked_tags, combined
from routing.types import Placement
from tests.routing.values import LIGHT, SETTINGS, deployment, profile


def reason(placement, **changed):
    return exclusion_reason(
        deployment(**changed),
        profile=profile(placement=placement),
        state=NOTHING_LEARNT,
        settings=SETTINGS,
        now_s=0.0,
        trusts_polls=False,
    )


EU = Placement(regions=frozenset({"eu-1", "eu-2"}))
GDPR = Placement(required_tags=frozenset({"gdpr", "on-prem"}))
NO_SPOT = Placement(forbidden_tags=frozenset({"spot", "beta"}))


@pytest.mark.parametrize(
    ("placement", "changed", "expected"),
    [
        (None, {"region": ""}, ""),
        (EU, {"region": "eu-1"}, ""),
        (EU, {"region": "us-1"}, "residency"),
        (EU, {"region": "EU-1"}, "residency"),
        (EU, {"region": ""}, "residency"),
        (Placement(regions=frozenset()), {"region": "eu-1"}, "residency"),
        (Placement(regions=frozenset({""})), {"region": ""}, "residency"),
        (GDPR, {"tags": frozenset({"gdpr", "on-prem", "x"})}, ""),
        (GDPR, {"tags": frozenset({"gdpr"})}, "tags"),
        (GDPR, {}, "tags"),
        (NO_SPOT, {"tags": frozenset({"x"})}, ""),
        (NO_SPOT, {"tags": frozenset({"x", "spot"})}, "tags"),
        # The rule comes before what may pass: a cluster abroad that is down is still abroad.
        (EU, {"region": "us-1", "health": "unhealthy", "state": "disabled"}, "residency"),
        (EU, {"region": "eu-1", "health": "unhealthy"}, "unhealthy"),
    ],
)
def test_exclusion_by_placement(placement, changed, expected):
    assert reason(placement, **changed) == expected


words = st.frozensets(st.sampled_from(["a", "b", "c"]))
rules = st.builds(
    Placement, regions=st.none() | words, required_tags=words, forbidden_tags=words, regions_by=st.just("r")
)


@LIGHT
@given(rules, rules, st.sampled_from(["", "a", "b", "c", "d"]), words)
def test_combined_allows_what_each_rule_allows(first, second, region, tags):
    place = {"region": region, "tags": tags}

    both = combined([first, second])

    assert (reason(both, **place) == "") == (reason(first, **place) == "" == reason(second, **place))


def test_combined_names_only_who_has_a_rule():
    team = Placement(regions=frozenset({"a", "b"}), regions_by="team", tags_by="team")
    key = Placement(
        regions=frozenset({"b", "c"}), required_tags=frozenset({"t"}), regions_by="key", tags_by="key"
    )

    assert combined([Placement(), Placement()]) is None
    assert combined([team, Placement(regions_by="key")]) == Placement(
        regions=frozenset({"a", "b"}), regions_by="team"
    )
    assert combined([team, key]) == Placement(
        regions=frozenset({"b"}), required_tags=frozenset({"t"}), regions_by="team and key", tags_by="key"
    )


def test_words_are_kept_as_given_each_once():
    assert checked_tags(["gdpr", "on-prem", "gdpr"], most=3) == ["gdpr", "on-prem"]
    assert checked_regions(["us-1", "eu 1"], most=3) == ["us-1", "eu 1"]


@pytest.mark.parametrize(
    ("check", "given_words", "message"),
    [
        (checked_tags, "gdpr", 'write a list of words such as ["a", "b"]'),
        (checked_tags, [1], 'write a list of words such as ["a", "b"]'),
        (checked_tags, ["GDPR"], "'GDPR' is no tag: write 1 to 32 lower-case letters, digits,"),
        (checked_tags, ["x" * 33], "is no tag"),
        (checked_tags, ["a", "b", "c"], "at most 2 tags"),
        (checked_regions, [""], "'' is no region: write one as the clusters have it, such as eu-west-1"),
        (checked_regions, ["x" * 65], "is no region"),
        (checked_regions, ["a\n"], "is no region"),
        (checked_regions, ["a", "b", "c"], "at most 2 regions"),
    ],
)
def test_wrong_words_are_refused(check, given_words, message):
    with pytest.raises(PlacementError) as refusal:
        check(given_words, most=2)

    assert message in str(refusal.value)
