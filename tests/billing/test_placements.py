"""Where keys may be served: written through the door, refused with words, loaded as the strictest of both."""

import pytest

from billing import keys, principals
from billing.models import ApiKey, Team
from billing.placements import PlacementWords, placement_text
from billing.records import RecordError
from routing.types import Placement

pytestmark = pytest.mark.django_db(databases="__all__")


@pytest.fixture
def team_id():
    return keys.put_team(organisation_id=keys.put_organisation(name="acme"), name="search")


def loaded(issued):
    return principals.load_principals()[keys.digest_key(issued.key.encode())].placement


def change_team(team_id, **values):
    team = Team.objects.get(id=team_id)
    for name, value in values.items():
        setattr(team, name, value)
    keys.save_record(record=team)


def test_key_without_a_rule_is_served_anywhere(team_id):
    assert loaded(keys.issue_key(team_id=team_id, name="ci")) is None


def test_team_and_key_bind_together_by_the_strictest(team_id):
    words = PlacementWords(allowed_regions=["eu-1", "us-1"], required_tags=["gdpr"], forbidden_tags=["spot"])
    issued = keys.issue_key(team_id=team_id, name="ci", placement=words)
    change_team(team_id, allowed_regions=["eu-1", "eu-2"], required_tags=["on-prem"])

    assert loaded(issued) == Placement(
        regions=frozenset({"eu-1"}),
        required_tags=frozenset({"gdpr", "on-prem"}),
        forbidden_tags=frozenset({"spot"}),
        regions_by='team "search" and key "ci"',
        tags_by='team "search" and key "ci"',
    )


def test_rules_that_have_nothing_in_common_allow_nothing(team_id):
    issued = keys.issue_key(team_id=team_id, name="ci", placement=PlacementWords(allowed_regions=["us-1"]))
    change_team(team_id, allowed_regions=["eu-1"])

    assert loaded(issued).regions == frozenset()


def test_change_of_a_rule_is_a_revision(team_id):
    before = principals.get_revision()

    change_team(team_id, required_tags=["gdpr"])

    assert principals.get_revision() == before + 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"allowed_regions": [""]}, "allowed regions: '' is no region: write one as the clusters have it"),
        ({"required_tags": ["GDPR"]}, "required tags: 'GDPR' is no tag: write 1 to 32 lower-case letters"),
        ({"forbidden_tags": ["a b"]}, "forbidden tags: 'a b' is no tag"),
        ({"required_tags": [f"t{n}" for n in range(51)]}, "required tags: at most 50 tags"),
        (
            {"required_tags": ["a", "b"], "forbidden_tags": ["b"]},
            "the tags b are both required and forbidden: take them out of one",
        ),
    ],
)
def test_words_that_no_cluster_can_have_are_refused(team_id, words, message):
    with pytest.raises(RecordError) as of_key:
        keys.issue_key(team_id=team_id, name="ci", placement=PlacementWords(**words))
    with pytest.raises(RecordError) as of_team:
        change_team(team_id, **words)

    assert str(of_key.value) == str(of_team.value)
    assert message in str(of_key.value)
    assert ApiKey.objects.count() == 0


def test_rules_in_a_line(team_id):
    team = Team.objects.get(id=team_id)
    assert placement_text(team) == "anywhere"

    team.allowed_regions, team.required_tags, team.forbidden_tags = ["eu-1", "eu-2"], ["gdpr"], ["spot"]
    assert placement_text(team) == "in eu-1, eu-2; with gdpr; without spot"
