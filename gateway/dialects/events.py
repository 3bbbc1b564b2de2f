"""Reads a maker's event stream piece by piece, and writes OpenAI's chunks."""

from collections.abc import Iterator
from typing import Any

import orjson

from gateway.errors import UpstreamInvalidError

DONE = b"data: [DONE]\n\n"


class EventReader:
    """Splits bytes into events' JSON objects, whatever pieces they come in."""

    def __init__(self, *, line_bytes_max: int) -> None:
        self._line_bytes_max = line_bytes_max
        self._rest = b""

    def feed(self, chunk: bytes) -> Iterator[dict[str, Any]]:
        """The objects that are whole now; a carriage return at the end waits for its line feed."""
        data = self._rest + chunk
        if b"\r" in data:
            data = data.replace(b"\r\n", b"\n")
        end = data.rfind(b"\n\n") + 2
        if end < 2:
            end = 0
        self._rest = data[end:]
        if len(self._rest) > self._line_bytes_max:
            raise UpstreamInvalidError(f"The upstream sent a line longer than {self._line_bytes_max} bytes.")
        return _events(data[:end])

    def finish(self) -> Iterator[dict[str, Any]]:
        """A last event that came without its blank line."""
        rest, self._rest = self._rest, b""
        return _events(rest)


def _events(data: bytes) -> Iterator[dict[str, Any]]:
    for frame in data.split(b"\n\n"):
        lines = [line[5:] for line in frame.split(b"\n") if line.startswith(b"data:")]
        if lines:
            yield decoded(b"\n".join(lines))


def decoded(payload: bytes) -> dict[str, Any]:
    """A JSON object; raises UpstreamInvalidError for anything else."""
    try:
        event = orjson.loads(payload)
    except orjson.JSONDecodeError as error:
        raise UpstreamInvalidError("The upstream sent something that is not JSON.") from error
    if not isinstance(event, dict):
        raise UpstreamInvalidError("The upstream sent something that is not an object.")
    return event


class ChunkWriter:
    """Writes one stream's chunks: they share id, created and model, and each choice begins with its role."""

    def __init__(self, *, created_s: int, model: str) -> None:
        self.id = ""
        self.model = model
        self._created_s = created_s
        self._begun: set[int] = set()

    def delta(self, delta: dict[str, Any], *, index: int = 0, finish_reason: str | None = None) -> bytes:
        """A chunk with one choice."""
        if index not in self._begun:
            self._begun.add(index)
            delta = {"role": "assistant", **delta}
        choice = {"index": index, "delta": delta, "logprobs": None, "finish_reason": finish_reason}
        return self._frame({"choices": [choice]})

    def usage(self, usage: dict[str, Any], **members: object) -> bytes:
        """The last chunk, which has no choice; `members` stand beside its usage."""
        return self._frame({"choices": [], "usage": usage, **members})

    def error(self, *, message: str, code: str) -> bytes:
        """What ends a stream that failed underway."""
        return b"data: " + orjson.dumps({"error": {"message": message, "code": code}}) + b"\n\n"

    def _frame(self, members: dict[str, Any]) -> bytes:
        head = {
            "id": self.id,
            "object": "chat.completion.chunk",
            "created": self._created_s,
            "model": self.model,
        }
        return b"data: " + orjson.dumps({**head, **members}) + b"\n\n"
