"""Answers of a chat completion for the tests of its translations."""

import orjson

from gateway.surfaces.translation import Circumstances

CIRCUMSTANCES = Circumstances(request_id="req_42", model="asked", prompt_tokens_estimate=7)
DONE = b"data: [DONE]\n\n"
USAGE = {
    "prompt_tokens": 10,
    "completion_tokens": 6,
    "prompt_tokens_details": {"cached_tokens": 4, "cache_creation_tokens": 1},
    "completion_tokens_details": {"reasoning_tokens": 2},
}
FAULT = {"message": "It broke.", "type": "upstream_error", "param": None, "code": "upstream_error"}


def plain(message, *, finish="stop", usage=USAGE, choice=None, **members):
    """A plain answer's bytes."""
    choices = [{"index": 0, "message": message, "finish_reason": finish, **(choice or {})}]
    answer = {"id": "c", "object": "chat.completion", "created": 5, "model": "m", "choices": choices}
    return orjson.dumps({**answer, **({} if usage is None else {"usage": usage}), **members})


def chunk(delta=None, *, finish=None, **members):
    """One event's bytes."""
    choices = [{"index": 0, "delta": delta or {}, "finish_reason": finish, **members}]
    return frame({"id": "c", "created": 5, "model": "m", "choices": choices})


def usage_chunk(usage=USAGE):
    return frame({"id": "c", "created": 5, "model": "m", "choices": [], "usage": usage})


def frame(document):
    return b"data: " + orjson.dumps(document) + b"\n\n"


def call(index=None, *, call_id=None, name=None, arguments=None):
    """A tool call, or its delta."""
    function = {} if name is None else {"name": name}
    if arguments is not None:
        function["arguments"] = arguments
    said = {"function": function, **({} if index is None else {"index": index})}
    return said if call_id is None else {**said, "id": call_id, "type": "function"}


def events(data):
    """The documents of an event stream, each checked to be called what its `type` says."""
    found = []
    for part in data.split(b"\n\n"):
        if part and not part.startswith(b":"):
            name, _, payload = part.partition(b"\ndata: ")
            document = orjson.loads(payload)
            assert name == b"event: " + document["type"].encode()
            found.append(document)
    return found


# Thoughts, text, two calls of which the second begins early, and an end.
RICH = b"".join(
    [
        chunk({"role": "assistant", "content": ""}),
        chunk({"reasoning_content": "Hm"}),
        b": ping\n\n",
        chunk({"reasoning": "m."}),
        chunk({"content": "Grüße "}),
        chunk({"content": "👋"}),
        chunk({"tool_calls": [call(0, call_id="a", name="f", arguments="")]}),
        chunk({"tool_calls": [call(0, arguments='{"x":')]}),
        chunk({"tool_calls": [call(1, call_id="b", name="g", arguments="{")]}),
        chunk({"tool_calls": [call(0, arguments="1}")]}),
        chunk({"tool_calls": [call(1, arguments="}")]}),
        chunk(finish="tool_calls"),
        usage_chunk(),
        DONE,
    ]
)
