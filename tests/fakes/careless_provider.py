"""An upstream, a wake hook and a webhook that repeat the headers they were sent wherever they can."""

import re
import time

import orjson

from tests.fakes.provider_server import Replay

SLOW_S = 3.0
CASE = re.compile(rb"case:([a-z]+)")
USAGE = {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10}
STATUSES = {
    "refused": 400,
    "missing": 404,
    "unprocessable": 422,
    "limited": 429,
    "failed": 500,
    "overloaded": 503,
    "unauthorised": 401,
}


def repeat(request):
    """What the body's `case:…` asks for; without one a refusal."""
    found = CASE.search(request.body)
    case = found[1].decode() if found else "refused"
    said = " ".join(f"{name}: {value}" for name, value in request.headers.items())
    headers = {"x-request-id": said, "www-authenticate": said, "x-ratelimit-limit-requests": said}
    if case in STATUSES:
        return Replay(status=STATUSES[case], document=refusal(said), headers=headers)
    if case == "page":
        page = f"<html>{said}</html>".encode()
        return Replay(status=400, pieces=(page,), content_type="text/html", headers=headers)
    if case == "nonsense":
        return Replay(pieces=(said.encode(),), headers=headers)
    if case == "slow":
        time.sleep(SLOW_S)
    return completion(request, said, headers, is_broken=case == "broken")


def refusal(said):
    """As each provider writes it, at once."""
    error = {"type": said, "message": f"wrong: {said}", "code": said, "param": said, "status": said}
    return {"type": "error", "error": error, "message": said, "detail": said, "__type": said}


def completion(request, said, headers, *, is_broken):
    """OpenAI's, plain or streamed; a broken one ends in an error."""
    common = {"id": "chatcmpl-1", "created": 1, "model": "m"}
    if not request.document.get("stream"):
        choice = {"index": 0, "message": {"role": "assistant", "content": "Hi."}, "finish_reason": "stop"}
        document = {**common, "object": "chat.completion", "choices": [choice], "usage": USAGE}
        return Replay(document=document, headers=headers)
    delta = {"index": 0, "delta": {"role": "assistant", "content": "Hi."}, "finish_reason": None}
    end = {"index": 0, "delta": {}, "finish_reason": "stop"}
    chunks = [{"choices": [delta]}, {"choices": [end]}, {"choices": [], "usage": USAGE}]
    events = [orjson.dumps({**common, "object": "chat.completion.chunk", **chunk}) for chunk in chunks]
    if is_broken:
        events = [events[0], orjson.dumps(refusal(said))]
    pieces = tuple(b"data: " + event + b"\n\n" for event in [*events, b"[DONE]"])
    return Replay(pieces=pieces, content_type="text/event-stream", headers=headers)
