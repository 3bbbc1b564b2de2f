"""Providers through a running gateway: the official SDK asks, the maker's own exchanges answer."""

import pytest
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import ReadOnlyCredentials

from tests.e2e.fleet import cost_of
from tests.fakes.provider_server import Replay, run_provider
from tests.gateway.dialects import test_anthropic_answers as anthropic
from tests.gateway.dialects import test_bedrock_answers as bedrock
from tests.gateway.dialects import test_gemini_answers as gemini
from tests.gateway.dialects.calls import sse

pytestmark = pytest.mark.e2e

STREAM = "text/event-stream"
COMPLETION = {
    "id": "c",
    "object": "chat.completion",
    "created": 1,
    "model": "m",
    "choices": [{"index": 0, "message": {"role": "assistant", "content": "ok"}, "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5},
}


def add_provider(fleet, provider, *, secret=None, **values):
    given = {"kind": "provider", "auth_type": "bearer", **values}
    return fleet.add_cluster(
        endpoint=provider.url, secret=secret or {"one": "k-1"}, upstream_name="theirs", **given
    )


def buckets(row):
    names = (
        "input_fresh_tokens",
        "cache_read_tokens",
        "cache_write_5m_tokens",
        "cache_write_1h_tokens",
        "output_text_tokens",
        "reasoning_tokens",
    )
    return tuple(row[name] for name in names), row["is_estimate"], row["outcome"]


def test_anthropic_streams_tools_and_is_metered_exactly(fleet):
    replay = Replay(pieces=(anthropic.TOOLS[:777], anthropic.TOOLS[777:]), content_type=STREAM)
    with run_provider(lambda _request: replay) as provider:
        add_provider(fleet, provider, backend="claude")
        key = fleet.issue_key()
        fleet.ready()

        chunks = list(fleet.ask(key, stream=True, stream_options={"include_usage": True}))

    (request,), (row,) = provider.received, fleet.settled_rows(key, count=1)
    assert (request.path, request.headers["x-api-key"], request.headers["anthropic-version"]) == (
        "/v1/messages",
        "k-1",
        "2023-06-01",
    )
    assert request.document == {
        "model": "theirs",
        "max_tokens": 32_000,
        "messages": [{"role": "user", "content": [{"type": "text", "text": "Say something."}]}],
        "stream": True,
    }
    calls = [call for chunk in chunks for choice in chunk.choices for call in choice.delta.tool_calls or ()]
    assert [(call.index, call.function.arguments) for call in calls] == [
        (0, ""),
        (0, '{"city":'),
        (0, '"A"}'),
        (1, ""),
        (1, "{}"),
    ]
    assert chunks[-1].usage.prompt_tokens == 32
    assert buckets(row) == ((20, 7, 3, 2, 11, 4), False, "ok")


def test_anthropic_answers_plain(fleet):
    message = anthropic.message({"type": "text", "text": "Hi."})
    with run_provider(lambda _request: Replay(document=message)) as provider:
        add_provider(fleet, provider, backend="claude")
        key = fleet.issue_key()
        fleet.ready()

        answer = fleet.ask(key)

    (row,) = fleet.settled_rows(key, count=1)
    assert (answer.choices[0].message.content, answer.usage.total_tokens) == ("Hi.", 47)
    assert buckets(row) == ((20, 7, 3, 2, 11, 4), False, "ok")


def test_what_cannot_be_said_is_refused_unsent_and_free(fleet):
    with run_provider(lambda _request: Replay()) as provider:
        add_provider(fleet, provider, backend="claude")
        key = fleet.issue_key()
        fleet.ready()

        answer = fleet.post(key, fleet.chat(logprobs=True))

    assert (answer.status_code, answer.json()["error"]["code"], answer.json()["error"]["param"]) == (
        400,
        "unsupported_parameter",
        "logprobs",
    )
    assert provider.received == []


def test_what_one_maker_cannot_say_goes_to_another(fleet):
    fleet.earn_reroutes(1)
    with run_provider(lambda _request: Replay()) as provider:
        add_provider(fleet, provider, backend="claude", price=(1, 1))
        other = fleet.add_cluster(kind="provider", price=(1_000_000, 1_000_000))
        key = fleet.issue_key()
        fleet.ready()

        answer = fleet.post(key, fleet.chat(logprobs=True))

    assert (answer.status_code, answer.headers["x-gateway-cluster"]) == (200, other.name)
    assert (provider.received, other.received_count) == ([], 1)
    rows = fleet.settled_rows(key, count=2)
    assert [(row["outcome"], row["error_code"], row["cost_nanousd"] > 0) for row in rows] == [
        ("failed", "unsupported_parameter", False),
        ("ok", "", True),
    ]


def test_fault_before_the_first_content_goes_to_another(fleet):
    fleet.earn_reroutes(1)
    error = {"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}
    replay = Replay(pieces=(sse(anthropic.START, error),), content_type=STREAM)
    with run_provider(lambda _request: replay) as provider:
        add_provider(fleet, provider, backend="claude", price=(1, 1))
        other = fleet.add_cluster(kind="provider", price=(1_000_000, 1_000_000))
        key = fleet.issue_key()
        fleet.ready()

        frames = fleet.frames(key)

    assert (len(provider.received), other.received_count, frames[-1]) == (1, 1, b"[DONE]")


def test_refusal_has_the_makers_words_in_openais_shape(fleet):
    error = {"type": "error", "error": {"type": "invalid_request_error", "message": "max_tokens: too many"}}
    with run_provider(lambda _request: Replay(status=400, document=error)) as provider:
        add_provider(fleet, provider, backend="claude")
        key = fleet.issue_key()
        fleet.ready()

        answer = fleet.post(key, fleet.chat())

    assert (answer.status_code, answer.json()) == (
        400,
        {
            "error": {
                "message": "max_tokens: too many",
                "type": "invalid_request_error",
                "param": None,
                "code": "invalid_request_error",
            }
        },
    )


def keyed(limited, *, status=429, headers=None):
    """A provider that takes all keys but these."""

    def answer(request):
        if request.headers["authorization"].removeprefix("Bearer ") in limited:
            return Replay(status=status, document={"error": {"message": "no"}}, headers=headers or {})
        return Replay(document=COMPLETION)

    return answer


def keys_of(provider):
    return [request.headers["authorization"].removeprefix("Bearer ") for request in provider.received]


def test_keys_take_turns(fleet):
    with run_provider(keyed(set())) as provider:
        add_provider(fleet, provider, secret={"a": "k-a", "b": "k-b", "c": "k-c"})
        key = fleet.issue_key()
        fleet.ready()

        for _ in range(6):
            fleet.ask(key)

    assert sorted(keys_of(provider)) == ["k-a", "k-a", "k-b", "k-b", "k-c", "k-c"]
    assert set(keys_of(provider)[:3]) == {"k-a", "k-b", "k-c"}


@pytest.mark.parametrize("status", [429, 401, 402, 403])
def test_key_that_fails_gives_way_to_the_next_and_rests(fleet, status):
    with run_provider(keyed({"k-bad"}, status=status, headers={"retry-after": "60"})) as provider:
        add_provider(fleet, provider, secret={"a": "k-good", "b": "k-bad"})
        key = fleet.issue_key()
        fleet.ready()

        answers = [fleet.ask(key).choices[0].message.content for _ in range(4)]

    assert answers == ["ok"] * 4
    assert sorted(keys_of(provider)) == ["k-bad", *["k-good"] * 4]
    rows = fleet.settled_rows(key, count=4)
    assert [(row["attempt_number"], row["cost_nanousd"] == cost_of(row)) for row in rows] == [(1, True)] * 4


def test_provider_whose_keys_are_all_out_is_not_asked_and_says_when(fleet):
    with run_provider(keyed({"k-a", "k-b"}, headers={"retry-after": "60"})) as provider:
        add_provider(fleet, provider, secret={"a": "k-a", "b": "k-b"})
        key = fleet.issue_key()
        fleet.ready()

        first, second = fleet.post(key, fleet.chat()), fleet.post(key, fleet.chat())

    assert sorted(keys_of(provider)) == ["k-a", "k-b"]
    assert (first.status_code, second.status_code) == (503, 503)
    assert first.json()["error"]["code"] == "overloaded"
    assert 50 <= int(first.headers["retry-after"]) <= 60


def test_answer_that_was_the_last_one_for_a_while_is_obeyed(fleet):
    headers = {"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "1m0s"}
    with run_provider(lambda _request: Replay(document=COMPLETION, headers=headers)) as provider:
        add_provider(fleet, provider)
        key = fleet.issue_key()
        fleet.ready()

        first, second = fleet.post(key, fleet.chat()), fleet.post(key, fleet.chat())

    assert (first.status_code, second.status_code, len(provider.received)) == (200, 503, 1)


def test_azure_is_asked_on_its_own_path_with_its_own_header(fleet):
    with run_provider(lambda _request: Replay(document=COMPLETION)) as provider:
        add_provider(fleet, provider, backend="azure")
        key = fleet.issue_key()
        fleet.ready()

        fleet.ask(key)

    (request,) = provider.received
    assert (request.path, request.headers["api-key"], request.document["model"]) == (
        "/openai/v1/chat/completions",
        "k-1",
        "theirs",
    )
    assert "authorization" not in request.headers


def test_gemini_streams_tools_and_is_metered_exactly(fleet):
    replay = Replay(pieces=(gemini.STREAM[:333], gemini.STREAM[333:]), content_type=STREAM)
    with run_provider(lambda _request: replay) as provider:
        add_provider(fleet, provider, backend="gemini")
        key = fleet.issue_key()
        fleet.ready()

        chunks = list(fleet.ask(key, stream=True))

    (request,), (row,) = provider.received, fleet.settled_rows(key, count=1)
    assert (request.path, request.headers["x-goog-api-key"]) == (
        "/v1beta/models/theirs:streamGenerateContent?alt=sse",
        "k-1",
    )
    calls = [call for chunk in chunks for choice in chunk.choices for call in choice.delta.tool_calls or ()]
    assert [(call.index, call.id, call.function.arguments) for call in calls] == [
        (0, "call_r1_0_0", '{"city":"A"}'),
        (1, "own", "{}"),
    ]
    assert (buckets(row), row["input_image_tokens"]) == (((14, 10, 0, 0, 9, 6), False, "ok"), 18)


def test_gemini_embeds(fleet):
    document = {"embeddings": [{"values": [0.5, -1.0]}], "usageMetadata": {"promptTokenCount": 3}}
    with run_provider(lambda _request: Replay(document=document)) as provider:
        add_provider(fleet, provider, backend="gemini")
        key = fleet.issue_key()
        fleet.ready()

        answer = fleet.client(key).embeddings.create(model=fleet.model, input="a")

    (row,) = fleet.settled_rows(key, count=1)
    assert (answer.data[0].embedding, buckets(row)) == ([0.5, -1.0], ((3, 0, 0, 0, 0, 0), False, "ok"))


def test_gemini_key_that_is_wrong_is_not_the_callers_fault_and_its_delay_is_obeyed(fleet):
    wrong = {"message": "bad key", "status": "INVALID_ARGUMENT", "details": [{"reason": "API_KEY_INVALID"}]}
    slow = {"message": "slow", "status": "RESOURCE_EXHAUSTED", "details": [{"retryDelay": "43s"}]}
    replays = {"k-wrong": (400, wrong), "k-slow": (429, slow)}

    def answer(request):
        status, error = replays[request.headers["x-goog-api-key"]]
        return Replay(status=status, document={"error": error})

    with run_provider(answer) as provider:
        add_provider(fleet, provider, backend="gemini", secret={"a": "k-wrong", "b": "k-slow"})
        key = fleet.issue_key()
        fleet.ready()

        refusal = fleet.post(key, fleet.chat())

    assert (refusal.status_code, len(provider.received)) == (503, 2)
    assert 40 <= int(refusal.headers["retry-after"]) <= 43


def test_bedrock_is_signed_and_streams_and_is_metered_exactly(fleet):
    secret = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY"
    replay = Replay(
        pieces=(bedrock.STREAM[:500], bedrock.STREAM[500:]), content_type="application/vnd.amazon.eventstream"
    )
    with run_provider(lambda _request: replay) as provider:
        values = {"backend": "bedrock", "auth_type": "sigv4", "region": "eu-west-1"}
        add_provider(fleet, provider, secret={"a": f"AKIDEXAMPLE000000000:{secret}"}, **values)
        key = fleet.issue_key()
        fleet.ready()

        chunks = list(fleet.ask(key, stream=True))

    (request,), (row,) = provider.received, fleet.settled_rows(key, count=1)
    assert request.path == "/model/theirs/converse-stream"
    assert request.headers["authorization"] == expected_authorization(request, secret=secret)
    calls = [call for chunk in chunks for choice in chunk.choices for call in choice.delta.tool_calls or ()]
    assert [(call.index, call.function.arguments) for call in calls] == [
        (0, ""),
        (0, '{"city":'),
        (0, '"A"}'),
        (1, ""),
        (1, "{}"),
    ]
    assert buckets(row) == ((20, 7, 3, 2, 15, 0), False, "ok")


def expected_authorization(request, *, secret):
    """By botocore, from what arrived."""
    credentials = ReadOnlyCredentials("AKIDEXAMPLE000000000", secret, None)
    url = f"https://{request.headers['host']}{request.path}"
    signer, aws_request = (
        SigV4Auth(credentials, "bedrock", "eu-west-1"),
        AWSRequest("POST", url, data=request.body),
    )
    aws_request.context["timestamp"] = aws_request.headers["X-Amz-Date"] = request.headers["x-amz-date"]
    text = signer.string_to_sign(aws_request, signer.canonical_request(aws_request))
    names = signer.signed_headers(signer.headers_to_sign(aws_request))
    signature = signer.signature(text, aws_request)
    scope = signer.scope(aws_request)
    return f"AWS4-HMAC-SHA256 Credential={scope}, SignedHeaders={names}, Signature={signature}"
