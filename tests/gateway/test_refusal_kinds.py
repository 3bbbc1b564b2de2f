"""What upstreams' refusals mean, by the words that they really use."""

import orjson
import pytest

from gateway.refusal_kinds import FILTERED, TOO_LONG, is_filtered_whole, refusal_kind

VLLM = "This model's maximum context length is 8192 tokens. However, you requested 9000 tokens."
LLAMACPP = "the request exceeds the available context size, try increasing it"
SGLANG = "The input (9000 tokens) is longer than the model's context length (8192 tokens)."
TGI = "Input validation error: `inputs` tokens + `max_new_tokens` must be <= 4096. Given: 4000 and 200"
CLAUDE = "prompt is too long: 210000 tokens > 200000 maximum"
AZURE = "The response was filtered due to the prompt triggering Azure OpenAI's content management policy."


@pytest.mark.parametrize(
    ("status", "code", "message", "kind"),
    [
        (400, "context_length_exceeded", "Too long.", TOO_LONG),
        *[(400, None, message, TOO_LONG) for message in (VLLM, LLAMACPP, SGLANG, CLAUDE)],
        (422, None, TGI, TOO_LONG),
        (413, "context_length_exceeded", "", TOO_LONG),
        (400, "content_filter", "No.", FILTERED),
        (400, "content_policy_violation", "No.", FILTERED),
        (400, None, AZURE, FILTERED),
        (400, None, "`messages` must not be empty", ""),
        (400, "invalid_request_error", "", ""),
        (404, "context_length_exceeded", VLLM, ""),
        (413, None, "Request Entity Too Large", ""),
    ],
)
def test_kind_of_a_refusal(status, code, message, kind):
    assert refusal_kind(status=status, code=code, message=message) == kind


def choice(reason, **message):
    return {"index": 0, "finish_reason": reason, "message": {"role": "assistant", **message}}


@pytest.mark.parametrize(
    ("choices", "is_filtered"),
    [
        ([choice("content_filter", content="")], True),
        ([choice("content_filter", content=None), choice("content_filter")], True),
        ([{"index": 0, "finish_reason": "content_filter", "text": ""}], True),
        ([choice("content_filter", content="A word or two")], False),
        ([choice("content_filter", content=""), choice("stop", content="Fine.")], False),
        ([choice("content_filter", tool_calls=[{"id": "a"}])], False),
        ([choice("stop", content='"content_filter"')], False),
        ([], False),
    ],
)
def test_answer_is_filtered_whole_where_nothing_of_any_choice_is_left(choices, is_filtered):
    assert is_filtered_whole(orjson.dumps({"choices": choices})) is is_filtered


@pytest.mark.parametrize("body", [b'"content_filter"', b'{"choices": "content_filter"}', b"", b"{"])
def test_what_is_no_answer_is_not_filtered(body):
    assert not is_filtered_whole(body)
