"""Which deployment served a session last, remembered for the stickiness window and no longer."""

SESSIONS_MAX = 20_000


class Sessions:
    """The process's memory of sessions; bounded, the one not seen for longest goes first."""

    def __init__(self, *, sessions_max: int = SESSIONS_MAX) -> None:
        self._sessions_max = sessions_max
        self._served: dict[tuple[str, str], tuple[float, str]] = {}

    def note(self, session: tuple[str, str], *, deployment_id: str, now_s: float) -> None:
        """`session` is the API key's id and the session's own name: keys never share one."""
        self._served.pop(session, None)
        self._served[session] = (now_s, deployment_id)
        if len(self._served) > self._sessions_max:
            del self._served[next(iter(self._served))]

    def served_by(self, session: tuple[str, str], *, now_s: float, window_s: float) -> str | None:
        """The deployment that was sent the session's latest request, if that is within the window."""
        found = self._served.get(session)
        return None if found is None or now_s - found[0] >= window_s else found[1]
