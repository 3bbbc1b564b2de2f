"""The official OpenAI SDK at POST /v1/responses: it reads what the upstream said, and the row agrees."""

import openai
import pytest

from tests.e2e.fleet import cost_of, standin_extra, token_counts

pytestmark = pytest.mark.e2e


def test_response_is_answered_and_settled_exactly(fleet):
    fleet.add_cluster()
    key = fleet.issue_key()
    fleet.ready()

    response = fleet.client(key).responses.create(
        model=fleet.model, input="one two three", store=True, **standin_extra(completion_tokens=5)
    )

    (row,) = fleet.settled_rows(key, count=1)
    token = row["request_id"].removeprefix("req_")
    assert len(response.output_text.split()) == 5
    assert response.to_dict() == {
        "id": f"resp_{token}",
        "object": "response",
        "created_at": response.created_at,
        "status": "completed",
        "background": False,
        "error": None,
        "incomplete_details": None,
        "instructions": None,
        "max_output_tokens": None,
        "max_tool_calls": None,
        "metadata": {},
        "model": fleet.model,
        "output": [
            {
                "id": f"msg_{token}_0",
                "type": "message",
                "status": "completed",
                "role": "assistant",
                "content": [
                    {"type": "output_text", "text": response.output_text, "annotations": [], "logprobs": []}
                ],
            }
        ],
        "parallel_tool_calls": True,
        "previous_response_id": None,
        "prompt_cache_key": None,
        "reasoning": {"effort": None, "summary": None},
        "safety_identifier": None,
        "service_tier": None,
        "store": False,
        "temperature": None,
        "text": {"format": {"type": "text"}},
        "tool_choice": "auto",
        "tools": [],
        "top_p": None,
        "truncation": "disabled",
        "usage": {
            "input_tokens": 10,
            "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
            "output_tokens": 5,
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": 15,
        },
        "user": None,
    }
    assert (row["surface"], row["is_stream"], row["outcome"]) == ("chat", False, "ok")
    assert token_counts(row) == (10, 5)
    assert row["cost_nanousd"] == cost_of(row)


def test_stream_is_accumulated_to_the_same_response(fleet):
    fleet.add_cluster()
    key = fleet.issue_key()
    fleet.ready()
    client = fleet.client(key)
    asked = {"model": fleet.model, "input": "one two three", **standin_extra(completion_tokens=5)}

    with client.responses.stream(**asked) as stream:
        events = list(stream)
        streamed = stream.get_final_response()
    plain = client.responses.create(**asked)

    (row, _) = fleet.settled_rows(key, count=2)
    assert [event.type for event in events] == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
        *["response.output_text.delta"] * 5,
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.completed",
    ]
    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert (streamed.output_text, streamed.usage) == (plain.output_text, plain.usage)
    assert (row["is_stream"], token_counts(row)) == (True, (10, 5))


WEATHER = {
    "type": "function",
    "name": "get_weather",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
}
CALL = {"type": "function_call", "call_id": "c1", "name": "get_weather", "arguments": "{}"}
OUTPUT = {"type": "function_call_output", "call_id": "c1", "output": "one two"}


@pytest.mark.parametrize("choice", ["required", {"type": "function", "name": "get_weather"}])
def test_function_is_called_alike_plain_and_streaming(fleet, choice):
    fleet.add_cluster()
    key = fleet.issue_key()
    fleet.ready()
    client = fleet.client(key)
    asked = {"model": fleet.model, "input": "one", "tools": [WEATHER], "tool_choice": choice}

    plain = client.responses.create(**asked)
    with client.responses.stream(**asked) as stream:
        kinds = [event.type for event in stream]
        streamed = stream.get_final_response()

    (call,) = plain.output
    (streamed_call,) = streamed.output
    assert (call.type, call.name, call.status) == ("function_call", "get_weather", "completed")
    assert (streamed_call.name, streamed_call.arguments) == (call.name, call.arguments)
    assert call.call_id.startswith("call_")
    assert [kind for kind in kinds if not kind.endswith(".delta")] == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.function_call_arguments.done",
        "response.output_item.done",
        "response.completed",
    ]
    assert len(fleet.settled_rows(key, count=2)) == 2


def test_output_of_a_function_is_part_of_the_prompt(fleet):
    fleet.add_cluster()
    key = fleet.issue_key()
    fleet.ready()
    conversation = [{"role": "user", "content": "one"}, CALL, OUTPUT]

    response = fleet.client(key).responses.create(
        model=fleet.model,
        instructions="three",
        input=conversation,
        tools=[WEATHER],
        **standin_extra(completion_tokens=2),
    )

    (row,) = fleet.settled_rows(key, count=1)
    # One, two, one and three; 4 for each of four messages, and 3.
    assert response.usage.input_tokens == 4 + 4 * 4 + 3
    assert token_counts(row) == (23, 2)


def test_thoughts_are_an_item_of_their_own_and_may_be_sent_back(fleet):
    fleet.add_cluster(kind="provider")
    key = fleet.issue_key()
    fleet.ready()
    client = fleet.client(key)
    knobs = standin_extra(completion_tokens=20, cached_tokens=4, reasoning_tokens=5)

    plain = client.responses.create(model=fleet.model, input="one two three", **knobs)
    with client.responses.stream(model=fleet.model, input="one two three", **knobs) as stream:
        streamed = stream.get_final_response()
    answered = client.responses.create(
        model=fleet.model,
        input=[*(item.to_dict() for item in plain.output), {"role": "user", "content": "go"}],
    )

    assert [item.type for item in plain.output] == ["reasoning", "message"]
    assert plain.output[0].content[0].text == streamed.output[0].content[0].text
    assert plain.usage.to_dict() == {
        "input_tokens": 10,
        "input_tokens_details": {"cached_tokens": 4, "cache_write_tokens": 0},
        "output_tokens": 20,
        "output_tokens_details": {"reasoning_tokens": 5},
        "total_tokens": 30,
    }
    assert streamed.usage == plain.usage
    assert answered.status == "completed"
    assert len(fleet.settled_rows(key, count=3)) == 3


