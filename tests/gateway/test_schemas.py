"""Bodies of /v1: what is taken out of a good one, and how a bad one is refused."""

import json

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.completion import CompletionRequest
from gateway.errors import GatewayError, InvalidJsonError, InvalidRequestError
from gateway.schemas import (
    CHOICES_MAX,
    COUNTED_BYTES_MAX,
    MEDIA_TOKENS_ESTIMATE,
    MEDIA_TOKENS_MAX,
    TEMPLATE_TOKENS_MAX,
    decode_completion,
)
from routing.types import RequestProfile

MESSAGES = [{"role": "user", "content": "hello"}]
CONTENT = {"chat": {"messages": MESSAGES}, "completions": {"prompt": "hi"}, "embeddings": {"input": "hi"}}


def decode(document, *, surface="chat", depth_max=64, needs_priced=False):
    body = document if isinstance(document, bytes) else orjson.dumps(document)
    return decode_completion(surface=surface, body=body, depth_max=depth_max, needs_priced=needs_priced)


def body_of(surface="chat", **members):
    return {"model": "llama", **CONTENT[surface], **members}


def profile_of(surface="chat", **members):
    return decode(body_of(surface, **members), surface=surface).profile


def refusal_of(document, *, surface="chat", depth_max=64):
    with pytest.raises(InvalidRequestError) as caught:
        decode(document, surface=surface, depth_max=depth_max)
    return type(caught.value), caught.value.message, caught.value.param


