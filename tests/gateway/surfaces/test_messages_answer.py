"""A message from a chat's plain answer: the same blocks, reason and usage as of its stream."""

import orjson
import pytest

from gateway.errors import UpstreamInvalidError
from gateway.surfaces.messages_answer import message_of_answer
from tests.gateway.surfaces.chats import CIRCUMSTANCES, call, plain


def message(*, shows_thinking=True, **answer):
    body = plain(**answer)
    return orjson.loads(message_of_answer(body, CIRCUMSTANCES, shows_thinking=shows_thinking))


def test_answer_is_a_message():
    said = {
        "content": "a",
        "reasoning_content": "Hm.",
        "tool_calls": [call(call_id="t", name="f", arguments='{"x": 1}')],
    }

    assert message(message=said, finish="tool_calls", service_tier="priority") == {
        "id": "msg_42",
        "type": "message",
        "role": "assistant",
        "model": "m",
        "content": [
            {"type": "thinking", "thinking": "Hm.", "signature": ""},
            {"type": "text", "text": "a"},
            {"type": "tool_use", "id": "t", "name": "f", "input": {"x": 1}},
        ],
        "stop_reason": "tool_use",
        "stop_sequence": None,
        "usage": {
            "input_tokens": 5,
            "cache_creation_input_tokens": 1,
            "cache_read_input_tokens": 4,
            "output_tokens": 6,
            "output_tokens_details": {"thinking_tokens": 2},
            "service_tier": "priority",
        },
    }


@pytest.mark.parametrize(
    ("arguments", "wanted"),
    [("", {}), ("{}", {}), ("[1]", {"INVALID_JSON": "[1]"}), ('{"x":', {"INVALID_JSON": '{"x":'})],
)
def test_input_of_a_tool_is_always_an_object(arguments, wanted):
    (block,) = message(message={"tool_calls": [call(name="f", arguments=arguments)]})["content"]

    assert block == {"type": "tool_use", "id": "call_42_0", "name": "f", "input": wanted}


@pytest.mark.parametrize(("shows_thinking", "thought"), [(True, "Hm."), (False, "")])
def test_signed_thoughts_keep_their_signature(shows_thinking, thought):
    signed = {"type": "thinking", "thinking": "Hm.", "signature": "s"}
    redacted = {"type": "redacted_thinking", "data": "d"}
    said = {"content": "a", "reasoning_content": "Hm.", "thinking_blocks": [signed, redacted]}

    assert message(message=said, shows_thinking=shows_thinking)["content"] == [
        {**signed, "thinking": thought},
        redacted,
        {"type": "text", "text": "a"},
    ]


def test_thoughts_that_are_not_asked_for_and_refusals():
    said = {"content": None, "reasoning": "Hm.", "refusal": "No."}

    assert message(message=said, shows_thinking=False)["content"] == [{"type": "text", "text": "No."}]
    assert [block["type"] for block in message(message=said)["content"]] == ["thinking", "text"]


def test_usage_that_nobody_told_is_estimated():
    body = plain({"content": "a"}, usage=None)

    usage = orjson.loads(message_of_answer(body, CIRCUMSTANCES, shows_thinking=True))["usage"]

    assert (usage["input_tokens"], usage["output_tokens"]) == (7, -(-len(body) // 4))


@pytest.mark.parametrize("body", [b'{"choices":[]}', b'{"choices":[{"message":null}]}', b"{}"])
def test_answer_without_a_message_is_none(body):
    with pytest.raises(UpstreamInvalidError):
        message_of_answer(body, CIRCUMSTANCES, shows_thinking=True)
