"""What is changed in the control plane reaches a gateway as it is shipped within two seconds."""

import pytest

from tests.e2e.fleet import cost_of, wait_until

pytestmark = pytest.mark.e2e

REACHED_S_MAX = 2.0


def status_of(fleet, key):
    return fleet.post(key, fleet.chat(max_tokens=1)).status_code


def test_new_key_works_and_a_revoked_one_does_not(production_fleet):
    fleet = production_fleet
    fleet.add_cluster()
    fleet.ready()

    key = fleet.issue_key()
    wait_until(lambda: status_of(fleet, key) == 200, within_s=REACHED_S_MAX)
    fleet.control.call("revoke_key", key_id=key.id)
    wait_until(lambda: status_of(fleet, key) == 401, within_s=REACHED_S_MAX)

    error = fleet.post(key, fleet.chat()).json()["error"]
    assert error["code"] == "invalid_api_key"
    assert "was revoked" in error["message"]


def test_drained_cluster_gets_nothing_new(production_fleet):
    fleet = production_fleet
    drained, other = fleet.add_cluster(), fleet.add_cluster()
    key = fleet.issue_key()
    fleet.ready()
    assert status_of(fleet, key) == 200
    assert (drained.received_count, other.received_count) == (1, 0)

    fleet.control.call("set_cluster_state", name=drained.name, state="draining")
    wait_until(lambda: status_of(fleet, key) == 200 and other.received_count, within_s=REACHED_S_MAX)
    count_before = drained.received_count
    for _ in range(5):
        assert status_of(fleet, key) == 200

    assert drained.received_count == count_before


def test_new_route_is_served(production_fleet):
    fleet = production_fleet
    fleet.add_cluster()
    key = fleet.issue_key()
    fleet.ready()
    alias = f"alias-{fleet.token}"

    fleet.add_route(model=alias, candidates=[fleet.model])
    fleet.wait_for_model(alias, within_s=REACHED_S_MAX)
    answer = fleet.post(key, {**fleet.chat(), "model": alias})

    (row,) = fleet.settled_rows(key, count=1)
    assert answer.status_code == 200
    assert (row["model"], row["served_model"]) == (alias, fleet.model)


def test_new_price_is_the_rate_of_new_rows(production_fleet):
    fleet = production_fleet
    site = fleet.add_cluster(kind="provider", price=(1_000_000, 2_000_000))
    key = fleet.issue_key()
    fleet.ready()
    assert status_of(fleet, key) == 200

    def latest_rate():
        assert status_of(fleet, key) == 200
        rate = fleet.control.call("load_rows", key_id=key.id)[-1]["rate"]
        return rate["input_microusd_per_mtok"], rate["output_microusd_per_mtok"]

    fleet.control.call("set_price", cluster_name=site.name, model=fleet.model, price=(3_000_000, 4_000_000))
    wait_until(lambda: latest_rate() == (3_000_000, 4_000_000), within_s=REACHED_S_MAX)

    rows = fleet.control.call("load_rows", key_id=key.id)
    assert rows[0]["rate"]["output_microusd_per_mtok"] == 2_000_000
    assert [row["cost_nanousd"] for row in rows] == [cost_of(row) for row in rows]


def test_fallback_route_serves_where_no_candidate_can(production_fleet):
    fleet = production_fleet
    first = fleet.add_cluster()
    second = fleet.add_cluster(model=f"other-{fleet.token}")
    key = fleet.issue_key()
    alias = f"alias-{fleet.token}"
    fleet.add_route(model=alias, candidates=[fleet.model], fallbacks=[f"other-{fleet.token}"])
    fleet.control.call("set_cluster_state", name=first.name, state="disabled")
    fleet.ready()

    answer = fleet.post(key, {**fleet.chat(), "model": alias})

    (row,) = fleet.settled_rows(key, count=1)
    assert answer.status_code == 200
    assert (row["cluster"], row["served_model"]) == (second.name, f"other-{fleet.token}")
    assert row["decision"]["reason"] == "fallback"
