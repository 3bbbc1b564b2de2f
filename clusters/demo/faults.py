"""The faults that a stand-in can be told to show: each is one small function and one line.

A fault is asked for by `standin_fault` in a request's body, or from outside for the next requests.
Those of completions strike before the first content token or, for the kinds with `mid` in their
name, after some of them.
"""

import threading
from collections.abc import Awaitable, Callable, Container, Mapping
from dataclasses import dataclass, replace
from typing import Any

from clusters.demo.answer import Answer
from clusters.demo.exchange import Exchange
from clusters.demo.replies import DONE, JsonObject, Usage, frame
from clusters.demo.speech import Choice, Speech
from clusters.demo.wire import OUTPUT_TOKENS_MAX, CompletionRequest, error_body

Fault = Callable[[Answer], Awaitable[None]]
SideFault = Callable[[Exchange], Awaitable[None]]

HTML = b"<!doctype html><html><body><h1>It works!</h1></body></html>\n"
ENGINE_ERROR = error_body("EngineDeadError: the engine core has died.", kind="InternalServerError")
# How far past its limit a server goes that ignores max_tokens.
SURPLUS_TOKENS = 64
PENDING_MAX = 1000
FILTERED_SPEECH = Speech(
    choices=(Choice(index=0, reasoning=(), pieces=("",), finish_reason="content_filter"),)
)


async def http_500(answer: Answer) -> None:
    await answer.exchange.send_json(ENGINE_ERROR, status=500)


async def http_503(answer: Answer) -> None:
    body = error_body("The server is overloaded.", kind="server_error", code="overloaded")
    await answer.exchange.send_json(body, status=503)


async def http_429(answer: Answer) -> None:
    body = error_body("Rate limit reached.", kind="requests", code="rate_limit_exceeded")
    headers = {"retry-after": str(answer.retry_after_s)}
    await answer.exchange.send_json(body, status=429, headers=headers)


async def http_400(answer: Answer) -> None:
    body = error_body("This request is not to my taste.", kind="invalid_request_error")
    await answer.exchange.send_json(body, status=400)


async def context_400(answer: Answer) -> None:
    """As vLLM refuses what is longer than its window."""
    words = "This model's maximum context length is 16 tokens. Please reduce the length of the messages."
    body = error_body(words, kind="BadRequestError", code="context_length_exceeded")
    await answer.exchange.send_json(body, status=400)


async def filter_400(answer: Answer) -> None:
    """As Azure refuses a prompt that its content filter does not let through."""
    words = "The response was filtered due to the prompt triggering the content management policy."
    body = error_body(words, kind="invalid_request_error", code="content_filter")
    await answer.exchange.send_json(body, status=400)


async def filter_200(answer: Answer) -> None:
    """An answer of which a content filter left nothing."""
    answer.speech = FILTERED_SPEECH
    await answer.give()


async def http_401(answer: Answer) -> None:
    body = error_body("Incorrect API key provided.", kind="invalid_request_error", code="invalid_api_key")
    await answer.exchange.send_json(body, status=401)


async def not_json(answer: Answer) -> None:
    await answer.exchange.send_whole(b"this is no JSON\n", media="text/plain")


async def html_200(answer: Answer) -> None:
    await answer.exchange.send_whole(HTML, media="text/html; charset=utf-8")


async def empty_200(answer: Answer) -> None:
    await answer.exchange.send_whole(b"", media="application/json")


async def short_body(answer: Answer) -> None:
    """The length is promised, the beginning of an object is sent, and then the connection closes."""
    media = "text/event-stream" if answer.request.is_stream else "application/json"
    begin = b'data: {"id": "' if answer.request.is_stream else b'{"id": "'
    await answer.exchange.start(media=media, headers={"content-length": "4096"})
    await answer.exchange.send_bytes(begin)
    await answer.exchange.hang_up()


async def error_first(answer: Answer) -> None:
    """An error inside a 200, as vLLM and SGLang send it."""
    if not answer.request.is_stream:
        await answer.exchange.send_json(ENGINE_ERROR)
        return
    await answer.exchange.start_stream()
    await answer.exchange.end(frame(ENGINE_ERROR) + DONE)


async def reset_first(answer: Answer) -> None:
    await answer.exchange.reset()


async def stall_headers(answer: Answer) -> None:
    await answer.exchange.stall()


async def stall_first(answer: Answer) -> None:
    if answer.request.is_stream:
        await answer.exchange.start_stream()
    else:
        await answer.exchange.start(media="application/json")
    await answer.exchange.stall()


async def reset_mid(answer: Answer) -> None:
    async with answer.part():
        await answer.exchange.reset()


async def eof_mid(answer: Answer) -> None:
    """A stream ends in good order, but unfinished; a whole answer is cut in half."""
    async with answer.part():
        if answer.request.is_stream:
            await answer.exchange.end()
        else:
            await answer.exchange.hang_up()


async def bad_sse_mid(answer: Answer) -> None:
    """The next event is half an object, and so is a whole answer, whose length is right."""
    if not answer.request.is_stream:
        await answer.exchange.send_whole(b'{"id": "chatcmpl-', media="application/json")
        return
    async with answer.part():
        await answer.exchange.end(b'data: {"id": "chatcmpl-\n\n' + DONE)


