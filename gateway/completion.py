"""A completion request as the pipeline carries it: checked once, its words never looked at again."""

from collections.abc import Mapping
from typing import Any

from msgspec import Struct
from msgspec.structs import force_setattr

from routing.types import RequestProfile


class CompletionRequest(Struct, frozen=True, kw_only=True):
    """One decoded request. `document` is the body as sent; nobody changes it, and `let_go` empties both."""

    surface: str  # chat | completions | embeddings
    model: str
    is_stream: bool
    wants_usage: bool  # the client asked for the usage chunk itself
    body: bytes
    document: Mapping[str, Any]
    profile: RequestProfile
    wait_s_max: float | None = None  # how long it may wait for a place, where the client says
    session: str = ""  # what the caller calls the session it belongs to
    # Of another API: `body` is the portable form of the document (gateway.portable_chat).
    is_translated: bool = False

    def let_go(self) -> None:
        """Keep no word of it: its answer has begun, nothing is sent again, a stream may stay open long."""
        force_setattr(self, "body", b"")
        force_setattr(self, "document", {})