def test_limit_on_tokens_leaves_a_response_incomplete(fleet):
    fleet.add_cluster()
    key = fleet.issue_key()
    fleet.ready()
    client = fleet.client(key)
    asked = {
        "model": fleet.model,
        "input": "one",
        "max_output_tokens": 3,
        **standin_extra(completion_tokens=9),
    }

    plain = client.responses.create(**asked)
    kinds = [event.type for event in client.responses.create(**asked, stream=True)]

    assert (plain.status, plain.incomplete_details.reason) == ("incomplete", "max_output_tokens")
    assert kinds[-1] == "response.incomplete"
    assert [token_counts(row)[1] for row in fleet.settled_rows(key, count=2)] == [3, 3]


def test_fault_in_the_middle_is_a_failed_response_and_no_completed_one(fleet):
    fleet.add_cluster()
    key = fleet.issue_key()
    fleet.ready()

    events = list(
        fleet.client(key).responses.create(
            model=fleet.model,
            input="one",
            stream=True,
            **standin_extra(fault="eof_mid", completion_tokens=9),
        )
    )

    (row,) = fleet.settled_rows(key, count=1)
    assert row["outcome"] == "truncated"
    assert events[-1].type == "response.failed"
    assert events[-1].response.status == "failed"
    assert events[-1].response.error.to_dict() == {
        "code": "server_error",
        "message": "The upstream ended its stream before the answer was complete.",
    }
    assert "response.completed" not in [event.type for event in events]


@pytest.mark.parametrize(
    ("members", "param"),
    [
        ({"previous_response_id": "resp_1"}, "previous_response_id"),
        ({"background": True}, "background"),
        ({"conversation": "conv_1"}, "conversation"),
        ({"truncation": "auto"}, "truncation"),
        ({"tools": [{"type": "web_search"}]}, "tools[0].type"),
        ({"include": ["message.output_text.logprobs"]}, "include"),
        ({"input": [{"type": "item_reference", "id": "msg_1"}]}, "input[0].type"),
    ],
)
def test_what_has_no_translation_is_refused_by_name(fleet, members, param):
    fleet.add_cluster()
    key = fleet.issue_key()
    fleet.ready()

    with pytest.raises(openai.BadRequestError) as refused:
        fleet.client(key).responses.create(**{"model": fleet.model, "input": "one", **members})

    assert (refused.value.code, refused.value.param) == ("unsupported_parameter", param)
    assert fleet.settled_rows(key, count=0) == []


def test_stored_responses_are_not_found(fleet):
    fleet.add_cluster()
    key = fleet.issue_key()
    fleet.ready()
    client = fleet.client(key)

    for call in (client.responses.retrieve, client.responses.delete, client.responses.cancel):
        with pytest.raises(openai.NotFoundError) as absent:
            call("resp_1")
        assert "not stored" in absent.value.message
    with pytest.raises(openai.AuthenticationError):
        client.with_options(api_key="tg_wrong").responses.retrieve("resp_1")


@pytest.mark.parametrize("is_stream", [False, True])
def test_idempotency_key_gets_the_same_response_byte_for_byte(fleet, is_stream):
    fleet.add_cluster()
    key = fleet.issue_key()
    fleet.ready()
    headers = {"idempotency-key": f"job-{fleet.token}"}
    body = {"model": fleet.model, "input": "one", "stream": is_stream, "standin_completion_tokens": 5}

    first = fleet.post(key, body, path="/v1/responses", headers=headers)
    again = fleet.post(key, body, path="/v1/responses", headers=headers)

    assert (first.status_code, again.status_code) == (200, 200)
    assert again.content == first.content
    assert again.headers["idempotency-replayed"] == "true"
    assert len(fleet.settled_rows(key, count=1)) == 1


def test_llamacpp_answers_and_counts(fleet, llama_url):
    fleet.add_cluster(endpoint=llama_url, backend="llamacpp", context_window=8192)
    key = fleet.issue_key()
    fleet.ready()
    client = fleet.client(key)
    asked = {"model": fleet.model, "instructions": "the router", "input": "the gateway", "tools": [WEATHER]}
    limits = {"max_output_tokens": 12, "extra_body": {"top_k": 1}}

    plain = client.responses.create(**asked, **limits)
    # It ends at the limit, so incomplete.
    streamed = list(client.responses.create(**asked, **limits, stream=True))[-1].response
    longer = client.responses.create(
        **{**asked, "input": [{"role": "user", "content": "the gateway"}, CALL, OUTPUT]}, **limits
    )
    counted = client.responses.input_tokens.count(**asked)

    rows = fleet.settled_rows(key, count=3)
    responses = (plain, streamed, longer)
    assert plain.output_text
    assert streamed.output_text == plain.output_text
    assert [(each.usage.input_tokens, each.usage.output_tokens) for each in responses] == [
        token_counts(row) for row in rows
    ]
    assert longer.usage.input_tokens > plain.usage.input_tokens
    assert counted.to_dict() == {"object": "response.input_tokens", "input_tokens": plain.usage.input_tokens}
