"""The policy `marginal` on a running gateway: own capacity first, only the overflow is bought."""

from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.e2e.fleet import Key, wait_until

pytestmark = pytest.mark.e2e

REACHED_S_MAX = 2.0
CHEAP, DEAR = (1_000_000, 2_000_000), (5_000_000, 9_000_000)


def alias_of(fleet):
    """A route by `marginal` over the test's model."""
    alias = f"marginal-{fleet.token}"
    fleet.add_route(model=alias, candidates=[fleet.model], policy="marginal")
    fleet.wait_for_model(alias)
    return alias


def at_once(fleet, key, model, *, count, words=4, **members):
    """So many streams at once; the clusters that served them, by their rows."""
    known = len(fleet.control.call("load_rows", key_id=key.id))
    body = {**fleet.chat("word " * words, stream=True, **members), "model": model}
    with ThreadPoolExecutor(count) as callers:
        answers = list(callers.map(lambda _: fleet.post(key, body), range(count)))
    assert [answer.status_code for answer in answers] == [200] * count
    return [row["cluster"] for row in fleet.settled_rows(key, count=known + count)[known:]]


def test_traffic_follows_a_providers_price_and_the_row_says_so(production_fleet):
    fleet = production_fleet
    first = fleet.add_cluster(kind="provider", price=CHEAP)
    second = fleet.add_cluster(kind="provider", price=(2_000_000, 4_000_000))
    key = fleet.issue_key()
    fleet.ready()
    model = alias_of(fleet)
    assert at_once(fleet, key, model, count=1, max_tokens=5) == [first.name]

    fleet.control.call("set_price", cluster_name=first.name, model=fleet.model, price=DEAR)
    seen = []
    wait_until(
        lambda: seen.append(at_once(fleet, key, model, count=1, max_tokens=5)) or seen[-1] == [second.name],
        within_s=REACHED_S_MAX,
    )

    row = fleet.control.call("load_rows", key_id=key.id)[-1]
    costs = {place.partition("/")[0]: cost for place, cost, _ in row["decision"]["ranked"]}
    assert (row["cluster"], row["decision"]["reason"]) == (second.name, "marginal")
    assert list(costs) == [second.name, first.name]
    assert costs[first.name] > 2 * costs[second.name]


def test_only_what_a_full_cluster_cannot_take_is_bought_and_traffic_comes_back(production_fleet):
    fleet = production_fleet
    own = fleet.add_cluster(in_flight_max=3, standin={"tokens_per_s": 120, "request_tokens_per_s": 40})
    bought = fleet.add_cluster(kind="provider", price=DEAR)
    key = fleet.issue_key()
    fleet.ready()
    model = alias_of(fleet)

    assert at_once(fleet, key, model, count=1, max_tokens=2) == [own.name]
    served = at_once(fleet, key, model, count=8, max_tokens=40)
    assert at_once(fleet, key, model, count=3, max_tokens=2) == [own.name] * 3

    assert sorted(served) == [own.name] * 3 + [bought.name] * 5


def test_what_would_come_late_is_bought_before_the_cluster_is_full(production_fleet):
    """A prompt of 400 tokens takes half a second here: four in a row would miss 1.5 s + 0.2 s."""
    fleet = production_fleet
    own = fleet.add_cluster(standin={"tokens_per_s": 400, "prefill_tokens_per_s": 800})
    bought = fleet.add_cluster(kind="provider", price=DEAR)
    key = fleet.issue_key()
    fleet.ready()
    model = alias_of(fleet)
    for _ in range(3):
        assert at_once(fleet, key, model, count=1, words=400, max_tokens=2) == [own.name]

    served = at_once(fleet, key, model, count=12, words=400, max_tokens=2)
    back = at_once(fleet, key, model, count=1, words=400, max_tokens=2)

    assert 1 <= served.count(own.name) <= 5
    assert served.count(bought.name) == 12 - served.count(own.name)
    assert back == [own.name]


def test_a_team_reads_why_its_requests_went_where_they_did(production_fleet):
    fleet = production_fleet
    own = fleet.add_cluster()
    bought = fleet.add_cluster(kind="provider", price=DEAR)
    key = fleet.issue_key()
    fleet.ready()
    model = alias_of(fleet)
    stranger = Key(**fleet.control.call("issue_key", name="stranger", team=f"strangers-{fleet.token}"))
    answer = fleet.post(key, {**fleet.chat(max_tokens=5), "model": model})
    request_id = answer.headers["x-request-id"]
    fleet.settled_rows(key, count=1)

    def ask(key, request_id=request_id):
        headers = {"authorization": f"Bearer {key.key}"}
        return fleet.gateway.get(f"/v1/requests/{request_id}", headers=headers)

    document = ask(key).json()
    (attempt,) = document["attempts"]
    assert (document["id"], document["model"], attempt["cluster"]) == (request_id, model, own.name)
    assert attempt["explanation"][0] == "Policy marginal."
    assert attempt["next_best"]["place"].startswith(bought.name)
    wait_until(lambda: ask(stranger).status_code == 404, within_s=REACHED_S_MAX)
    assert ask(stranger).json()["error"]["code"] == "not_found"
    assert ask(key, "req_unknown").status_code == 404
