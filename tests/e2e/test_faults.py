"""Faults of upstreams: before the first content nobody notices, after it the caller hears; all is booked."""

import asyncio
import contextlib
from collections import Counter

import httpx
import openai
import orjson
import pytest

from tests.e2e.fleet import CHAT_PATH, cost_of, standin_extra, token_counts
from tests.fakes.gateway_server import CLIENT_TIMEOUT_S

pytestmark = pytest.mark.e2e

# The error code of the attempt's row, by the fault that strikes before the first content.
EARLY_FAULTS = {
    "http_500": "upstream_error",
    "http_503": "upstream_error",
    "http_429": "overloaded",
    "http_401": "upstream_auth",
    "not_json": "upstream_invalid_response",
    "html_200": "upstream_invalid_response",
    "empty_200": "upstream_invalid_response",
    "short_body": "upstream_invalid_response",
    "error_first": "upstream_error",
    "reset_first": "upstream_unreachable",
    "stall_headers": "upstream_timeout",
    "stall_first": "upstream_timeout",
}
# The same for faults in the middle; a plain answer is only shown whole, so for it they are early.
MID_FAULTS = {
    "reset_mid": "upstream_invalid_response",
    "eof_mid": "upstream_invalid_response",
    "bad_sse_mid": "upstream_invalid_response",
    "error_mid": "upstream_error",
    "stall_mid": "upstream_timeout",
}
PLAIN_FAULTS = EARLY_FAULTS | MID_FAULTS
UNSEEN = {"stall_headers", "stall_first", "stall_mid"}


def faulty_fleet(fleet, kind):
    """A faulty cluster that is preferred, and a healthy sibling."""
    faulty = fleet.add_cluster(is_dead=kind == "refused")
    healthy = fleet.add_cluster()
    key = fleet.issue_key(hard_limit_nanousd=10**12)
    fleet.earn_reroutes(1)
    if kind != "refused":
        faulty.standin.set_fault(kind)
    return faulty, healthy, key


def check_two_attempts(fleet, key, *, sites, kind, code):
    """The failed attempt and the good one each have a row, and only an unseen one may have cost something."""
    failed, good = fleet.settled_rows(key, count=2)
    assert [row["cluster"] for row in (failed, good)] == [site.name for site in sites]
    assert (failed["outcome"], failed["error_code"], failed["attempt_number"]) == ("failed", code, 1)
    assert (good["outcome"], good["error_code"], good["attempt_number"]) == ("ok", "", 2)
    assert failed["request_id"] == good["request_id"]
    assert (failed["cost_nanousd"] > 0, failed["is_estimate"]) == (kind in UNSEEN, kind in UNSEEN)
    assert (token_counts(good), good["is_estimate"], good["cost_nanousd"]) == ((10, 17), False, cost_of(good))


@pytest.mark.parametrize(("kind", "code"), [("refused", "upstream_unreachable"), *PLAIN_FAULTS.items()])
def test_fault_of_a_plain_answer_is_not_noticed(fleet, kind, code):
    faulty, healthy, key = faulty_fleet(fleet, kind)

    answer = fleet.ask(key, text="one two three", **standin_extra(completion_tokens=17))

    assert len(answer.choices[0].message.content.split()) == 17
    assert answer.usage.to_dict() == {"prompt_tokens": 10, "completion_tokens": 17, "total_tokens": 27}
    check_two_attempts(fleet, key, sites=(faulty, healthy), kind=kind, code=code)


@pytest.mark.parametrize(("kind", "code"), [("refused", "upstream_unreachable"), *EARLY_FAULTS.items()])
def test_fault_before_the_first_content_of_a_stream_is_not_noticed(fleet, kind, code):
    faulty, healthy, key = faulty_fleet(fleet, kind)

    with fleet.client(key).chat.completions.create(
        **fleet.chat("one two three"),
        stream=True,
        stream_options={"include_usage": True},
        **standin_extra(completion_tokens=17),
    ) as stream:
        chunks = list(stream)

    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert len(text.split()) == 17
    assert len({chunk.id for chunk in chunks}) == 1
    assert chunks[-1].usage.to_dict() == {"prompt_tokens": 10, "completion_tokens": 17, "total_tokens": 27}
    check_two_attempts(fleet, key, sites=(faulty, healthy), kind=kind, code=code)


@pytest.mark.parametrize(("kind", "code"), MID_FAULTS.items())
def test_fault_after_the_first_content_is_told_in_the_stream(fleet, kind, code):
    site = fleet.add_cluster()
    sibling = fleet.add_cluster()
    key = fleet.issue_key(hard_limit_nanousd=10**12)
    fleet.ready()
    site.standin.set_fault(kind, after_tokens=3)

    frames = fleet.frames(key, standin_completion_tokens=17)

    (row,) = fleet.settled_rows(key, count=1)
    events = [orjson.loads(frame) for frame in frames]
    text = "".join(event["choices"][0]["delta"].get("content", "") for event in events[:-1])
    assert len(text.split()) == 3
    assert set(events[-1]) == {"error"}
    assert (events[-1]["error"]["code"], events[-1]["error"]["type"]) == (code, "upstream_error")
    assert (row["outcome"], row["error_code"], row["is_estimate"]) == ("truncated", code, True)
    assert 3 <= token_counts(row)[1] <= 5
    assert row["cost_nanousd"] == cost_of(row) > 0
    assert sibling.received_count == 0


