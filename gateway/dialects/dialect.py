"""The seam between OpenAI's dialect, which the gateway speaks, and that of a maker: one protocol, pure.

One request passes it so: `path` and `body` make what is sent (or raise UnsupportedError, before anything is
sent), `headers` completes the signer's, then `answer` turns a plain answer or `translator` a stream into
OpenAI's bytes, and `error_parts` reads a refusal.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol
from uuid import UUID

import orjson
from msgspec import Struct

from gateway.completion import CompletionRequest
from gateway.errors import UnsupportedError

ERROR_TEXT_CHARACTERS_MAX = 500


class Call(Struct, frozen=True, kw_only=True):
    """A request on its way to one deployment. Token counts are of one choice."""

    request: CompletionRequest
    endpoint: str
    upstream_name: str
    # What must be written into the request; None leaves the client's own limit, or none.
    output_tokens_max: int | None
    # The most that one choice may have, for makers that want a limit in each request.
    output_tokens_bound: int
    attempt_id: UUID
    created_at: datetime

    @property
    def answer_id(self) -> str:
        """Of answers whose maker gives them none."""
        return f"chatcmpl-{self.attempt_id.hex}"

    @property
    def created_s(self) -> int:
        """Since the epoch; OpenAI's answers carry it, others' do not."""
        return int(self.created_at.timestamp())

    @property
    def document(self) -> Mapping[str, Any]:
        return self.request.document

    @property
    def is_output_limited(self) -> bool:
        """Whether anybody set a limit: the client, the deployment or a budget."""
        asked = self.request.profile.output_tokens_max
        return self.output_tokens_max is not None or asked is not None


@dataclass(frozen=True, slots=True, kw_only=True)
class ErrorParts:
    """What an upstream's refusal says, in OpenAI's members; `is_credential`: it is our key's fault.

    `retry_after_s` is what it asks to wait in its body; 0: nothing.
    """

    message: str = ""
    param: str | None = None
    code: str | None = None
    is_credential: bool = False
    retry_after_s: float = 0.0


EVENT_STREAM = "text/event-stream"


class Translator(Protocol):
    """One stream on its way back: the maker's bytes go in, OpenAI's event stream comes out."""

    def feed(self, chunk: bytes) -> bytes:
        """What may be sent on now. Raises UpstreamInvalidError where the stream is none of the maker's."""

    def finish(self) -> bytes:
        """The upstream closed; what is left, and `[DONE]` if the answer was complete."""


class Dialect(Protocol):
    """How one maker is spoken to. Stateless; raises UnsupportedError where a request has no translation."""

    @property
    def is_openai(self) -> bool:
        """Whether answers pass as they are: neither `answer` nor `translator` is asked then."""

    @property
    def stream_type(self) -> str:
        """The content type of its streams."""

    def path(self, call: Call) -> str: ...
    def body(self, call: Call) -> bytes: ...
    def headers(self, signed: list[tuple[str, str]]) -> list[tuple[str, str]]: ...
    def answer(self, body: bytes, call: Call) -> bytes: ...
    def translator(self, call: Call, *, line_bytes_max: int) -> Translator: ...
    def error_parts(self, body: bytes) -> ErrorParts: ...


def unsupported(
    param: str, *, maker: str, hint: str = "leave it out, or use another model"
) -> UnsupportedError:
    """The refusal of a member that has no translation; nothing is sent then."""
    return UnsupportedError(f"`{param}` cannot be translated for {maker}: {hint}.", param=param)


def error_document(body: bytes) -> dict[str, Any]:
    """An error's JSON object, empty where there is none."""
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError:
        return {}
    return document if isinstance(document, dict) else {}


def error_object(body: bytes) -> dict[str, Any]:
    """The member `error` of an error's object, empty where that is none."""
    error = error_document(body).get("error")
    return error if isinstance(error, dict) else {}


def text_of(value: object) -> str:
    """A text cut to the size that callers are shown; empty for anything else."""
    return value[:ERROR_TEXT_CHARACTERS_MAX] if isinstance(value, str) else ""
