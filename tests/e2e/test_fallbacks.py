"""Fallbacks for what is too long or was filtered: each attempt is booked, the caller sees one answer."""

import openai
import pytest

from tests.e2e.fleet import cost_of

pytestmark = pytest.mark.e2e


def routed(fleet, *, spare=None, **chains):
    """A route over one cluster, and a spare model on another that its chains name; (small, large, key)."""
    small = fleet.add_cluster(kind="provider", context_window=1000)
    large = fleet.add_cluster(kind="provider", model=f"large-{fleet.token}", **(spare or {}))
    fleet.route = f"route-{fleet.token}"
    chains = {name: [f"large-{fleet.token}"] for name in chains}
    fleet.add_route(model=fleet.route, candidates=[fleet.model], **chains)
    key = fleet.issue_key(hard_limit_nanousd=10**12)
    fleet.earn_reroutes(1)
    return small, large, key


def asked(fleet, key, text="one two three", **members):
    return fleet.client(key).chat.completions.create(**{**fleet.chat(text, **members), "model": fleet.route})


def attempts(fleet, key, *, count):
    return [
        (row["cluster"], row["outcome"], row["error_code"]) for row in fleet.settled_rows(key, count=count)
    ]


def test_prompt_that_no_candidate_takes_goes_to_the_context_fallback(fleet):
    small, large, key = routed(fleet, context_fallbacks=True)

    asked(fleet, key, "long " * 1000, max_tokens=5)
    asked(fleet, key, max_tokens=5000)

    assert attempts(fleet, key, count=2) == [(large.name, "ok", ""), (large.name, "ok", "")]
    assert small.received_count == 0


def test_prompt_that_an_upstream_refuses_as_too_long_goes_to_the_context_fallback(fleet):
    small, large, key = routed(fleet, context_fallbacks=True)
    small.standin.set_fault("context_400")

    answer = asked(fleet, key)

    assert answer.choices[0].message.content
    assert attempts(fleet, key, count=2) == [
        (small.name, "failed", "upstream_refused"),
        (large.name, "ok", ""),
    ]
    refused, _ = fleet.settled_rows(key, count=2)
    assert refused["cost_nanousd"] == 0


def test_refusal_for_length_without_a_fallback_is_passed_on(fleet):
    small, large, key = routed(fleet)
    small.standin.set_fault("context_400")

    with pytest.raises(openai.BadRequestError) as refusal:
        asked(fleet, key)

    assert refusal.value.body["code"] == "context_length_exceeded"
    assert refusal.value.body["message"].startswith("This model's maximum context length is 16 tokens.")
    assert "fallback" not in refusal.value.body["message"]
    assert (small.received_count, large.received_count) == (1, 0)


def test_chain_that_is_exhausted_says_what_each_lacked(fleet):
    small, large, key = routed(fleet, spare={"context_window": 900}, context_fallbacks=True)
    small.standin.set_fault("context_400")

    with pytest.raises(openai.BadRequestError) as late:
        asked(fleet, key)
    with pytest.raises(openai.BadRequestError) as early:
        asked(fleet, key, "long " * 1000, max_tokens=7)

    assert late.value.body["message"].endswith(
        f"No context fallback of `{fleet.route}` can take it "
        f"({small.name}: tried, {large.name}: context_window)."
    )
    assert early.value.body["code"] == "context_length_exceeded"
    windows = f"`large-{fleet.token}` 900, `{fleet.model}` 1000"
    if f"large-{fleet.token}" > fleet.model:
        windows = f"`{fleet.model}` 1000, `large-{fleet.token}` 900"
    assert early.value.body["message"].endswith(
        f"and max_tokens (7) together are longer than every context window behind `{fleet.route}`, fallbacks "
        f"included ({windows} tokens); shorten one of them."
    )
    assert large.received_count == 0


