"""What the middlewares share: who is asked, what passes unasked, how long a body may be."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from clusters.verifying.signatures import (
    BODY_BYTES_MAX,
    Verifier,
    open_paths_of_environment,
    verifier_of_environment,
)


class Input(Protocol):
    """Where a server puts a request's body."""

    def read(self, size: int, /) -> bytes: ...


class Gate:
    """The settings that the middlewares share."""

    def __init__(
        self,
        *,
        verifier: Verifier | None = None,
        open_paths: Sequence[str] | None = None,
        body_bytes_max: int = BODY_BYTES_MAX,
    ) -> None:
        """Without `verifier` and `open_paths` the environment says them, for servers that pass no options."""
        self._verifier = verifier or verifier_of_environment()
        self._open_paths = open_paths_of_environment() if open_paths is None else tuple(open_paths)
        self._body_bytes_max = body_bytes_max

    def _is_open(self, request: Mapping[str, Any]) -> bool:
        return request["method"] == "GET" and request["path"] in self._open_paths


def read_body(source: Input, *, length: str, is_encoded: bool, bytes_max: int) -> bytes | None:
    """The body by its Content-Length; None where it is too long, broke off, or does not say its length."""
    if is_encoded or not length.isdecimal() or int(length) > bytes_max:
        return None
    body = source.read(int(length))
    return body if len(body) == int(length) else None