async def error_mid(answer: Answer) -> None:
    if not answer.request.is_stream:
        await error_first(answer)
        return
    async with answer.part():
        await answer.exchange.end(frame(ENGINE_ERROR) + DONE)


async def stall_mid(answer: Answer) -> None:
    async with answer.part():
        await answer.exchange.stall()


async def no_usage(answer: Answer) -> None:
    answer.report = None
    await answer.give()


async def bad_usage(answer: Answer) -> None:
    answer.report = impossible_usage
    await answer.give()


def impossible_usage(_usage: Usage) -> JsonObject:
    return {"prompt_tokens": -1, "completion_tokens": "7", "total_tokens": 2.5}


async def usage_in_last_chunk(answer: Answer) -> None:
    answer.reports_on_last_chunk = True
    await answer.give()


async def ignores_max_tokens(answer: Answer) -> None:
    """Say 64 tokens more than the request allows for each choice."""
    request = answer.request
    if isinstance(request, CompletionRequest) and request.tokens_max is not None:
        tokens = min(request.tokens_max, OUTPUT_TOKENS_MAX) + SURPLUS_TOKENS
        knobs = replace(request.knobs, completion_tokens=tokens)
        answer.plan(replace(request, tokens_max=None, knobs=knobs))
    await answer.give()


async def slow(answer: Answer) -> None:
    """A tenth of the speed; nothing where the engine has no speed limit."""
    answer.slowness = 10.0
    await answer.give()


async def unhealthy(exchange: Exchange) -> None:
    await exchange.send_whole(b"", status=503, media="text/plain")


async def health_stall(exchange: Exchange) -> None:
    await exchange.stall()


async def metrics_500(exchange: Exchange) -> None:
    await exchange.send_json({"detail": "Internal Server Error"}, status=500)


COMPLETION_FAULTS: Mapping[str, Fault] = {
    "http_500": http_500,
    "http_503": http_503,
    "http_429": http_429,
    "http_400": http_400,
    "context_400": context_400,
    "filter_400": filter_400,
    "filter_200": filter_200,
    "http_401": http_401,
    "not_json": not_json,
    "html_200": html_200,
    "empty_200": empty_200,
    "short_body": short_body,
    "error_first": error_first,
    "reset_first": reset_first,
    "stall_headers": stall_headers,
    "stall_first": stall_first,
    "reset_mid": reset_mid,
    "eof_mid": eof_mid,
    "bad_sse_mid": bad_sse_mid,
    "error_mid": error_mid,
    "stall_mid": stall_mid,
    "no_usage": no_usage,
    "bad_usage": bad_usage,
    "usage_in_last_chunk": usage_in_last_chunk,
    "ignores_max_tokens": ignores_max_tokens,
    "slow": slow,
}
HEALTH_FAULTS: Mapping[str, SideFault] = {"unhealthy": unhealthy, "health_stall": health_stall}
METRICS_FAULTS: Mapping[str, SideFault] = {"metrics_500": metrics_500}
FAULT_KINDS = frozenset((*COMPLETION_FAULTS, *HEALTH_FAULTS, *METRICS_FAULTS))


@dataclass(frozen=True, slots=True, kw_only=True)
class PendingFault:
    """A fault for the next `count` requests it fits, or until it is cleared (None).

    The other two, when given, go before the request's own `standin_` members.
    """

    kind: str
    count: int | None
    after_tokens: int | None
    retry_after_s: int | None

    def describe(self) -> dict[str, Any]:
        return {
            "kind": self.kind,
            "count": self.count,
            "after_tokens": self.after_tokens,
            "retry_after_s": self.retry_after_s,
        }


class FaultQueue:
    """The faults set from outside, in order. Raises ValueError on a kind it does not know.

    Locked, because a test sets faults from a thread of its own.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._pending: list[PendingFault] = []

    def add(
        self,
        *,
        kind: str,
        count: int | None = 1,
        after_tokens: int | None = None,
        retry_after_s: int | None = None,
    ) -> None:
        if kind not in FAULT_KINDS:
            raise ValueError(f"no fault {kind!r}; there are {', '.join(sorted(FAULT_KINDS))}")
        pending = PendingFault(kind=kind, count=count, after_tokens=after_tokens, retry_after_s=retry_after_s)
        with self._lock:
            if len(self._pending) >= PENDING_MAX:
                raise ValueError(f"{PENDING_MAX} faults are pending; clear some")
            self._pending.append(pending)

    def clear(self) -> None:
        with self._lock:
            self._pending.clear()

    def take(self, kinds: Container[str]) -> PendingFault | None:
        """The first fault of one of these kinds, used up once."""
        with self._lock:
            for position, pending in enumerate(self._pending):
                if pending.kind in kinds:
                    if pending.count is None:
                        return pending
                    if pending.count > 1:
                        self._pending[position] = replace(pending, count=pending.count - 1)
                    else:
                        del self._pending[position]
                    return pending
        return None

    def describe(self) -> list[dict[str, Any]]:
        with self._lock:
            return [pending.describe() for pending in self._pending]
