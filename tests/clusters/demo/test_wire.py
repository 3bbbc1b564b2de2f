import json

import pytest

from clusters.demo.wire import CHAT_PATH, COMPLETIONS_PATH, EMBEDDINGS_PATH, RequestError, parse_request
from tests.clusters.demo.replies_of import chat


def parse(members, path=CHAT_PATH):
    return parse_request(path=path, body=json.dumps(members).encode())


def test_chat_prompt_counts_words_messages_and_opening():
    parts = [{"type": "text", "text": "three more words"}, {"type": "image_url", "image_url": {}}]
    messages = [
        {"role": "system", "content": "be brief"},
        {"role": "assistant", "content": None},
        {"role": "user", "content": parts},
    ]

    request = parse({"model": "m", "messages": messages})

    assert [prompt.tokens for prompt in request.prompts] == [2 + 3 + 4 * 3 + 3]


def test_max_completion_tokens_goes_before_max_tokens():
    request = parse(chat(max_tokens=9, max_completion_tokens=4))

    assert request.tokens_max == 4


@pytest.mark.parametrize(
    ("members", "param"),
    [
        ({"messages": []}, "messages"),
        ({"messages": ["hello"]}, "messages"),
        ({"messages": [{"role": "user", "content": 7}]}, "messages"),
        ({"model": 7}, "model"),
        ({"n": 0}, "n"),
        ({"n": 129}, "n"),
        ({"max_tokens": "5"}, "max_tokens"),
        ({"max_tokens": True}, "max_tokens"),
        ({"stream": "yes"}, "stream"),
        ({"stream_options": []}, "stream_options"),
        ({"stop": ["a", ""]}, "stop"),
        ({"tools": [{"type": "function"}], "tool_choice": "required"}, "tools"),
        (
            {
                "tools": [{"function": {"name": "f"}}],
                "tool_choice": {"type": "function", "function": {"name": "g"}},
            },
            "tool_choice",
        ),
        ({"standin_completion_tokens": -1}, "standin_completion_tokens"),
    ],
)
def test_chat_refuses_and_names_the_member(members, param):
    with pytest.raises(RequestError) as caught:
        parse(chat(**members))

    assert (caught.value.status, caught.value.body["error"]["param"]) == (400, param)


@pytest.mark.parametrize(
    ("path", "members", "param"),
    [
        (COMPLETIONS_PATH, {"prompt": ["a"] * 100, "n": 100}, "n"),
        (EMBEDDINGS_PATH, {"input": ["a"] * 1000, "dimensions": 1001}, "dimensions"),
    ],
)
def test_request_for_too_much_at_once_is_refused(path, members, param):
    with pytest.raises(RequestError) as caught:
        parse({"model": "m", **members}, path)

    assert caught.value.body["error"]["param"] == param


@pytest.mark.parametrize("given", [None, [], [""] * 2049, [1, "a"], [[1], ["a"]], {"a": 1}, [[]]])
def test_input_refuses_what_is_no_prompt(given):
    with pytest.raises(RequestError) as caught:
        parse({"model": "m", "input": given}, EMBEDDINGS_PATH)

    assert caught.value.body["error"]["param"] == "input"


def test_tool_is_called_only_when_asked_for():
    tools = [{"function": {"name": "f"}}, {"function": {"name": "g"}}]
    named = {"type": "function", "function": {"name": "g"}}

    called = [
        parse(chat(tools=tools, tool_choice=choice)).tool
        for choice in (None, "auto", "none", "required", named)
    ]

    assert [tool and tool.name for tool in called] == [None, None, None, "f", "g"]