def test_fault_in_the_middle_raises_in_the_sdk(fleet):
    site = fleet.add_cluster()
    key = fleet.issue_key()
    fleet.ready()
    site.standin.set_fault("eof_mid", after_tokens=3)
    chunks = []

    with (
        pytest.raises(openai.APIError) as raised,
        fleet.client(key, max_retries=2).chat.completions.create(**fleet.chat(), stream=True) as stream,
    ):
        chunks.extend(stream)

    assert raised.value.code == "upstream_invalid_response"
    assert len(chunks) == 4
    assert site.received_count == 1


@pytest.mark.parametrize("is_stream", [False, True])
@pytest.mark.parametrize("kind", ["no_usage", "bad_usage"])
def test_usage_that_is_missing_or_impossible_is_estimated_and_flagged(fleet, kind, is_stream):
    site = fleet.add_cluster()
    key = fleet.issue_key(hard_limit_nanousd=10**12)
    fleet.ready()
    site.standin.set_fault(kind)
    body = fleet.chat("one two three", stream=is_stream, standin_completion_tokens=17)

    answer = fleet.post(key, body)

    (row,) = fleet.settled_rows(key, count=1)
    prompt, completion = token_counts(row)
    assert answer.status_code == 200
    assert (row["outcome"], row["is_estimate"], row["variance_nanousd"]) == ("ok", True, 0)
    assert prompt == -(-len(orjson.dumps(body)) // 4)
    assert completion >= 17
    assert 0 < row["cost_nanousd"] <= row["held_nanousd"]


def test_usage_on_the_last_content_chunk_is_exact_and_hidden(fleet):
    site = fleet.add_cluster()
    key = fleet.issue_key()
    fleet.ready()
    site.standin.set_fault("usage_in_last_chunk")

    frames = fleet.frames(key, "one two three", standin_completion_tokens=17)

    (row,) = fleet.settled_rows(key, count=1)
    events = [orjson.loads(frame) for frame in frames[:-1]]
    assert frames[-1] == b"[DONE]"
    assert [event for event in events if "usage" in event] == []
    assert events[-1]["choices"][0]["finish_reason"] == "stop"
    assert (token_counts(row), row["is_estimate"]) == ((10, 17), False)


def test_stream_that_ignores_max_tokens_is_cut_within_its_hold(fleet):
    site = fleet.add_cluster(standin={"tokens_per_s": 400.0})
    key = fleet.issue_key(hard_limit_nanousd=10**12)
    fleet.ready()
    site.standin.set_fault("ignores_max_tokens")

    frames = fleet.frames(key, max_tokens=5)

    (row,) = fleet.settled_rows(key, count=1)
    assert orjson.loads(frames[-1])["error"]["code"] == "upstream_invalid_response"
    assert (row["outcome"], token_counts(row)[1]) == ("truncated", 5)
    assert row["cost_nanousd"] == cost_of(row) <= row["held_nanousd"]


def test_plain_answer_above_its_hold_is_charged_the_hold_and_shows_the_variance(fleet):
    site = fleet.add_cluster(price=(1_000, 90_000_000))
    key = fleet.issue_key(hard_limit_nanousd=10**12)
    fleet.ready()
    site.standin.set_fault("ignores_max_tokens")

    answer = fleet.ask(key, max_tokens=5)

    (row,) = fleet.settled_rows(key, count=1)
    (window,) = fleet.windows(key)
    assert answer.usage.completion_tokens == token_counts(row)[1] == 69
    assert row["cost_nanousd"] == row["held_nanousd"] == window["spent_nanousd"]
    assert row["variance_nanousd"] == cost_of(row) - row["held_nanousd"] > 0


async def test_all_clusters_down_is_said_plainly_and_not_amplified(fleet):
    sites = [fleet.add_cluster(), fleet.add_cluster()]
    key = fleet.issue_key()
    fleet.ready()
    for site in sites:
        site.standin.set_fault("http_500", count=None)
    count, at_once = 200, asyncio.Semaphore(8)

    async def ask(client):
        async with at_once:
            return await client.post(CHAT_PATH, json=fleet.chat())

    async with httpx.AsyncClient(
        base_url=fleet.gateway.url,
        headers={"authorization": f"Bearer {key.key}"},
        timeout=CLIENT_TIMEOUT_S,
    ) as client:
        answers = await asyncio.gather(*(ask(client) for _ in range(count)))

    received = sum(site.received_count for site in sites)
    errors = [answer.json()["error"] for answer in answers]
    assert Counter(answer.status_code for answer in answers) == {502: count}
    assert {frozenset(error) for error in errors} == {frozenset({"message", "type", "param", "code"})}
    assert {error["code"] for error in errors} == {"upstream_error"}
    assert count <= received <= 1.1 * count
    rows = fleet.settled_rows(key, count=received)
    assert {(row["outcome"], row["cost_nanousd"]) for row in rows} == {("failed", 0)}


def test_no_cluster_at_all_is_a_503(fleet):
    site = fleet.add_cluster()
    key = fleet.issue_key()
    fleet.control.call("set_cluster_state", name=site.name, state="draining")
    fleet.ready()

    with pytest.raises(openai.InternalServerError) as refused:
        fleet.ask(key)

    assert (refused.value.status_code, refused.value.code) == (503, "no_healthy_cluster")
    assert refused.value.response.headers["retry-after"] == "5"


def test_dead_cluster_is_left_alone_after_its_first_failures(fleet):
    """40 requests, one after the other: none fails, and few are sent to the dead one."""
    faulty = fleet.add_cluster()
    fleet.add_cluster()
    key = fleet.issue_key()
    fleet.earn_reroutes(6)
    faulty.standin.set_fault("http_500", count=None)

    statuses = []
    for _ in range(40):
        with contextlib.suppress(openai.APIError):
            statuses.append(fleet.post(key, fleet.chat(max_tokens=3)).status_code)

    assert statuses == [200] * 40
    assert faulty.received_count <= 6
