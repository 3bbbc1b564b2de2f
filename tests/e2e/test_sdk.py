"""The official OpenAI SDK at the gateway: what it reads is what the upstream said, and the row agrees."""

import base64
import struct

import httpx
import openai
import pytest

from tests.e2e.fleet import PRICE, cost_of, standin_extra, token_counts
from tests.fakes.gateway_server import CLIENT_TIMEOUT_S

pytestmark = pytest.mark.e2e

# The internal rate of the fleet's first cluster: $0.36 an hour / (100 tokens/s * 3600 s) * 1.1, per million.
FIRST_OWN_RATE = 1_100_000


class CountingTransport(httpx.HTTPTransport):
    """Counts what the SDK really sends."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def handle_request(self, request):
        self.count += 1
        return super().handle_request(request)


def usage_of(row):
    prompt, completion = token_counts(row)
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}


def the_rows_facts(row):
    names = ("outcome", "error_code", "is_estimate", "surface", "is_stream", "attempt_number", "cluster_kind")
    return tuple(row[name] for name in names)


def test_chat_answers_and_is_settled_exactly(fleet):
    site = fleet.add_cluster()
    key = fleet.issue_key()
    fleet.ready()

    answer = fleet.ask(key, text="one two three", **standin_extra(completion_tokens=17))

    (row,) = fleet.settled_rows(key, count=1)
    (record,) = site.records
    assert answer.model == fleet.model
    assert len(answer.choices[0].message.content.split()) == 17
    assert answer.usage.to_dict() == {"prompt_tokens": 10, "completion_tokens": 17, "total_tokens": 27}
    assert usage_of(row) == answer.usage.to_dict()
    assert the_rows_facts(row) == ("ok", "", False, "chat", False, 1, "own")
    assert (record["attempt_id"], record["prompt_tokens"], record["completion_tokens"]) == (
        row["attempt_id"],
        10,
        17,
    )
    assert row["rate"]["input_microusd_per_mtok"] == FIRST_OWN_RATE
    assert row["cost_nanousd"] == cost_of(row) == -(-27 * FIRST_OWN_RATE // 1000)


def test_chat_at_a_provider_costs_its_price_in_each_bucket(fleet):
    fleet.add_cluster(kind="provider")
    key = fleet.issue_key()
    fleet.ready()

    answer = fleet.ask(
        key,
        text="one two three",
        **standin_extra(completion_tokens=20, cached_tokens=4, reasoning_tokens=5),
    )

    (row,) = fleet.settled_rows(key, count=1)
    assert answer.usage.prompt_tokens_details.cached_tokens == 4
    assert (
        row["input_fresh_tokens"],
        row["cache_read_tokens"],
        row["output_text_tokens"],
        row["reasoning_tokens"],
    ) == (6, 4, 15, 5)
    assert row["cost_nanousd"] == cost_of(row) == -(-(10 * PRICE[0] + 20 * PRICE[1]) // 1000)


def test_completion_answers_each_prompt_and_choice(fleet):
    fleet.add_cluster()
    key = fleet.issue_key()
    fleet.ready()

    answer = fleet.client(key).completions.create(
        model=fleet.model,
        prompt=["one two", "three"],
        n=2,
        max_tokens=9,
        **standin_extra(completion_tokens=9),
    )

    (row,) = fleet.settled_rows(key, count=1)
    assert [choice.finish_reason for choice in answer.choices] == ["stop"] * 4
    assert answer.usage.to_dict() == {"prompt_tokens": 3, "completion_tokens": 36, "total_tokens": 39}
    assert usage_of(row) == answer.usage.to_dict()
    assert the_rows_facts(row) == ("ok", "", False, "completions", False, 1, "own")


def test_embeddings_arrive_as_floats_and_travel_as_base64(fleet):
    fleet.add_cluster()
    key = fleet.issue_key()
    fleet.ready()

    answer = fleet.client(key).embeddings.create(model=fleet.model, input=["one two", "three"], dimensions=8)
    raw = fleet.client(key).embeddings.create(
        model=fleet.model, input=["one two", "three"], dimensions=8, encoding_format="base64"
    )

    rows = fleet.settled_rows(key, count=2)
    unpacked = [list(struct.unpack("<8f", base64.b64decode(entry.embedding))) for entry in raw.data]
    assert [entry.embedding for entry in answer.data] == unpacked
    assert answer.usage.to_dict() == {"prompt_tokens": 3, "total_tokens": 3}
    assert [token_counts(row) for row in rows] == [(3, 0), (3, 0)]
    assert the_rows_facts(rows[0]) == ("ok", "", False, "embeddings", False, 1, "own")


def test_models_are_listed_and_found_by_an_id_with_slashes(fleet):
    fleet.add_cluster()
    fleet.add_cluster(model=f"other-{fleet.token}")
    key = fleet.issue_key(allowed_models=[fleet.model, f"absent-{fleet.token}"])
    fleet.ready()
    client = fleet.client(key)

    listed = client.models.list()
    found = client.models.retrieve(fleet.model)

    expected = {"id": fleet.model, "object": "model", "created": 0, "owned_by": "tollgate"}
    assert [entry.to_dict() for entry in listed.data] == [expected]
    assert found.to_dict() == expected
    with pytest.raises(openai.NotFoundError) as absent:
        client.models.retrieve(f"acme/absent-{fleet.token}")
    assert absent.value.code == "model_not_found"
    with pytest.raises(openai.PermissionDeniedError) as refused:
        client.models.retrieve(f"other-{fleet.token}")
    assert refused.value.code == "permission_denied"


def test_stream_without_usage_shows_none_and_is_settled_exactly(fleet):
    site = fleet.add_cluster()
    key = fleet.issue_key()
    fleet.ready()

    with fleet.client(key).chat.completions.create(
        **fleet.chat("one two three"), stream=True, **standin_extra(completion_tokens=17)
    ) as stream:
        chunks = [chunk.to_dict() for chunk in stream]

    (row,) = fleet.settled_rows(key, count=1)
    (record,) = site.records
    text = "".join(chunk["choices"][0]["delta"].get("content") or "" for chunk in chunks)
    assert len(text.split()) == 17
    assert [chunk for chunk in chunks if "usage" in chunk or not chunk["choices"]] == []
    assert chunks[-1]["choices"][0]["finish_reason"] == "stop"
    assert len({(chunk["id"], chunk["created"], chunk["model"]) for chunk in chunks}) == 1
    assert the_rows_facts(row) == ("ok", "", False, "chat", True, 1, "own")
    assert token_counts(row) == (record["prompt_tokens"], record["completion_tokens"]) == (10, 17)
    assert row["ttft_ms"] is not None


def test_stream_with_usage_ends_with_the_exact_usage(fleet):
    fleet.add_cluster(kind="provider")
    key = fleet.issue_key()
    fleet.ready()

    with fleet.client(key).chat.completions.create(
        **fleet.chat("one two three", n=2),
        stream=True,
        stream_options={"include_usage": True},
        **standin_extra(completion_tokens=17),
    ) as stream:
        chunks = list(stream)

    (row,) = fleet.settled_rows(key, count=1)
    usage = {"prompt_tokens": 10, "completion_tokens": 34, "total_tokens": 44}
    assert (chunks[-1].choices, chunks[-1].usage.to_dict()) == ([], usage)
    assert {chunk.usage for chunk in chunks[:-1]} == {None}
    assert usage_of(row) == usage
    assert row["cost_nanousd"] == cost_of(row)


@pytest.mark.parametrize("has_usage", [False, True])
def test_completion_stream_is_settled_exactly(fleet, has_usage):
    fleet.add_cluster()
    key = fleet.issue_key()
    fleet.ready()
    options = {"stream_options": {"include_usage": True}} if has_usage else {}

    with fleet.client(key).completions.create(
        model=fleet.model, prompt="one two", stream=True, **options, **standin_extra(completion_tokens=5)
    ) as stream:
        chunks = list(stream)

    (row,) = fleet.settled_rows(key, count=1)
    text = "".join(chunk.choices[0].text for chunk in chunks if chunk.choices)
    usages = [chunk.usage.to_dict() for chunk in chunks if chunk.usage]
    assert len(text.split()) == 5
    assert usages == ([usage_of(row)] if has_usage else [])
    assert token_counts(row) == (2, 5)


@pytest.mark.parametrize(
    ("has_key", "model", "error_class", "status", "code"),
    [
        (False, "", openai.AuthenticationError, 401, "invalid_api_key"),
        (True, "forbidden", openai.PermissionDeniedError, 403, "permission_denied"),
        (True, "absent", openai.NotFoundError, 404, "model_not_found"),
    ],
)
def test_refusal_has_the_class_that_the_sdk_has_for_it(fleet, has_key, model, error_class, status, code):
    fleet.add_cluster()
    fleet.add_cluster(model=f"forbidden-{fleet.token}")
    key = fleet.issue_key(allowed_models=[fleet.model])
    fleet.ready()
    client = fleet.client(key)
    client = client if has_key else client.with_options(api_key="tg_wrong")

    with pytest.raises(error_class) as refused:
        client.chat.completions.create(
            model=f"{model}-{fleet.token}", messages=[{"role": "user", "content": "Hello"}]
        )

    assert (refused.value.status_code, refused.value.code) == (status, code)
    assert refused.value.request_id.startswith("req_")
    assert set(refused.value.body) == {"message", "type", "param", "code"}
    assert fleet.settled_rows(key, count=0) == []


def test_bad_request_names_the_parameter(fleet):
    fleet.add_cluster()
    key = fleet.issue_key()
    fleet.ready()

    with pytest.raises(openai.BadRequestError) as refused:
        fleet.ask(key, max_tokens=-1)

    assert (refused.value.code, refused.value.param, refused.value.type) == (
        "invalid_request_error",
        "max_tokens",
        "invalid_request_error",
    )


def test_upstreams_own_refusal_is_passed_on_and_costs_nothing(fleet):
    site = fleet.add_cluster()
    fleet.add_cluster()
    key = fleet.issue_key()
    fleet.ready()
    site.standin.set_fault("http_400")

    with pytest.raises(openai.BadRequestError) as refused:
        fleet.ask(key)

    (row,) = fleet.settled_rows(key, count=1)
    assert refused.value.body["message"] == "This request is not to my taste."
    assert (row["outcome"], row["error_code"], row["cost_nanousd"]) == ("failed", "upstream_refused", 0)


def test_rate_limit_tells_when_to_come_back(fleet):
    fleet.add_cluster()
    key = fleet.issue_key(rpm_max=2)
    fleet.ready()
    for _ in range(2):
        fleet.ask(key)

    with pytest.raises(openai.RateLimitError) as refused:
        fleet.ask(key)

    headers = refused.value.response.headers
    assert refused.value.code == "rate_limit_exceeded"
    assert 1 <= int(headers["retry-after"]) <= 62
    assert (headers["x-ratelimit-limit-requests"], headers["x-ratelimit-remaining-requests"]) == ("2", "0")
    assert len(fleet.settled_rows(key, count=2)) == 2


def test_spent_budget_is_not_retried(fleet):
    fleet.add_cluster()
    key = fleet.issue_key(hard_limit_nanousd=1)
    fleet.ready()
    transport = CountingTransport()

    with httpx.Client(transport=transport) as http_client:
        client = fleet.client(key, max_retries=2, http_client=http_client)
        with pytest.raises(openai.RateLimitError) as refused:
            client.chat.completions.create(**fleet.chat())

    assert refused.value.code == "insufficient_quota"
    assert refused.value.response.headers["x-should-retry"] == "false"
    assert transport.count == 1
    assert fleet.windows(key) == [{"limit_nanousd": 1, "spent_nanousd": 0, "held_nanousd": 0}]
    assert fleet.settled_rows(key, count=0) == []


def test_sdk_retries_a_503_and_succeeds(fleet):
    site = fleet.add_cluster()
    key = fleet.issue_key()
    fleet.ready()
    site.standin.set_fault("http_503")

    answer = fleet.client(key, max_retries=2).chat.completions.create(**fleet.chat())

    rows = fleet.settled_rows(key, count=2)
    assert answer.usage.to_dict() == usage_of(rows[1])
    assert [(row["outcome"], row["error_code"]) for row in rows] == [("failed", "upstream_error"), ("ok", "")]
    assert rows[0]["request_id"] != rows[1]["request_id"]


def test_raw_response_has_the_request_id_and_what_is_left_of_the_limits(fleet):
    site = fleet.add_cluster()
    key = fleet.issue_key(rpm_max=60, tpm_max=60_000)
    fleet.ready()

    raw = fleet.client(key).chat.completions.with_raw_response.create(**fleet.chat())

    (row,) = fleet.settled_rows(key, count=1)
    kinds, figures = ("requests", "tokens"), ("limit", "remaining")
    names = [f"x-ratelimit-{figure}-{kind}" for kind in kinds for figure in figures]
    assert raw.headers["x-request-id"] == raw.request_id == row["request_id"]
    assert raw.request_id == site.records[0]["request_id"]
    assert [raw.headers[name] for name in names] == ["60", "59", "60000", str(60_000 - tokens_taken(fleet))]
    assert raw.headers["x-ratelimit-reset-requests"] in {"1m0s", "1m1s", "1m2s"}
    assert raw.headers["x-gateway-cluster"] == site.name


def tokens_taken(fleet):
    """The estimate that counts until the true figure is known: a token for four bytes of the body."""
    body = httpx.Request("POST", "http://test", json=fleet.chat()).content
    return -(-len(body) // 4)


async def test_async_sdk_streams_and_lists(fleet):
    fleet.add_cluster()
    key = fleet.issue_key()
    fleet.ready()

    async with openai.AsyncOpenAI(
        base_url=f"{fleet.gateway.url}/v1", api_key=key.key, max_retries=0, timeout=CLIENT_TIMEOUT_S
    ) as client:
        models = [entry.id async for entry in client.models.list()]
        async with await client.chat.completions.create(
            **fleet.chat("one two three"),
            stream=True,
            stream_options={"include_usage": True},
            **standin_extra(completion_tokens=17),
        ) as stream:
            chunks = [chunk async for chunk in stream]
        with pytest.raises(openai.NotFoundError):
            await client.models.retrieve("absent")

    (row,) = fleet.settled_rows(key, count=1)
    assert fleet.model in models
    assert chunks[-1].usage.to_dict() == usage_of(row)
