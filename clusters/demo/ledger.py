"""A stand-in's own account of what it was asked and what it gave, to hold against the gateway's."""

import os
from collections import deque
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson

RECORDS_MAX = 100_000


class StandinLedger:
    """Appends JSON lines to `path`, if there is one, and keeps the latest in memory.

    Each attempt has two lines: a received line, written before anything is answered, and one when
    it has ended. One write of O_APPEND a line: several processes may share the file.
    """

    def __init__(self, *, path: Path | None) -> None:
        self.received: deque[dict[str, Any]] = deque(maxlen=RECORDS_MAX)
        self.records: deque[dict[str, Any]] = deque(maxlen=RECORDS_MAX)
        self._path = path

    def receive(self, *, path: str, headers: dict[str, str]) -> "Entry":
        entry = Entry(
            ledger=self,
            path=path,
            request_id=headers.get("x-request-id"),
            attempt_id=headers.get("x-gateway-attempt-id"),
        )
        line = {"event": "received", **entry.identity()}
        self.received.append(line)
        self._append(line)
        return entry

    def end(self, line: dict[str, Any]) -> None:
        self.records.append(line)
        self._append(line)

    def _append(self, line: dict[str, Any]) -> None:
        if self._path is None:
            return
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT
        descriptor = os.open(self._path, flags, 0o644)
        try:
            os.write(descriptor, orjson.dumps(line) + b"\n")
        finally:
            os.close(descriptor)


@dataclass(slots=True, kw_only=True)
class Entry:
    """One attempt on its way to its line."""

    ledger: StandinLedger
    path: str
    request_id: str | None
    attempt_id: str | None
    model: str | None = None
    is_stream: bool = False
    prompt_tokens: int = 0
    completion_tokens: int = 0
    outcome: str = "cancelled"
    is_closed: bool = field(default=False, init=False)

    def identity(self) -> dict[str, Any]:
        return {
            "at": datetime.now(UTC).isoformat(),  # noqa: TID251 -- a server of its own: an edge
            "request_id": self.request_id,
            "attempt_id": self.attempt_id,
            "path": self.path,
        }

    def close(self) -> None:
        """Write the line; only the first call does."""
        if self.is_closed:
            return
        self.is_closed = True
        self.ledger.end(
            {
                **self.identity(),
                "model": self.model,
                "prompt_tokens": self.prompt_tokens,
                "completion_tokens": self.completion_tokens,
                "outcome": self.outcome,
                "stream": self.is_stream,
            }
        )
