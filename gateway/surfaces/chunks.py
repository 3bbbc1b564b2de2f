"""Takes a chat completion's event stream apart, however its bytes were cut."""

from dataclasses import dataclass
from typing import Any

import orjson

DONE = "done"
KEEP_ALIVE = "keep_alive"
CHUNK = "chunk"
ERROR = "error"


@dataclass(frozen=True, slots=True)
class Frame:
    """One frame: its kind, and the JSON object of a chunk or of an error."""

    kind: str
    document: dict[str, Any]


class ChunkReader:
    """Frames of our own relay: whole JSON objects, comments, an error or `[DONE]` as the last."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> list[Frame]:
        """The frames that are whole now; the rest waits for more."""
        whole, joint, rest = (self._rest + data).rpartition(b"\n\n")
        self._rest = rest
        frames = (_frame(part) for part in whole.split(b"\n\n")) if joint else ()
        return [frame for frame in frames if frame is not None]


def _frame(part: bytes) -> Frame | None:
    lines = part.strip(b"\n").split(b"\n")
    data = b"\n".join(line[5:].removeprefix(b" ") for line in lines if line.startswith(b"data:"))
    if not data:
        return Frame(KEEP_ALIVE, {}) if part.strip(b"\n") else None
    if data.startswith(b"[DONE]"):
        return Frame(DONE, {})
    document: dict[str, Any] = orjson.loads(data)
    if isinstance(document.get("error"), dict):
        return Frame(ERROR, document["error"])
    return Frame(CHUNK, document)
