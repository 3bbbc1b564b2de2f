"""Experiments through a real gateway: shares, stickiness, crossing over, feedback, and the automatic stop."""

from collections import Counter

import pytest

from tests.e2e.fleet import wait_until

pytestmark = pytest.mark.e2e


class Trial:
    """A route with two arms, each with a stand-in of its own, and a key."""

    def __init__(self, fleet, *, weights=(50, 50), treatment=None, **values):
        self.fleet = fleet
        self.key = fleet.issue_key()
        self.models = [f"{fleet.model}-a", f"{fleet.model}-b"]
        self.sites = [
            fleet.add_cluster(model=self.models[0]),
            fleet.add_cluster(model=self.models[1], **(treatment or {})),
        ]
        self.name = f"trial-{fleet.token}"
        fleet.add_route(model=fleet.model, candidates=self.models)
        arms = list(zip(self.models, weights, strict=True))
        fleet.control.call("add_experiment", name=self.name, route=fleet.model, arms=arms, **values)
        fleet.ready()

    def ask(self, user, **members):
        body = self.fleet.chat(user=user, max_tokens=2, **members)
        return self.fleet.post(self.key, body)

    def arm_of(self, user):
        answer = self.ask(user)
        assert answer.status_code == 200, answer.text
        return answer.headers["x-gateway-model"]


def test_arms_share_the_callers_and_each_caller_stays(fleet):
    trial = Trial(fleet, weights=(70, 30))
    users = [f"user-{number}" for number in range(80)]

    first = [trial.arm_of(user) for user in users]
    again = [trial.arm_of(user) for user in users[:20]]

    assert again == first[:20]
    # Three standard deviations of a share of 80 callers are 15 points.
    assert Counter(first)[trial.models[1]] / len(users) == pytest.approx(0.3, abs=0.16)
    rows = fleet.settled_rows(trial.key, count=100)
    assert {row["experiment"] for row in rows} == {trial.name}
    assert [row["arm"] for row in rows] == [row["served_model"] for row in rows] == first + again


def test_session_header_goes_before_the_user_and_the_key_is_a_caller_too(fleet):
    trial = Trial(fleet)

    def served(session, user):
        headers = {"x-gateway-session": session} if session else {}
        body = fleet.chat(max_tokens=2, **({"user": user} if user else {}))
        return fleet.post(trial.key, body, headers=headers).headers["x-gateway-model"]

    by_session = {session: served(session, "u") for session in map(str, range(12))}

    assert set(by_session.values()) == set(trial.models)
    assert {session: served(session, "another") for session in by_session} == by_session
    assert len({served("", "") for _ in range(5)}) == 1


def test_caller_crosses_over_while_its_arms_cluster_is_down(fleet):
    trial = Trial(fleet, weights=(0, 1))
    fleet.control.call("set_cluster_state", name=trial.sites[1].name, state="disabled")
    wait_until(lambda: trial.arm_of("u") == trial.models[0])

    row = fleet.settled_rows(trial.key, count=len(trial.sites[0].records) + len(trial.sites[1].records))[-1]

    assert (row["arm"], row["served_model"]) == (trial.models[1], trial.models[0])
    assert row["decision"]["crossed_over"] is True
    sums = fleet.control.call("arm_sums", name=trial.name)[trial.models[1]]
    assert sums["crossed_over"] >= 1


def test_feedback_is_kept_once_per_request_and_moves_the_arms_sums(fleet):
    trial = Trial(fleet, weights=(1, 0))
    request_id = trial.ask("u").headers["x-request-id"]
    fleet.settled_rows(trial.key, count=1)

    first = fleet.post(trial.key, {"request_id": request_id, "score": 0.25}, path="/v1/feedback")
    second = fleet.post(
        trial.key, {"id": request_id, "score": 1, "comment": "on a second look"}, path="/v1/feedback"
    )

    assert first.status_code == 200
    assert (second.status_code, second.json()) == (
        200,
        {
            "object": "feedback",
            "request_id": request_id,
            "model": trial.models[0],
            "score": 1.0,
            "comment": "on a second look",
        },
    )
    sums = fleet.control.call("arm_sums", name=trial.name)[trial.models[0]]
    assert (sums["feedback_count"], sums["feedback_score"], sums["feedback_squares"]) == (1, 1.0, 1.0)


def test_feedback_of_another_teams_request_is_not_found(fleet, observer):
    trial = Trial(fleet)
    request_id = fleet.post(trial.key, fleet.chat(max_tokens=2)).headers["x-request-id"]
    fleet.settled_rows(trial.key, count=1)

    answer = fleet.post(observer, {"request_id": request_id, "score": 1}, path="/v1/feedback")

    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "not_found")


@pytest.mark.parametrize(
    "body",
    [
        {"score": 1},
        {"request_id": "r", "id": "r", "score": 1},
        {"request_id": "r"},
        {"request_id": "r", "score": 1.01},
        {"request_id": "r", "score": True},
        {"request_id": "r" * 65, "score": 1},
        {"request_id": "r", "score": 1, "comment": "c" * 1_001},
        {"request_id": "r", "score": 1, "stars": 5},
        [],
    ],
)
def test_feedback_that_makes_no_sense_is_refused(fleet, observer, body):
    answer = fleet.post(observer, body, path="/v1/feedback")

    assert (answer.status_code, answer.json()["error"]["type"]) == (400, "invalid_request_error")


def send_to_both(trial, *, count):
    for number in range(count):
        trial.ask(f"user-{number}", stream=True)


def test_arm_that_refuses_requests_stops_the_experiment_and_gateways_follow(fleet):
    trial = Trial(fleet, samples_min=30)
    trial.sites[1].standin.app.faults.add(kind="http_400", count=None)
    send_to_both(trial, count=100)

    assert fleet.control.call("guard_experiments") == [trial.name]

    found = fleet.control.call("get_experiment", name=trial.name)
    assert (found["state"], found["stopped_reason"]) == (
        "stopped",
        (
            f"{trial.models[1]} failed in 100.0% of its attempts, the control {trial.models[0]} in 0.0%; "
            "5 points more are allowed"
        ),
    )
    # By cost, the first arm's cluster is every caller's now.
    assert wait_until(lambda: all(trial.ask(f"user-{n}").status_code == 200 for n in range(8))) < 2.5


def test_arm_that_answers_late_stops_the_experiment(fleet):
    late = {"standin": {"ttft_ms": 60.0, "tokens_per_s": 10_000.0}}
    trial = Trial(fleet, treatment=late, samples_min=30)
    send_to_both(trial, count=100)

    assert fleet.control.call("guard_experiments") == [trial.name]

    reason = fleet.control.call("get_experiment", name=trial.name)["stopped_reason"]
    assert reason.startswith(f"the first token of {trial.models[1]} came after ")


def test_equal_arms_go_on(fleet):
    trial = Trial(fleet, samples_min=30, latency_increase_percent=500)
    send_to_both(trial, count=100)

    assert fleet.control.call("guard_experiments") == []
