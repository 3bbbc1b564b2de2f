"""How many tokens a prompt has: counted by a cluster that does so for nothing, else estimated."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import orjson
import structlog

from gateway.completion import CompletionRequest
from gateway.errors import UpstreamInvalidError
from gateway.fleet import FleetSnapshot, Target
from gateway.portable_chat import portable_chat
from gateway.upstream import UpstreamFailure, Upstreams, read_body
from routing.eligibility import exclusion_reason
from routing.learning import NOTHING_LEARNT

logger = structlog.get_logger(__name__)

# Beyond these it is not worth the wait, or the clusters' time: an estimate does.
ASKED_MAX = 2
ASKED_S_MAX = 2.0
RUNNING_MAX = 16
ANSWER_BYTES_MAX = 32 * 1024 * 1024
# What a template is filled with besides the messages.
TEMPLATE_MEMBERS = ("tools", "chat_template_kwargs", "reasoning_effort")

# A path and a question to the answer.
Ask = Callable[[str, Mapping[str, Any]], Awaitable[Mapping[str, Any]]]


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenCount:
    """`cluster` counted it; empty: nobody did, it is a token per 4 bytes."""

    tokens: int
    cluster: str = ""


class TokenCounter:
    """Asks at most ASKED_MAX clusters for one prompt, and for RUNNING_MAX prompts at once."""

    def __init__(self, *, upstreams: Upstreams, clock: Callable[[], float]) -> None:
        self._upstreams = upstreams
        self._clock = clock
        self._running_count = 0

    async def count(
        self, request: CompletionRequest, *, snapshot: FleetSnapshot, request_id: str
    ) -> TokenCount:
        """Only where the request itself might go; nothing is generated, so nothing is held or settled."""
        if _is_text(request) and self._running_count < RUNNING_MAX:
            self._running_count += 1
            try:
                async with asyncio.timeout(ASKED_S_MAX):
                    for target in self._targets(request, snapshot):
                        if tokens := await self._asked(target, request, request_id=request_id):
                            return TokenCount(tokens=tokens, cluster=target.deployment.cluster)
            except TimeoutError:
                logger.info("tokens_not_counted", error="out of time")
            finally:
                self._running_count -= 1
        return TokenCount(tokens=request.profile.prompt_tokens_estimate)

    def _targets(self, request: CompletionRequest, snapshot: FleetSnapshot) -> Iterator[Target]:
        """The route's own clusters that can count and could serve it now; none is woken for it."""
        asked_count = 0
        for deployment in snapshot.fleet.routes[request.model].candidates:
            target = snapshot.targets[deployment.id]
            if asked_count == ASKED_MAX or target.backend not in COUNTERS:
                continue
            reason = exclusion_reason(
                deployment,
                profile=request.profile,
                state=NOTHING_LEARNT,
                settings=snapshot.fleet.settings,
                now_s=self._clock(),
            )
            if not reason:
                asked_count += 1
                yield target

    async def _asked(self, target: Target, request: CompletionRequest, *, request_id: str) -> int:
        """What the cluster says; 0 where it cannot say it."""

        async def ask(path: str, question: Mapping[str, Any]) -> Mapping[str, Any]:
            return await self._answer(target, path, question, request_id=request_id)

        chat = portable_chat(request.document) if request.is_translated else request.document
        filled = {name: chat[name] for name in TEMPLATE_MEMBERS if name in chat}
        question = {"model": target.upstream_name, "messages": chat["messages"], **filled}
        try:
            return await COUNTERS[target.backend](ask, question)
        except (UpstreamFailure, UpstreamInvalidError) as failure:
            logger.info("tokens_not_counted", cluster=target.deployment.cluster, error=str(failure))
            return 0

    async def _answer(
        self, target: Target, path: str, question: Mapping[str, Any], *, request_id: str
    ) -> Mapping[str, Any]:
        response = await self._upstreams.send(
            target=target,
            path=path,
            body=orjson.dumps(question),
            request_id=request_id,
            attempt_id=request_id,
        )
        try:
            body = await read_body(response, bytes_max=ANSWER_BYTES_MAX)
        finally:
            await response.aclose()
        try:
            answer = orjson.loads(body)
        except orjson.JSONDecodeError as error:
            raise UpstreamInvalidError("The answer is not JSON.") from error
        return answer if isinstance(answer, dict) else {}


async def _by_llamacpp(ask: Ask, question: Mapping[str, Any]) -> int:
    """https://github.com/ggml-org/llama.cpp/tree/master/tools/server: the prompt, then its tokens."""
    prompt = (await ask("/apply-template", question)).get("prompt")
    # As its chat completions do it.
    tokenized = await ask("/tokenize", {"content": prompt, "add_special": True, "parse_special": True})
    tokens = tokenized.get("tokens")
    return len(tokens) if isinstance(prompt, str) and isinstance(tokens, list) else 0


async def _by_vllm(ask: Ask, question: Mapping[str, Any]) -> int:
    """Its tokenizer API: https://docs.vllm.ai/en/latest/serving/openai_compatible_server.html."""
    count = (await ask("/tokenize", {**question, "add_generation_prompt": True})).get("count")
    return count if isinstance(count, int) and not isinstance(count, bool) and count > 0 else 0


COUNTERS = {"llamacpp": _by_llamacpp, "vllm": _by_vllm}


def _is_text(request: CompletionRequest) -> bool:
    """What a picture takes no tokeniser says."""
    contents = (message.get("content") for message in request.document["messages"])
    return all(
        part.get("type") == "text" for content in contents if isinstance(content, list) for part in content
    )
