"""The wire of each kind of upstream: its paths, and the body that goes to it; all speak OpenAI's dialect.

Anthropic's and Google's own OpenAI-compatible endpoints are used for `claude` and `gemini`.
"""

from typing import Any
from urllib.parse import urlsplit

import orjson

from gateway.completion import CompletionRequest

PATHS = {
    "chat": "/v1/chat/completions",
    "completions": "/v1/completions",
    "embeddings": "/v1/embeddings",
}
CREDENTIAL_HEADERS = frozenset({"x-api-key", "x-goog-api-key"})
# https://ai.google.dev/gemini-api/docs/openai
GEMINI_PATHS = {surface: "/v1beta/openai" + path.removeprefix("/v1") for surface, path in PATHS.items()}


def upstream_path(*, backend: str, surface: str) -> str:
    return (GEMINI_PATHS if backend == "gemini" else PATHS)[surface]


def openai_credentials(headers: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """The signer's headers with a maker's own credential header turned into OpenAI's.

    The probes speak each maker's own dialect; the OpenAI-compatible endpoints take a bearer token
    (https://docs.anthropic.com/en/api/openai-sdk, https://ai.google.dev/gemini-api/docs/openai).
    """
    return [
        ("authorization", f"Bearer {value}") if name in CREDENTIAL_HEADERS else (name, value)
        for name, value in headers
    ]


def limit_member(*, endpoint: str, surface: str) -> str:
    """What the limit on tokens is called there: OpenAI's newer models refuse the older name."""
    host = urlsplit(endpoint).hostname or ""
    is_openai = host == "api.openai.com" or host.endswith(".openai.azure.com")
    return "max_completion_tokens" if is_openai and surface == "chat" else "max_tokens"


def upstream_body(
    *,
    request: CompletionRequest,
    upstream_name: str,
    output_tokens_max: int | None,
    limit_name: str = "max_tokens",
) -> bytes:
    """The body for this upstream; the client's own bytes where nothing has to change.

    Args:
        request: the client's request.
        upstream_name: what this upstream calls the model.
        output_tokens_max: the limit to write per choice; None leaves the client's own.
        limit_name: the member to write it into where the client sent none.
    """
    changes: dict[str, Any] = {}
    if upstream_name != request.model:
        changes["model"] = upstream_name
    if request.is_stream and not request.wants_usage:
        options = request.document.get("stream_options") or {}
        changes["stream_options"] = {**options, "include_usage": True}
    if output_tokens_max is not None:
        names = [name for name in ("max_completion_tokens", "max_tokens") if request.document.get(name)]
        asked = {name: min(request.document[name], output_tokens_max) for name in names}
        changes.update(asked or {limit_name: output_tokens_max})
    if not changes:
        return request.body
    return orjson.dumps({**request.document, **changes})