def test_chat_body_becomes_a_request():
    document = body_of(
        stream=True,
        stream_options={"include_usage": True},
        max_tokens=7,
        n=2,
        tools=[{"type": "function"}],
        response_format={"type": "json_schema"},
        api_base="http://evil",
    )
    body = orjson.dumps(document)

    request = decode(body, needs_priced=True)

    assert request == CompletionRequest(
        surface="chat",
        model="llama",
        is_stream=True,
        wants_usage=True,
        body=body,
        document=document,
        profile=RequestProfile(
            model="llama",
            surface="chat",
            body_bytes=len(body),
            prompt_tokens_estimate=-(-len(body) // 4),
            prompt_tokens_max=len(body) + TEMPLATE_TOKENS_MAX,
            output_tokens_max=7,
            choice_count=2,
            needs=frozenset({"chat", "tools", "json_schema"}),
            is_priced_only=True,
        ),
    )
    assert request.body is body


@pytest.mark.parametrize(
    ("surface", "needs", "output_tokens_max"),
    [("chat", {"chat"}, None), ("completions", {"completions"}, None), ("embeddings", {"embeddings"}, 0)],
)
def test_smallest_body_of_each_surface_becomes_a_request(surface, needs, output_tokens_max):
    body = orjson.dumps(body_of(surface))

    request = decode(body, surface=surface)

    assert request == CompletionRequest(
        surface=surface,
        model="llama",
        is_stream=False,
        wants_usage=False,
        body=body,
        document=body_of(surface),
        profile=RequestProfile(
            model="llama",
            surface=surface,
            body_bytes=len(body),
            prompt_tokens_estimate=-(-len(body) // 4),
            prompt_tokens_max=len(body) + TEMPLATE_TOKENS_MAX,
            output_tokens_max=output_tokens_max,
            choice_count=1,
            needs=frozenset(needs),
        ),
    )


def test_media_count_by_number_and_not_by_their_bytes():
    picture = {"type": "image_url", "image_url": {"url": "data:image/png;base64," + "A" * 40_000}}
    sound = {"type": "input_audio", "input_audio": {"data": "B" * 40_000, "format": "wav"}}
    document = body_of(
        messages=[{"role": "user", "content": [{"type": "text", "text": "x"}, picture, sound]}]
    )
    body = orjson.dumps(document)

    profile = decode(body).profile

    assert profile.needs == frozenset({"chat", "vision"})
    assert 2 * MEDIA_TOKENS_ESTIMATE < profile.prompt_tokens_estimate < 2 * MEDIA_TOKENS_ESTIMATE + 100
    assert profile.prompt_tokens_max == len(body) + TEMPLATE_TOKENS_MAX + 2 * MEDIA_TOKENS_MAX


@pytest.mark.parametrize(
    ("members", "needs"),
    [
        ({"tools": []}, {"chat"}),
        ({"tools": None}, {"chat"}),
        ({"response_format": {"type": "text"}}, {"chat"}),
        ({"response_format": {"type": "json_object"}}, {"chat"}),
        ({"response_format": "json_schema"}, {"chat"}),
        ({"messages": [{"role": "assistant", "content": None}]}, {"chat"}),
        ({"messages": [{"role": "assistant"}]}, {"chat"}),
        ({"messages": [{"role": "user", "content": []}]}, {"chat"}),
        ({"messages": [{"role": "user", "content": ["x", 7, None]}]}, {"chat"}),
        ({"messages": [{"role": "user", "content": [{"type": ["image_url"]}, {"type": {}}]}]}, {"chat"}),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": "u"}]}]},
            {"chat", "vision"},
        ),
    ],
)
def test_chat_needs_what_its_members_say(members, needs):
    assert profile_of(**members).needs == frozenset(needs)


MODEL_MESSAGE = "`model` must be a string of 1 to 200 characters; GET /v1/models lists them."
PROMPT_MESSAGE = "`prompt` must be a string, a list of strings or of tokens."
INPUT_MESSAGE = "`input` must be a string, a list of strings or of tokens."


@pytest.mark.parametrize("model", [None, "", 7, True, [], {}, "x" * 201])
def test_model_that_is_no_name_is_refused(model):
    assert refusal_of(body_of(model=model)) == (InvalidRequestError, MODEL_MESSAGE, "model")


def test_model_may_have_200_characters():
    assert decode(body_of(model="é" * 200)).model == "é" * 200


@pytest.mark.parametrize(
    ("messages", "message", "param"),
    [
        (None, "`messages` must be a list with at least one message.", "messages"),
        ([], "`messages` must be a list with at least one message.", "messages"),
        ({}, "`messages` must be a list with at least one message.", "messages"),
        ("hello", "`messages` must be a list with at least one message.", "messages"),
        (["hello"], "Each message must be an object with a `role`.", "messages[0]"),
        ([*MESSAGES, {"content": "x"}], "Each message must be an object with a `role`.", "messages[1]"),
        ([{"role": 7}], "Each message must be an object with a `role`.", "messages[0]"),
        (
            [{"role": "user", "content": 7}],
            "`content` must be a string, a list of parts or null.",
            "messages[0].content",
        ),
        (
            [*MESSAGES, {"role": "user", "content": {"type": "text"}}],
            "`content` must be a string, a list of parts or null.",
            "messages[1].content",
        ),
    ],
)
def test_messages_that_make_no_conversation_are_refused(messages, message, param):
    assert refusal_of(body_of(messages=messages)) == (InvalidRequestError, message, param)


@pytest.mark.parametrize(
    ("prompt", "choice_count"),
    [("one", 1), (["one", "two"], 2), ([1, 2, 3], 1), ([[1, 2], [3]], 2), (["one"], 1)],
)
def test_each_kind_of_prompt_is_counted(prompt, choice_count):
    assert profile_of("completions", prompt=prompt).choice_count == choice_count
    assert profile_of("completions", prompt=prompt, n=3).choice_count == choice_count * 3


@pytest.mark.parametrize(
    "prompt", [None, "", [], {}, 7, True, [1, "a"], ["a", [1]], [True, False], [None], [{}], [1.5]]
)
def test_prompt_of_no_known_kind_is_refused(prompt):
    refused = refusal_of(body_of("completions", prompt=prompt), surface="completions")

    assert refused == (InvalidRequestError, PROMPT_MESSAGE, "prompt")


def test_prompt_of_a_chat_or_embedding_multiplies_nothing():
    assert profile_of("chat", prompt=["a", "b"]).choice_count == 1
    assert profile_of("chat", prompt=[]).choice_count == 1
    assert profile_of("embeddings", prompt=["a", "b"]).choice_count == 1


@pytest.mark.parametrize("given_input", [None, "", [], {}, 7, True])
def test_input_of_no_known_kind_is_refused(given_input):
    refused = refusal_of(body_of("embeddings", input=given_input), surface="embeddings")

    assert refused == (InvalidRequestError, INPUT_MESSAGE, "input")


@pytest.mark.parametrize("given_input", ["a", ["a", "b"], [1, 2], [[1], [2]]])
def test_each_kind_of_input_is_taken(given_input):
    assert profile_of("embeddings", input=given_input).output_tokens_max == 0


@pytest.mark.parametrize("value", [0, -1, True, False, 5.0, "5", [], 10_000_001, 2**63, 2**70])
@pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens"])
def test_limit_on_tokens_that_is_none_is_refused(name, value):
    refused = refusal_of(json.dumps(body_of(**{name: value})).encode())

    assert refused == (InvalidRequestError, f"`{name}` must be a whole number from 1 to 10000000.", name)


@pytest.mark.parametrize("value", [0, -1, True, 1.0, "2", CHOICES_MAX + 1])
@pytest.mark.parametrize("name", ["n", "best_of"])
def test_count_of_choices_that_is_none_is_refused(name, value):
    assert refusal_of(body_of(**{name: value})) == (
        InvalidRequestError,
        f"`{name}` must be a whole number from 1 to 128.",
        name,
    )


@pytest.mark.parametrize(
    ("members", "output_tokens_max"),
    [
        ({}, None),
        ({"max_tokens": None, "max_completion_tokens": None}, None),
        ({"max_tokens": 5}, 5),
        ({"max_completion_tokens": 6}, 6),
        ({"max_tokens": 10_000_000}, 10_000_000),
    ],
)
def test_limit_on_tokens_is_taken_from_either_name(members, output_tokens_max):
    assert profile_of(**members).output_tokens_max == output_tokens_max


@pytest.mark.parametrize(
    "members",
    [{"max_tokens": 5, "max_completion_tokens": 500}, {"max_tokens": 500, "max_completion_tokens": 5}],
)
def test_of_two_limits_on_tokens_the_larger_bounds_the_answer(members):
    # Which of the two an upstream obeys differs: the hold must cover either.
    assert profile_of(**members).output_tokens_max == 500


def test_best_of_counts_what_is_generated_and_cannot_be_streamed():
    assert profile_of("completions", best_of=3, n=2).choice_count == 3
    assert refusal_of(body_of("completions", best_of=3, n=2, stream=True), surface="completions") == (
        InvalidRequestError,
        "`best_of` above `n` cannot be streamed.",
        "best_of",
    )
    assert decode(body_of("completions", best_of=2, n=2, stream=True), surface="completions").is_stream


@pytest.mark.parametrize("value", [0, 1, "true", [], {}])
def test_stream_that_is_no_boolean_is_refused(value):
    assert refusal_of(body_of(stream=value)) == (
        InvalidRequestError,
        "`stream` must be true or false.",
        "stream",
    )


@pytest.mark.parametrize(("value", "is_stream"), [(None, False), (False, False), (True, True)])
def test_stream_may_be_null(value, is_stream):
    assert decode(body_of(stream=value)).is_stream is is_stream


def test_stream_of_embeddings_is_refused():
    assert refusal_of(body_of("embeddings", stream=True), surface="embeddings") == (
        InvalidRequestError,
        "Embeddings cannot be streamed: leave `stream` out.",
        "stream",
    )


@pytest.mark.parametrize("value", [True, "x", 7, [], [1]])
def test_stream_options_of_a_wrong_type_are_refused(value):
    assert refusal_of(body_of(stream_options=value)) == (
        InvalidRequestError,
        "`stream_options` must be an object or null.",
        "stream_options",
    )


@pytest.mark.parametrize(
    ("value", "wants_usage"),
    [
        (None, False),
        ({}, False),
        ({"include_usage": True}, True),
        ({"include_usage": False}, False),
        ({"include_usage": 1}, False),
        ({"include_usage": "true"}, False),
        ({"include_usage": None}, False),
    ],
)
def test_usage_is_wanted_only_where_it_says_true(value, wants_usage):
    assert decode(body_of(stream=True, stream_options=value)).wants_usage is wants_usage


@pytest.mark.parametrize("body", [b"[]", b"7", b'"x"', b"null", b"true"])
def test_body_that_is_no_object_is_refused(body):
    assert refusal_of(body) == (InvalidRequestError, "The body must be a JSON object.", None)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"{]",
        b"{'model': 1}",
        b"\xef\xbb\xbf{}",
        b'{"a":NaN}',
        b'{"a":Infinity}',
        b'{"a":1e999}',
        b'{"a":"\\ud800"}',
        b'{"a":"\xff"}',
        b'{"a":1}{"a":1}',
        b"<html>",
        b"[" * 100_000,
        b'{"a":' * 100_000,
    ],
)
def test_body_that_is_no_json_is_refused(body):
    kind, message, param = refusal_of(body)

    assert (kind, message[:27], param) == (InvalidJsonError, "The body is not valid JSON:", None)


