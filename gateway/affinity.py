"""This process's memory of who served which session and prompt, for routing's tie-break."""

from collections.abc import Iterable, Mapping
from typing import Any

from gateway.arms import SESSION_CHARACTERS_MAX, SESSION_HEADER
from gateway.completion import CompletionRequest
from routing.affinity import BLOCK_BYTES, BLOCKS_MAX, Prefixes, prefix_hashes
from routing.stickiness import Sessions
from routing.types import Affinity, RoutePlan

# Members of a body that say whose it is, the one that is meant for caches first.
SESSION_MEMBERS = ("prompt_cache_key", "safety_identifier", "user")
# Where the prompt begins in a body; what stands before it differs from request to request.
PROMPT_MEMBERS = {"chat": b'"messages"', "completions": b'"prompt"'}


def session_name(headers: Iterable[tuple[bytes, bytes]], document: Mapping[str, Any]) -> str:
    """What the caller calls its session, empty where it does not; a name that is too long is none."""
    for name, value in headers:
        if name == SESSION_HEADER and 0 < len(value) <= SESSION_CHARACTERS_MAX:
            return value.decode("latin-1")
    for member in SESSION_MEMBERS:
        given = document.get(member)
        if isinstance(given, str) and 0 < len(given) <= SESSION_CHARACTERS_MAX:
            return given
    return ""


class AffinityMemory:
    """Sessions for the stickiness window, prefixes for as long as caches hold them; both bounded."""

    def __init__(self) -> None:
        self._sessions = Sessions()
        self._prefixes = Prefixes()

    def of_request(
        self, request: CompletionRequest, *, key_id: str, plan: RoutePlan, window_s: float, now_s: float
    ) -> Affinity | None:
        """None where it cannot matter: nothing to choose between, nothing to go by, or a window of 0."""
        if not window_s or not plan.has_like_clusters:
            return None
        hashes: tuple[int, ...] = ()
        member = PROMPT_MEMBERS.get(request.surface)
        if member is not None and len(request.body) > BLOCK_BYTES:
            start = max(request.body.find(member), 0)
            hashes = prefix_hashes(request.body[start : start + BLOCK_BYTES * BLOCKS_MAX])
        session = (key_id, request.session) if request.session else None
        if session is None and not hashes:
            return None
        served_by = self._prefixes.holders(hashes, now_s=now_s)
        if session is not None:
            latest = self._sessions.served_by(session, now_s=now_s, window_s=window_s)
            if latest is not None:
                served_by = (latest, *(one for one in served_by if one != latest))
        return Affinity(served_by=served_by, prefix_hashes=hashes, session=session)

    def on_dispatch(self, affinity: Affinity, *, deployment_id: str, now_s: float) -> None:
        """At once, not at the end: what comes meanwhile finds the prefix there."""
        if affinity.session is not None:
            self._sessions.note(affinity.session, deployment_id=deployment_id, now_s=now_s)
        if affinity.prefix_hashes:
            self._prefixes.note(affinity.prefix_hashes, deployment_id=deployment_id, now_s=now_s)
