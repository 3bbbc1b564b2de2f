"""What goes to an upstream: the client's own bytes, unless something has to change."""

import copy

import orjson
import pytest

from gateway.dialects.openai import OpenAIDialect, limit_member
from gateway.providers import dialect_of
from gateway.schemas import read_completion
from tests.gateway.dialects.calls import call_of


def request_of(**members):
    return call_of(
        model="llama", messages=[{"role": "user", "content": "hi"}], x={"y": [1]}, **members
    ).request


def sent(request, *, upstream_name="llama", output_tokens_max=None):
    """The document that goes out, after a look that the client's own stayed as it was."""
    before = copy.deepcopy(request.document)
    call = call_of(request=request, upstream_name=upstream_name, output_tokens_max=output_tokens_max)
    body = OpenAIDialect().body(call)
    assert request.document == before
    return orjson.loads(body)


@pytest.mark.parametrize(
    "request_",
    [
        request_of(),
        request_of(max_tokens=5),
        request_of(stream=True, stream_options={"include_usage": True}),
        request_of(api_base="http://evil", stream_options={"x": 1}),
    ],
)
def test_body_that_needs_no_change_is_the_very_bytes(request_):
    body = OpenAIDialect().body(call_of(request=request_, upstream_name="llama"))

    assert body is request_.body


@pytest.mark.parametrize(
    ("members", "arguments", "changes"),
    [
        ({}, {"upstream_name": "meta/llama-3"}, {"model": "meta/llama-3"}),
        ({"stream": True}, {}, {"stream_options": {"include_usage": True}}),
        ({"stream": True, "stream_options": None}, {}, {"stream_options": {"include_usage": True}}),
        (
            {"stream": True, "stream_options": {"include_usage": False, "z": 1}},
            {},
            {"stream_options": {"include_usage": True, "z": 1}},
        ),
        ({}, {"output_tokens_max": 9}, {"max_tokens": 9}),
        ({"max_tokens": None}, {"output_tokens_max": 9}, {"max_tokens": 9}),
        ({"max_tokens": 20}, {"output_tokens_max": 9}, {"max_tokens": 9}),
        ({"max_completion_tokens": 20}, {"output_tokens_max": 9}, {"max_completion_tokens": 9}),
        (
            {"max_tokens": 20, "max_completion_tokens": 30},
            {"output_tokens_max": 9},
            {"max_tokens": 9, "max_completion_tokens": 9},
        ),
        # A limit below ours stays: only what is too much is lowered.
        (
            {"max_tokens": 5, "max_completion_tokens": 30},
            {"output_tokens_max": 9},
            {"max_tokens": 5, "max_completion_tokens": 9},
        ),
        (
            {"stream": True},
            {"upstream_name": "m", "output_tokens_max": 9},
            {"model": "m", "stream_options": {"include_usage": True}, "max_tokens": 9},
        ),
    ],
)
def test_body_is_changed_in_what_must_change_alone(members, arguments, changes):
    request = request_of(**members)

    assert sent(request, **arguments) == {**request.document, **changes}


def test_plain_request_gets_no_stream_options():
    assert "stream_options" not in sent(request_of(stream=False), upstream_name="m")


@pytest.mark.parametrize(
    ("backend", "surface", "path"),
    [
        ("vllm", "chat", "/v1/chat/completions"),
        ("openai", "completions", "/v1/completions"),
        ("llamacpp", "embeddings", "/v1/embeddings"),
        ("azure", "chat", "/openai/v1/chat/completions"),
        ("azure", "embeddings", "/openai/v1/embeddings"),
    ],
)
def test_path_is_openais_or_azures_form_of_it(backend, surface, path):
    assert dialect_of(backend).path(call_of(surface=surface)) == path


@pytest.mark.parametrize(
    ("endpoint", "surface", "name"),
    [
        ("https://api.openai.com", "chat", "max_completion_tokens"),
        ("https://mine.openai.azure.com/openai", "chat", "max_completion_tokens"),
        ("https://api.openai.com", "completions", "max_tokens"),
        ("https://api.mistral.ai", "chat", "max_tokens"),
        ("http://127.0.0.1:9100", "chat", "max_tokens"),
    ],
)
def test_limit_member_is_what_the_upstream_understands(endpoint, surface, name):
    assert limit_member(endpoint=endpoint, surface=surface) == name


def test_body_takes_the_limit_under_the_upstreams_name():
    request = request_of()

    call = call_of(
        request=request, upstream_name="llama", output_tokens_max=9, endpoint="https://api.openai.com"
    )
    body = OpenAIDialect().body(call)

    assert orjson.loads(body) == {**request.document, "max_completion_tokens": 9}


TRANSLATED = {
    "model": "llama",
    "messages": [
        {"role": "system", "content": [{"type": "text", "text": "a", "cache_control": {}}]},
        {"role": "assistant", "content": [], "reasoning_content": "b", "thinking_blocks": [{}]},
        {"role": "user", "content": [{"type": "text", "text": "c"}]},
    ],
    "max_tokens": 20,
    "thinking": {"type": "adaptive"},
}


def translated_call(**arguments):
    request = read_completion(
        surface="chat", document=TRANSLATED, body=b"portable", needs_priced=False, is_translated=True
    )
    return call_of(request=request, **{"upstream_name": "llama", **arguments})


def test_translated_request_is_sent_in_its_portable_form():
    portable = {
        "model": "llama-8b",
        "messages": [
            {"role": "system", "content": "a"},
            {"role": "assistant", "content": None, "reasoning_content": "b"},
            {"role": "user", "content": "c"},
        ],
        "max_tokens": 9,
    }

    changed = OpenAIDialect().body(translated_call(upstream_name="llama-8b", output_tokens_max=9))

    assert OpenAIDialect().body(translated_call()) == b"portable"
    assert orjson.loads(changed) == portable


def test_translated_request_is_sent_to_openai_as_it_wants_it():
    body = OpenAIDialect().body(translated_call(endpoint="https://api.openai.com"))

    assert orjson.loads(body) == {
        "model": "llama",
        "messages": [
            {"role": "system", "content": "a"},
            {"role": "assistant", "content": None},
            {"role": "user", "content": "c"},
        ],
        "max_completion_tokens": 20,
    }