def nested(levels, *, is_list):
    """A body of so many levels, its own object being the first."""
    value = "x"
    for _ in range(levels - 1):
        value = [value] if is_list else {"a": value}
    return body_of(extra=value)


@pytest.mark.parametrize("is_list", [True, False])
def test_body_may_be_as_deep_as_the_limit_and_no_deeper(is_list):
    document = nested(10, is_list=is_list)

    assert decode(document, depth_max=10).document == document
    assert refusal_of(nested(11, is_list=is_list), depth_max=10) == (
        InvalidJsonError,
        "The body is nested deeper than 10 levels.",
        None,
    )


def test_broad_body_is_not_deep():
    assert decode(body_of(extra=[[] for _ in range(500)]), depth_max=4).model == "llama"


@pytest.mark.parametrize("padding", [0, COUNTED_BYTES_MAX])
def test_depth_of_a_long_body_is_looked_at_too(padding):
    deep = {**nested(11, is_list=True), "padding": "x" * padding}

    assert refusal_of(deep, depth_max=10)[1:] == refusal_of(nested(11, is_list=True), depth_max=10)[1:]
    assert decode(deep, depth_max=11).model == "llama"


def test_brackets_in_text_are_no_depth():
    assert decode(body_of(extra="[{" * 500), depth_max=4).model == "llama"


