"""What an upstream's own refusal of a request means for routing: too long, filtered, or just wrong.

By the codes that OpenAI and Azure document and by the words of the engines that have no code: vLLM, SGLang,
llama.cpp, TGI, Anthropic, Gemini, Bedrock. Whatever is not known is nobody's to retry.
"""

from collections.abc import Collection
from typing import Any

import msgspec

TOO_LONG = "too_long"
FILTERED = "filtered"

_LONG_CODES = frozenset({"context_length_exceeded", "exceed_context_size_error", "string_above_max_length"})
_LONG_WORDS = (
    "maximum context length",
    "context length exceeded",
    "exceeds the available context size",
    "exceed context window",
    "exceeds the context window",
    "longer than the model's context length",
    "prompt is too long",
    "exceed context limit",
    "exceeds the maximum number of tokens allowed",
    "input is too long",
    "`inputs` tokens + `max_new_tokens` must be",
)
_FILTER_CODES = frozenset(
    {"content_filter", "content_policy_violation", "ResponsibleAIPolicyViolation", "data_inspection_failed"}
)
_FILTER_WORDS = ("content management policy", "content_policy_violation", "content filtering policy")
_FILTER_REASON = b'"content_filter"'


class _Message(msgspec.Struct):
    content: Any = None
    tool_calls: Any = None


class _Choice(msgspec.Struct):
    finish_reason: Any = None
    message: _Message | None = None
    text: Any = None

    @property
    def is_filtered(self) -> bool:
        message = self.message or _Message()
        return self.finish_reason == "content_filter" and not (
            message.content or message.tool_calls or self.text
        )


class _Answer(msgspec.Struct):
    choices: list[_Choice] = msgspec.field(default_factory=list)


_decoder = msgspec.json.Decoder(_Answer)


def refusal_kind(*, status: int, code: str | None, message: str) -> str:
    """TOO_LONG, FILTERED or empty, of a status that is passed on to the caller."""
    if status not in {400, 413, 422}:
        return ""
    words = message.lower()
    if _is_known(code, words, codes=_LONG_CODES, phrases=_LONG_WORDS):
        return TOO_LONG
    return FILTERED if _is_known(code, words, codes=_FILTER_CODES, phrases=_FILTER_WORDS) else ""


def is_filtered_whole(body: bytes) -> bool:
    """Whether a plain answer holds nothing: each choice was ended by a content filter before any content."""
    if _FILTER_REASON not in body:
        return False
    try:
        choices = _decoder.decode(body).choices
    except msgspec.DecodeError:
        return False
    return bool(choices) and all(choice.is_filtered for choice in choices)


def _is_known(code: str | None, words: str, *, codes: Collection[str], phrases: Collection[str]) -> bool:
    return code in codes or any(phrase in words for phrase in phrases)