@pytest.mark.parametrize("stream", [False, True])
def test_filtered_prompt_goes_to_the_content_filter_fallback(fleet, stream):
    small, large, key = routed(fleet, content_filter_fallbacks=True)
    small.standin.set_fault("filter_400")

    if stream:
        chunks = list(asked(fleet, key, stream=True))
        assert chunks[-1].choices[0].finish_reason == "stop"
    else:
        assert asked(fleet, key).choices[0].finish_reason == "stop"

    assert attempts(fleet, key, count=2) == [
        (small.name, "failed", "upstream_refused"),
        (large.name, "ok", ""),
    ]


def test_filtered_prompt_without_a_fallback_is_passed_on(fleet):
    small, large, key = routed(fleet, context_fallbacks=True)
    small.standin.set_fault("filter_400")

    with pytest.raises(openai.BadRequestError) as refusal:
        asked(fleet, key)

    assert refusal.value.body["code"] == "content_filter"
    assert (small.received_count, large.received_count) == (1, 0)


def test_answer_that_was_filtered_whole_is_paid_for_and_asked_elsewhere(fleet):
    small, large, key = routed(fleet, content_filter_fallbacks=True)
    small.standin.set_fault("filter_200")

    answer = asked(fleet, key)

    assert answer.choices[0].finish_reason == "stop"
    assert attempts(fleet, key, count=2) == [
        (small.name, "failed", "upstream_refused"),
        (large.name, "ok", ""),
    ]
    filtered, good = fleet.settled_rows(key, count=2)
    assert filtered["cost_nanousd"] == cost_of(filtered) > 0
    assert good["cost_nanousd"] == cost_of(good) > 0


def test_answer_that_was_filtered_whole_is_the_answer_where_there_is_no_fallback(fleet):
    small, _, key = routed(fleet)
    small.standin.set_fault("filter_200")

    answer = asked(fleet, key)

    assert (answer.choices[0].finish_reason, answer.choices[0].message.content) == ("content_filter", "")
    assert attempts(fleet, key, count=1) == [(small.name, "ok", "")]


def test_fallback_may_be_another_model_of_the_same_cluster(fleet):
    """A refusal for length says nothing against the cluster: its larger model may answer."""
    small = fleet.add_cluster(kind="provider", context_window=1000)
    larger = f"large-{fleet.token}"
    fleet.control.call("add_deployment", cluster=small.name, model=larger, context_window=100_000)
    fleet.route = f"route-{fleet.token}"
    fleet.add_route(model=fleet.route, candidates=[fleet.model], context_fallbacks=[larger])
    key = fleet.issue_key()
    fleet.earn_reroutes(1)
    small.standin.set_fault("context_400")

    # The stand-in knows only its first model; that it was asked for the larger one is what is to be shown.
    with pytest.raises(openai.NotFoundError):
        asked(fleet, key)

    assert small.received_count == 2


def test_session_stays_with_its_cluster_and_others_spread(fleet):
    sites = [fleet.add_cluster(cost_per_hour_nanousd=10**9) for _ in range(3)]
    key = fleet.issue_key()
    fleet.ready()

    for _ in range(12):
        answer = fleet.post(key, fleet.chat(max_tokens=2), headers={"x-gateway-session": "one"})
        assert answer.status_code == 200
    stayed = [site.received_count for site in sites]
    for _ in range(40):
        assert fleet.post(key, fleet.chat(max_tokens=2)).status_code == 200

    assert sorted(stayed) == [0, 0, 12]
    assert all(site.received_count > before for site, before in zip(sites, stayed, strict=True))


def test_weights_share_the_traffic(fleet):
    first, second, last = (fleet.add_cluster() for _ in range(3))
    route = f"route-{fleet.token}"
    weights = {first.name: 3, second.name: 1, last.name: 0}
    fleet.add_route(model=route, candidates=[fleet.model], policy="weighted", weights=weights)
    key = fleet.issue_key()
    fleet.ready()

    for _ in range(120):
        answer = fleet.post(key, {**fleet.chat(max_tokens=1), "model": route})
        assert answer.status_code == 200

    assert last.received_count == 0
    # 90 of 120 in the mean, with a deviation of 4.7: five of them are never passed.
    assert 66 <= first.received_count <= 114
