"""Where a key's requests may be served holds everywhere: first choice, fallback, re-route and last resort."""

import openai
import pytest

pytestmark = pytest.mark.e2e

# Sites of a fleet are in eu-1, eu-2 and so on, in the order in which they are added.
HOME = {"allowed_regions": ["eu-1"]}


def refused(fleet, key, status):
    with pytest.raises(openai.APIStatusError) as refusal:
        fleet.ask(key)
    assert refusal.value.status_code == status
    return refusal.value.body["code"], refusal.value.body["message"]


def test_key_is_served_in_its_region_though_another_is_cheaper(fleet):
    cheap = fleet.add_cluster(region="us-1")
    home = fleet.add_cluster(region="eu-1")
    key, anywhere = fleet.issue_key(placement=HOME), fleet.issue_key()
    fleet.ready()

    fleet.ask(anywhere)
    fleet.ask(key)

    assert [row["cluster"] for row in fleet.settled_rows(key, count=1)] == [home.name]
    assert [row["cluster"] for row in fleet.settled_rows(anywhere, count=1)] == [cheap.name]


def test_key_never_reaches_another_region_though_only_that_is_healthy(fleet):
    home = fleet.add_cluster(region="eu-1")
    abroad, nowhere = fleet.add_cluster(region="us-1"), fleet.add_cluster(region="")
    spare = fleet.add_cluster(model="spare-model", kind="provider", region="us-1")
    fleet.add_route(model="anything", candidates=[fleet.model], fallbacks=["spare-model"])
    key = fleet.issue_key(placement=HOME)
    fleet.control.call("set_cluster_health", name=home.name, is_healthy=False)
    fleet.ready()

    for model in (fleet.model, "anything"):
        with pytest.raises(openai.InternalServerError) as refusal:
            fleet.client(key).chat.completions.create(**{**fleet.chat(), "model": model})
        assert (refusal.value.status_code, refusal.value.body["code"]) == (503, "no_healthy_cluster")
        message = refusal.value.body["message"]
        assert f"{home.name}: unhealthy" in message
        assert f"{abroad.name}: residency" in message
        assert f'Mind that key "{key.name}" allows only the regions eu-1.' in message
    assert [site.received_count for site in (home, abroad, nowhere, spare)] == [0, 0, 0, 0]


def test_key_is_not_rerouted_abroad_nor_sent_there_as_a_last_resort(fleet):
    home = fleet.add_cluster(region="eu-1")
    abroad = fleet.add_cluster(region="us-1")
    key = fleet.issue_key(placement=HOME)
    fleet.earn_reroutes(1)
    home.standin.set_fault("http_500", count=None)

    answers = {refused(fleet, key, 502)[0] for _ in range(12)}

    # The breaker of the only allowed cluster opens meanwhile: it is the last resort, and nobody else.
    assert answers == {"upstream_error"}
    assert abroad.received_count == 0
    assert {row["cluster"] for row in fleet.settled_rows(key, count=12)} == {home.name}


def test_key_that_no_cluster_may_serve_is_told_by_whom(fleet):
    site = fleet.add_cluster(region="us-1", tags=["spot"])
    abroad = fleet.issue_key(placement={"allowed_regions": ["eu-1", "eu-2"]})
    picky = fleet.issue_key(placement={"required_tags": ["gdpr"]})
    choosy = fleet.issue_key(placement={"forbidden_tags": ["spot"]})
    fleet.ready()

    told = [refused(fleet, key, 403) for key in (abroad, picky, choosy)]

    start = f"No cluster that serves `{fleet.model}` may serve this request, since "
    end = ". Add one that may, or change the rule in Admin."
    assert told == [
        ("permission_denied", f'{start}key "{abroad.name}" allows only the regions eu-1, eu-2{end}'),
        ("permission_denied", f'{start}key "{picky.name}" requires the tags gdpr{end}'),
        ("permission_denied", f'{start}key "{choosy.name}" forbids the tags spot{end}'),
    ]
    assert site.received_count == 0
