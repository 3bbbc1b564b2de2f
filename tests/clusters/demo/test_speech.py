import json

import pytest

from clusters.demo.speech import cut_at_stop, plan_speech
from clusters.demo.wire import CHAT_PATH, OUTPUT_TOKENS_MAX, CompletionRequest, parse_request
from clusters.demo.words import TEXT
from tests.clusters.demo.replies_of import chat

TOOLS = [{"function": {"name": "f", "parameters": {"properties": {"city": {"type": "string"}}}}}]


def plan(*, seed=0, context_tokens_max=1000, **members):
    request = parse_request(path=CHAT_PATH, body=json.dumps(chat(**members)).encode())
    assert isinstance(request, CompletionRequest)
    return plan_speech(request=request, seed=seed, context_tokens_max=context_tokens_max)


def test_speech_depends_on_seed_and_prompt_alone():
    first, again, other_seed = plan(), plan(), plan(seed=1)
    other_prompt = plan(messages=[{"role": "user", "content": "good bye"}])

    assert first == again
    texts = {speech.choices[0].text for speech in (first, other_seed, other_prompt)}
    assert len(texts) == 3


def test_speech_says_words_of_the_text_one_a_token():
    choice = plan(standin_completion_tokens=200).choices[0]

    words = choice.text.split()
    assert len(words) == choice.tokens == 200
    assert set(words) <= set(TEXT.replace(" .", ".").replace(" ,", ",").split())


@pytest.mark.parametrize(
    ("members", "tokens", "finish_reason"),
    [
        ({"standin_completion_tokens": 5}, 5, "stop"),
        ({"standin_completion_tokens": 5, "max_tokens": 5}, 5, "stop"),
        ({"standin_completion_tokens": 5, "max_tokens": 4}, 4, "length"),
        ({"max_tokens": 3}, 3, "length"),
        ({"standin_completion_tokens": 5, "stop": "health"}, 5, "stop"),
        ({"standin_completion_tokens": 3, "standin_reasoning_tokens": 7}, 3, "stop"),
        ({"standin_reasoning_tokens": 7, "max_tokens": 4}, 4, "length"),
        ({"tools": TOOLS, "tool_choice": "required"}, 2, "tool_calls"),
        ({"tools": TOOLS, "tool_choice": "required", "max_tokens": 1}, 1, "length"),
    ],
)
def test_speech_is_as_long_as_asked(members, tokens, finish_reason):
    choice = plan(**members).choices[0]

    assert (choice.tokens, choice.finish_reason) == (tokens, finish_reason)


def test_speech_of_many_choices_is_bounded_in_all():
    speech = plan(n=128, standin_completion_tokens=200_000, context_tokens_max=500_000)

    assert {choice.finish_reason for choice in speech.choices} == {"length"}
    assert speech.tokens == OUTPUT_TOKENS_MAX // 128 * 128


def test_call_is_padded_with_blanks_to_its_length():
    members = {"tools": TOOLS, "tool_choice": "required", "standin_completion_tokens": 6}

    choice = plan(**members).choices[0]

    assert (choice.tokens, list(json.loads(choice.text))) == (6, ["city"])


def test_stop_ends_the_speech_and_is_swallowed():
    choice = plan(stop=["check", "asks"]).choices[0]

    assert (choice.text, choice.tokens, choice.finish_reason) == ("the health ", 3, "stop")


@pytest.mark.parametrize(
    ("stops", "left"),
    [
        (("c",), ("a", " b", " ")),
        (("b c",), ("a", " ", "")),
        ((" b",), ("a", "")),
        (("c", "a b"), ("", "")),
        (("x",), None),
    ],
)
def test_cut_at_stop_keeps_the_tokens_made(stops, left):
    assert cut_at_stop(pieces=("a", " b", " c", " d"), stops=stops) == left


def test_turns_go_round_the_choices():
    turns = plan(n=2, standin_completion_tokens=2, standin_reasoning_tokens=1).turns()

    assert [(turn.choice_index, turn.is_reasoning) for turn in turns] == [
        (0, True),
        (1, True),
        (0, False),
        (1, False),
    ]
