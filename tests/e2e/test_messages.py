"""The official Anthropic SDK at POST /v1/messages: it reads what the upstream said, and the row agrees."""

from datetime import UTC, datetime

import anthropic
import orjson
import pytest

from tests.e2e.fleet import cost_of, standin_extra, token_counts, wait_until
from tests.fakes.gateway_server import CLIENT_TIMEOUT_S

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def sdk(gateway):
    """Made once, because that alone takes a tenth of a second."""
    with anthropic.Anthropic(base_url=gateway.url, api_key="none", timeout=CLIENT_TIMEOUT_S) as client:
        yield client


@pytest.fixture
def client(sdk):
    def client(key):
        return sdk.with_options(api_key=key.key, max_retries=0)

    return client


def question(fleet, text="one two three", **members):
    return {
        "model": fleet.model,
        "max_tokens": 1000,
        "messages": [{"role": "user", "content": text}],
        **members,
    }


def test_message_is_answered_and_settled_exactly(fleet, client):
    fleet.add_cluster()
    key = fleet.issue_key()
    fleet.ready()

    raw = client(key).messages.with_raw_response.create(
        **question(fleet), **standin_extra(completion_tokens=5)
    )

    message = raw.parse()
    (row,) = fleet.settled_rows(key, count=1)
    (block,) = message.content
    assert len(block.text.split()) == 5
    assert message.to_dict() == {
        "id": f"msg_{row['request_id'].removeprefix('req_')}",
        "type": "message",
        "role": "assistant",
        "model": fleet.model,
        "content": [{"type": "text", "text": block.text}],
        "stop_reason": "end_turn",
        "stop_sequence": None,
        "usage": {
            "input_tokens": 10,
            "output_tokens": 5,
            "cache_creation_input_tokens": 0,
            "cache_read_input_tokens": 0,
            "service_tier": None,
        },
    }
    assert raw.headers["request-id"] == raw.headers["x-request-id"] == row["request_id"]
    assert (row["surface"], row["is_stream"], row["outcome"]) == ("chat", False, "ok")
    assert token_counts(row) == (10, 5)
    assert row["cost_nanousd"] == cost_of(row)


def test_stream_is_accumulated_to_the_same_message(fleet, client):
    fleet.add_cluster()
    key = fleet.issue_key()
    fleet.ready()

    with client(key).messages.stream(**question(fleet), **standin_extra(completion_tokens=5)) as stream:
        kinds = [event.type for event in stream if event.type != "text"]
        streamed = stream.get_final_message()
    plain = client(key).messages.create(**question(fleet), **standin_extra(completion_tokens=5))

    (row, _) = fleet.settled_rows(key, count=2)
    assert kinds == [
        "message_start",
        "content_block_start",
        *["content_block_delta"] * 5,
        "content_block_stop",
        "message_delta",
        "message_stop",
    ]
    assert streamed.content[0].text == plain.content[0].text
    assert streamed.usage.to_dict() == {
        name: value for name, value in plain.usage.to_dict().items() if name != "service_tier"
    }
    assert (streamed.stop_reason, streamed.model) == ("end_turn", fleet.model)
    assert (row["is_stream"], token_counts(row)) == (True, (10, 5))


