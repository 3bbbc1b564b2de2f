"""OpenAI's own dialect, spoken by most: bytes pass as they are unless something has to change."""

from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

import orjson

from gateway.dialects.dialect import EVENT_STREAM, Call, ErrorParts, Translator, error_document, text_of
from gateway.portable_chat import portable_chat, strict_chat

PATHS = {
    "chat": "/v1/chat/completions",
    "completions": "/v1/completions",
    "embeddings": "/v1/embeddings",
}


class OpenAIDialect:
    """The identity; `paths` are where a maker has the surfaces, if elsewhere than OpenAI."""

    is_openai = True
    stream_type = EVENT_STREAM

    def __init__(self, *, paths: Mapping[str, str] = PATHS) -> None:
        self._paths = paths

    def path(self, call: Call) -> str:
        return self._paths[call.request.surface]

    def body(self, call: Call) -> bytes:
        return openai_body(call)

    def headers(self, signed: list[tuple[str, str]]) -> list[tuple[str, str]]:
        return signed

    def answer(self, body: bytes, call: Call) -> bytes:
        return body

    def translator(self, call: Call, *, line_bytes_max: int) -> Translator:
        return _Identity()

    def error_parts(self, body: bytes) -> ErrorParts:
        """From OpenAI's shape, vLLM's flat one or FastAPI's `detail`; else nothing."""
        document = error_document(body)
        error = document.get("error")
        source: dict[str, Any] = error if isinstance(error, dict) else document
        texts = [
            text for text in (source.get("message"), document.get("detail"), error) if isinstance(text, str)
        ]
        param, code = source.get("param"), source.get("code")
        return ErrorParts(
            message=text_of(texts[0]) if texts else "",
            param=param if isinstance(param, str) else None,
            code=code if isinstance(code, str) else None,
        )


class _Identity:
    def feed(self, chunk: bytes) -> bytes:
        return chunk

    def finish(self) -> bytes:
        return b""


def limit_member(*, endpoint: str, surface: str) -> str:
    """What the limit on tokens is called there: OpenAI's newer models refuse the older name."""
    host = urlsplit(endpoint).hostname or ""
    is_openai = host == "api.openai.com" or host.endswith((".openai.azure.com", ".services.ai.azure.com"))
    return "max_completion_tokens" if is_openai and surface == "chat" else "max_tokens"


def openai_body(call: Call) -> bytes:
    """The body for this upstream; the client's own bytes where nothing has to change."""
    request, output_tokens_max = call.request, call.output_tokens_max
    document, is_strict = request.document, False
    if request.is_translated:
        document = portable_chat(document)
        is_strict = limit_member(endpoint=call.endpoint, surface=request.surface) != "max_tokens"
        document = strict_chat(document) if is_strict else document
    changes: dict[str, Any] = {}
    if call.upstream_name != request.model:
        changes["model"] = call.upstream_name
    if request.is_stream and not request.wants_usage:
        options = document.get("stream_options") or {}
        changes["stream_options"] = {**options, "include_usage": True}
    if output_tokens_max is not None:
        names = [name for name in ("max_completion_tokens", "max_tokens") if document.get(name)]
        asked = {name: min(document[name], output_tokens_max) for name in names}
        limit_name = limit_member(endpoint=call.endpoint, surface=request.surface)
        changes.update(asked or {limit_name: output_tokens_max})
    if not changes and not is_strict:
        return request.body
    return orjson.dumps({**document, **changes})
