"""Reads what a chat completion says, plain or as the deltas of its chunks, by the names that backends use."""

from collections.abc import Mapping
from typing import Any

import orjson

from gateway.errors import UpstreamInvalidError
from gateway.metering import estimated_usage, tokens_of_bytes, usage_from_openai
from gateway.portable_chat import THINKING_BLOCKS
from gateway.surfaces.translation import Circumstances
from routing.types import Usage

# llama.cpp, SGLang and DeepSeek use the first, vLLM and OpenRouter the second.
REASONING_NAMES = ("reasoning_content", "reasoning")


def read_answer(body: bytes) -> tuple[Mapping[str, Any], Mapping[str, Any], Mapping[str, Any]]:
    """The answer, its one choice and that one's message; raises UpstreamInvalidError where there is none."""
    answer = orjson.loads(body)
    choice = first_choice(answer)
    message = choice.get("message")
    if not isinstance(message, dict):
        raise UpstreamInvalidError("The upstream's answer has no message.")
    return answer, choice, message


def usage_of(answer: Mapping[str, Any], circumstances: Circumstances, *, body_bytes: int) -> Usage:
    """What was told, else the estimate that the ledger makes too."""
    return usage_from_openai(answer.get("usage")) or estimated_usage(
        prompt_tokens_estimate=circumstances.prompt_tokens_estimate, output_tokens=tokens_of_bytes(body_bytes)
    )


def first_choice(answer: Mapping[str, Any]) -> Mapping[str, Any]:
    """The one choice that there is; empty where a chunk has none."""
    choices = answer.get("choices")
    return choices[0] if isinstance(choices, list) and choices and isinstance(choices[0], dict) else {}


def said_of(said: Mapping[str, Any], name: str) -> str:
    text = said.get(name)
    return text if isinstance(text, str) else ""


def reasoning_of(said: Mapping[str, Any]) -> str:
    return next(filter(None, (said_of(said, name) for name in REASONING_NAMES)), "")


def calls_of(said: Mapping[str, Any]) -> list[dict[str, Any]]:
    return _objects(said, "tool_calls")


def thinking_blocks_of(said: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Thoughts with what their maker wants back with them; gateway.dialects passes them on."""
    return _objects(said, THINKING_BLOCKS)


def _objects(said: Mapping[str, Any], name: str) -> list[dict[str, Any]]:
    items = said.get(name)
    return [item for item in items if isinstance(item, dict)] if isinstance(items, list) else []