WEATHER = {
    "name": "get_weather",
    "description": "The weather of a city.",
    "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
}
USED = {
    "role": "assistant",
    "content": [{"type": "tool_use", "id": "t1", "name": "get_weather", "input": {}}],
}
RESULT = {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t1", "content": "one two"}]}


@pytest.mark.parametrize("choice", [{"type": "any"}, {"type": "tool", "name": "get_weather"}])
def test_tool_is_called_alike_plain_and_streaming(fleet, client, choice):
    fleet.add_cluster()
    key = fleet.issue_key()
    fleet.ready()
    asked = question(fleet, tools=[WEATHER], tool_choice=choice)

    plain = client(key).messages.create(**asked)
    with client(key).messages.stream(**asked) as stream:
        streamed = stream.get_final_message()

    (call,) = plain.content
    (streamed_call,) = streamed.content
    assert (plain.stop_reason, streamed.stop_reason) == ("tool_use", "tool_use")
    assert (call.type, call.name, list(call.input)) == ("tool_use", "get_weather", ["city"])
    assert (streamed_call.name, streamed_call.input) == (call.name, call.input)
    assert call.id.startswith("call_")
    assert len(fleet.settled_rows(key, count=2)) == 2


def test_result_of_a_tool_is_part_of_the_prompt(fleet, client):
    fleet.add_cluster()
    key = fleet.issue_key()
    fleet.ready()
    messages = [{"role": "user", "content": "one"}, USED, RESULT]

    message = client(key).messages.create(
        **question(fleet, system="three", tools=[WEATHER], messages=messages),
        **standin_extra(completion_tokens=2),
    )

    (row,) = fleet.settled_rows(key, count=1)
    # One, two, one and three; 4 for each of four messages, and 3.
    assert message.usage.input_tokens == 4 + 4 * 4 + 3
    assert token_counts(row) == (23, 2)


def test_thoughts_come_as_blocks_of_their_own_and_are_counted(fleet, client):
    fleet.add_cluster(kind="provider")
    key = fleet.issue_key()
    fleet.ready()
    asked = {
        **question(fleet, thinking={"type": "enabled", "budget_tokens": 1024}),
        **standin_extra(completion_tokens=20, cached_tokens=4, reasoning_tokens=5),
    }

    plain = client(key).messages.create(**asked)
    with client(key).messages.stream(**asked) as stream:
        streamed = stream.get_final_message()

    rows = fleet.settled_rows(key, count=2)
    assert [block.type for block in plain.content] == ["thinking", "text"]
    assert len(plain.content[0].thinking.split()) == 5
    assert [block.to_dict() for block in streamed.content] == [block.to_dict() for block in plain.content]
    assert {
        (row["input_fresh_tokens"], row["cache_read_tokens"], row["reasoning_tokens"]) for row in rows
    } == {(6, 4, 5)}
    assert plain.usage.to_dict() == {
        "input_tokens": 6,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": 4,
        "output_tokens": 20,
        "output_tokens_details": {"thinking_tokens": 5},
        "service_tier": None,
    }


def test_limit_on_tokens_ends_a_message(fleet, client):
    fleet.add_cluster()
    key = fleet.issue_key()
    fleet.ready()

    message = client(key).messages.create(
        **{**question(fleet), "max_tokens": 3}, **standin_extra(completion_tokens=9)
    )

    assert (message.stop_reason, message.usage.output_tokens) == ("max_tokens", 3)
    assert len(fleet.settled_rows(key, count=1)) == 1


def test_fault_before_the_first_content_goes_to_the_next_cluster(fleet, client):
    first, second = fleet.add_cluster(), fleet.add_cluster()
    fleet.earn_reroutes(1)
    key = fleet.issue_key()
    fleet.ready()
    first.standin.set_fault("http_500")

    with client(key).messages.stream(**question(fleet), **standin_extra(completion_tokens=5)) as stream:
        message = stream.get_final_message()

    rows = fleet.settled_rows(key, count=2)
    assert [row["outcome"] for row in rows] == ["failed", "ok"]
    assert message.usage.output_tokens == 5
    assert [site.received_count for site in (first, second)] == [1, 1]


def test_fault_in_the_middle_is_an_error_event_and_no_end(fleet, client):
    fleet.add_cluster()
    key = fleet.issue_key()
    fleet.ready()

    answer = fleet.post(key, question(fleet, stream=True, standin_fault="eof_mid"), path="/v1/messages")
    with (
        pytest.raises(anthropic.APIStatusError) as raised,
        client(key).messages.stream(
            **question(fleet), **standin_extra(fault="eof_mid", completion_tokens=9)
        ) as stream,
    ):
        stream.until_done()

    rows = fleet.settled_rows(key, count=2)
    assert {row["outcome"] for row in rows} == {"truncated"}
    assert events_of(answer)[-1] == {
        "type": "error",
        "error": {
            "type": "api_error",
            "message": "The upstream ended its stream before the answer was complete.",
        },
        "request_id": answer.headers["request-id"],
    }
    assert "message_stop" not in answer.text
    assert raised.value.body["error"]["type"] == "api_error"


def events_of(answer):
    return [
        orjson.loads(frame.split(b"\ndata: ")[1]) for frame in answer.content.split(b"\n\n") if frame.strip()
    ]


@pytest.mark.parametrize(
    ("members", "error_class", "status", "kind", "words"),
    [
        ({"model": "absent"}, anthropic.NotFoundError, 404, "not_found_error", "`absent`"),
        ({"max_tokens": 0}, anthropic.BadRequestError, 400, "invalid_request_error", "`max_tokens`"),
        (
            {"tools": [{"type": "web_search_20250305", "name": "web_search"}]},
            anthropic.BadRequestError,
            400,
            "invalid_request_error",
            "`tools[0].type` `web_search_20250305` is not possible",
        ),
        ({"container": "c"}, anthropic.BadRequestError, 400, "invalid_request_error", "`container`"),
    ],
)
def test_refusal_has_the_class_that_the_sdk_has_for_it(
    fleet, client, members, error_class, status, kind, words
):
    fleet.add_cluster()
    key = fleet.issue_key()
    fleet.ready()

    with pytest.raises(error_class) as refused:
        client(key).messages.create(**{**question(fleet), **members})

    error = refused.value
    assert (error.status_code, error.type, error.request_id[:4]) == (status, kind, "req_")
    assert error.body == {
        "type": "error",
        "error": {"type": kind, "message": error.body["error"]["message"]},
        "request_id": error.request_id,
    }
    assert words in error.body["error"]["message"]
    assert fleet.settled_rows(key, count=0) == []


def test_wrong_key_and_spent_budget_are_told_in_anthropics_words(fleet, client):
    fleet.add_cluster()
    key = fleet.issue_key(hard_limit_nanousd=1)
    fleet.ready()

    with pytest.raises(anthropic.AuthenticationError) as unknown:
        client(key).with_options(api_key="tg_wrong").messages.create(**question(fleet))
    with pytest.raises(anthropic.APIStatusError) as spent:
        client(key).messages.create(**question(fleet))

    assert unknown.value.type == "authentication_error"
    assert (spent.value.status_code, spent.value.type) == (402, "billing_error")
    assert spent.value.response.headers["x-should-retry"] == "false"


def test_limits_are_told_by_anthropics_headers(fleet, client):
    fleet.add_cluster()
    key = fleet.issue_key(rpm_max=1)
    fleet.ready()

    told = client(key).messages.with_raw_response.create(**question(fleet)).headers
    with pytest.raises(anthropic.RateLimitError) as refused:
        client(key).messages.create(**question(fleet))

    left = refused.value.response.headers
    names = [f"anthropic-ratelimit-requests-{figure}" for figure in ("limit", "remaining")]
    assert [[headers[name] for name in names] for headers in (told, left)] == [["1", "0"], ["1", "0"]]
    assert datetime.fromisoformat(told["anthropic-ratelimit-requests-reset"]).tzinfo == UTC
    assert refused.value.type == "rate_limit_error"
    assert 1 <= int(left["retry-after"]) <= 62


@pytest.mark.parametrize("is_stream", [False, True])
def test_idempotency_key_gets_the_same_message_byte_for_byte(fleet, is_stream):
    fleet.add_cluster()
    key = fleet.issue_key()
    fleet.ready()
    headers = {"idempotency-key": f"job-{fleet.token}"}
    body = question(fleet, stream=is_stream, standin_completion_tokens=5)

    first = fleet.post(key, body, path="/v1/messages", headers=headers)
    again = fleet.post(key, body, path="/v1/messages", headers=headers)

    assert (first.status_code, again.status_code) == (200, 200)
    assert again.content == first.content
    assert again.headers["idempotency-replayed"] == "true"
    assert again.headers["content-type"] == first.headers["content-type"]
    assert len(fleet.settled_rows(key, count=1)) == 1


def test_caller_who_leaves_is_booked_as_cancelled(fleet, client):
    site = fleet.add_cluster(standin={"tokens_per_s": 50.0})
    key = fleet.issue_key(hard_limit_nanousd=10**12)
    fleet.ready()

    with client(key).messages.create(
        **question(fleet), stream=True, **standin_extra(completion_tokens=1000)
    ) as stream:
        assert next(iter(stream)).type == "message_start"

    (row,) = fleet.settled_rows(key, count=1)
    wait_until(lambda: site.records)
    assert (row["outcome"], row["is_estimate"]) == ("cancelled", True)


def test_tokens_are_counted_by_vllm_and_estimated_elsewhere(fleet, client):
    site = fleet.add_cluster()
    elsewhere = f"elsewhere-{fleet.token}"
    fleet.add_cluster(kind="provider", model=elsewhere)
    key = fleet.issue_key()
    fleet.ready()
    asked = {"messages": [{"role": "user", "content": "one two three"}], "system": "four"}
    count = client(key).messages.with_raw_response.count_tokens

    counted = count(model=fleet.model, **asked)
    estimated = count(model=elsewhere, **asked)
    with_picture = count(model=fleet.model, messages=[PICTURE])

    assert (counted.parse().input_tokens, counted.headers["x-gateway-token-count"]) == (
        4 + 2 * 4 + 3,
        "exact",
    )
    assert counted.headers["x-gateway-cluster"] == site.name
    assert [raw.headers["x-gateway-token-count"] for raw in (estimated, with_picture)] == ["estimate"] * 2
    assert estimated.parse().input_tokens == -(-len(chat_of(elsewhere)) // 4)
    with pytest.raises(anthropic.NotFoundError):
        count(model="absent", **asked)
    assert fleet.settled_rows(key, count=0) == []


PICTURE = {
    "role": "user",
    "content": [{"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "AAAA"}}],
}


def chat_of(model):
    messages = [{"role": "system", "content": "four"}, {"role": "user", "content": "one two three"}]
    return orjson.dumps({"model": model, "messages": messages, "max_tokens": 1})


def test_llamacpp_answers_counts_and_takes_tools(fleet, client, llama_url):
    fleet.add_cluster(endpoint=llama_url, backend="llamacpp", context_window=8192)
    key = fleet.issue_key()
    fleet.ready()
    asked = question(
        fleet,
        "the gateway",
        system=[{"type": "text", "text": "the router", "cache_control": {"type": "ephemeral"}}],
        tools=[WEATHER],
        thinking={"type": "enabled", "budget_tokens": 1024},
        extra_body={"top_k": 1},
        metadata={"user_id": "u" * 100},
        max_tokens=12,
    )
    conversation = {**asked, "messages": [*asked["messages"], USED, RESULT]}

    plain = client(key).messages.create(**asked)
    with client(key).messages.stream(**asked) as stream:
        streamed = stream.get_final_message()
    longer = client(key).messages.create(**conversation)
    counted = client(key).messages.with_raw_response.count_tokens(
        **{name: asked[name] for name in ("model", "messages", "system", "tools")}
    )

    rows = fleet.settled_rows(key, count=3)
    assert plain.content[0].text
    assert streamed.content[0].text == plain.content[0].text
    assert [prompt_tokens(message) for message in (plain, streamed, longer)] == [
        token_counts(row)[0] for row in rows
    ]
    assert [message.usage.output_tokens for message in (plain, streamed, longer)] == [
        token_counts(row)[1] for row in rows
    ]
    assert not any(row["is_estimate"] for row in rows)
    assert prompt_tokens(longer) > prompt_tokens(plain)
    assert counted.parse().input_tokens == prompt_tokens(plain)
    assert counted.headers["x-gateway-token-count"] == "exact"


def prompt_tokens(message):
    return message.usage.input_tokens + message.usage.cache_read_input_tokens
