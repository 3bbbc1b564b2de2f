"""What the tests of the demo fleet send, and how they read a stream."""

import json

CHAT = "/v1/chat/completions"
# Two words, 4 for the message and 3 for the answer's opening.
PROMPT_TOKENS = 9


def chat(**members):
    messages = [{"role": "user", "content": "hello there"}]
    return {"model": "llama-3-8b", "messages": messages, **members}


def events(text):
    """The data of each event of a stream, parsed but for [DONE]."""
    frames = text.split("\n\n")
    assert frames.pop() == ""
    data = [frame.removeprefix("data: ") for frame in frames]
    return [one if one == "[DONE]" else json.loads(one) for one in data]


def without_identity(body):
    """A body without the members that differ from answer to answer."""
    return {name: value for name, value in body.items() if name not in {"id", "created"}}


async def read_broken(response):
    """What arrived of a response that breaks off, and the error it broke off with."""
    data = bytearray()
    try:
        async for piece in response.aiter_raw():
            data += piece
    except Exception as err:  # noqa: BLE001 -- the caller asserts its type
        return bytes(data), type(err)
    return bytes(data), None
