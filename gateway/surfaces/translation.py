"""A request of another API as the chat completion that asks for the same, and how its answer is put back."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Protocol

Headers = tuple[tuple[str, str], ...]


class StreamTranslator(Protocol):
    """One stream's state: OpenAI's events go in as bytes, the other API's come out."""

    def feed(self, data: bytes) -> bytes: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Circumstances:
    """What an answer is told besides its content. `prompt_tokens_estimate` serves where no usage is told."""

    request_id: str
    model: str
    prompt_tokens_estimate: int

    @property
    def token(self) -> str:
        """What the ids in the answer are made of: a repeat of the answer has the same."""
        return self.request_id.removeprefix("req_")


@dataclass(frozen=True, slots=True, kw_only=True)
class Translation:
    """`document` is the chat completion; `answer` makes the plain body of its answer, `stream` its events.

    Embeddings are another `surface` of OpenAI's, and are not streamed.
    """

    document: Mapping[str, Any]
    answer: Callable[[bytes, Circumstances], bytes]
    stream: Callable[[Circumstances], StreamTranslator] | None = None
    surface: str = "chat"


def no_headers(_headers: Headers, _request_id: str, _now: datetime) -> Headers:
    """An answer has those of a chat."""
    return ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Surface:
    """An API, and the reader of its requests, which raises InvalidRequestError."""

    translate: Callable[[Mapping[str, Any]], Translation]
    # From the answer's headers, its request's id and the moment to those that this API has besides.
    more_headers: Callable[[Headers, str, datetime], Headers] = no_headers
    # Members that a request has to have and one to count tokens has not.
    count_defaults: Mapping[str, Any] = field(default_factory=dict)