def test_of_two_members_of_one_name_the_last_counts():
    request = decode(b'{"model":"a","model":"b","messages":[{"role":"user"}]}')

    assert (request.model, request.profile.model) == ("b", "b")


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats()
    | st.text(st.characters(), max_size=4)
    | st.sampled_from(["image_url", "user", "json_schema"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["role", "content", "type", "include_usage"]), inner, max_size=4)
    ),
    max_leaves=8,
)
MEMBERS = [
    "messages", "prompt", "input", "stream", "stream_options", "n", "best_of",
    "max_tokens", "max_completion_tokens", "tools", "response_format",
]  # fmt: skip


@settings(max_examples=150, deadline=None)
@given(
    surface=st.sampled_from(sorted(CONTENT)),
    members=st.dictionaries(st.sampled_from(MEMBERS), VALUES, max_size=4),
)
def test_any_members_raise_nothing_but_a_refusal(surface, members):
    # json and not orjson: it also writes NaN, lone surrogates and integers of any size.
    body = json.dumps({"model": "llama", **CONTENT[surface], **members}).encode()

    try:
        request = decode(body, surface=surface)
    except InvalidRequestError:
        return
    profile = request.profile
    assert profile.choice_count >= 1
    assert profile.prompt_tokens_max >= len(body)


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=60))
def test_any_bytes_raise_nothing_but_a_refusal(body):
    with pytest.raises(GatewayError) as caught:
        decode(body)

    assert caught.value.http_status == 400
