"""A provider's API keys in turn: the least loaded first, each within its limits and its own cool-down."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

import structlog

from clusters.signing import Key
from gateway import rate_headers
from routing.quota import FULL, Quota, has_room, limit_of, on_dispatch, on_refusal

logger = structlog.get_logger(__name__)

KEYS_MAX = 10_000
# A key that the provider does not know, or whose credit is spent, is looked at again after so long.
REFUSED_S = 300.0
LIMITED_S_MIN = 1.0


@dataclass(slots=True)
class _State:
    in_flight: int = 0
    taken_at_s: float = 0.0
    cooled_until_s: float = 0.0
    quota: Quota = field(default=FULL)


class Keyring:
    """The process's memory of keys. Times are monotonic seconds, `wall_now_s` is the wall clock's."""

    def __init__(self) -> None:
        self._states: dict[str, _State] = {}

    def take(self, keys: Sequence[Key], *, tried: Collection[str], tokens: int, now_s: float) -> Key | None:
        """The key for a request of so many tokens, counted as in flight; None where all are out.

        Of equally loaded keys the one that was not used for longest.
        """
        free = [
            key
            for key in keys
            if key.id not in tried and self._wait_s(key, tokens=tokens, now_s=now_s) == 0.0
        ]
        if not free:
            return None
        key = min(free, key=self._load)
        state = self._states.pop(key.id, None) or _State()
        if len(self._states) >= KEYS_MAX:
            # The one not taken for longest: its in-flight count is long over.
            self._states.pop(next(iter(self._states)))
        self._states[key.id] = state
        state.in_flight += 1
        state.taken_at_s = now_s
        state.quota = on_dispatch(
            state.quota,
            requests_per_min=limit_of(key.rpm_max),
            tokens_per_min=limit_of(key.tpm_max),
            tokens=tokens,
            now_s=now_s,
        )
        return key

    def give_back(self, key: Key) -> None:
        """The request is over."""
        if state := self._states.get(key.id):
            state.in_flight = max(state.in_flight - 1, 0)

    def on_limited(self, key: Key, *, retry_after_s: float, now_s: float) -> None:
        """A 429: this key waits, the others go on."""
        state = self._states.setdefault(key.id, _State())
        wait_s = max(retry_after_s, LIMITED_S_MIN)
        state.cooled_until_s = max(state.cooled_until_s, now_s + wait_s)
        state.quota = on_refusal(state.quota, **_limits(key), now_s=now_s)
        logger.info("provider_key_limited", key=key.label, wait_s=round(wait_s, 1))

    def on_refused(self, key: Key, *, now_s: float) -> None:
        """A 401, 402 or 403: the key is dead until somebody does something about it."""
        state = self._states.setdefault(key.id, _State())
        state.cooled_until_s = now_s + REFUSED_S
        logger.warning("provider_key_refused", key=key.label, wait_s=REFUSED_S)

    def on_answer(self, key: Key, headers: Mapping[str, str], *, now_s: float, wall_now_s: float) -> None:
        """An answer may say that it was the last one for a while."""
        wait_s = rate_headers.exhausted_s(headers, now_s=wall_now_s)
        if wait_s and (state := self._states.get(key.id)):
            state.cooled_until_s = max(state.cooled_until_s, now_s + wait_s)

    def wait_s(self, keys: Sequence[Key], *, tokens: int, now_s: float) -> float:
        """Seconds until the first of the keys may be used again; 0: one may be used now."""
        return min((self._wait_s(key, tokens=tokens, now_s=now_s) for key in keys), default=0.0)

    def _wait_s(self, key: Key, *, tokens: int, now_s: float) -> float:
        state = self._states.get(key.id)
        if state is None:
            return 0.0
        if state.cooled_until_s > now_s:
            return state.cooled_until_s - now_s
        # More than the limit itself is sent all the same, alone: the provider judges it.
        tokens_max = limit_of(key.tpm_max)
        fits = has_room(state.quota, **_limits(key), tokens=min(tokens, tokens_max), now_s=now_s)
        return 0.0 if fits else LIMITED_S_MIN

    def _load(self, key: Key) -> tuple[int, float]:
        state = self._states.get(key.id)
        return (state.in_flight, state.taken_at_s) if state else (0, 0.0)


def _limits(key: Key) -> dict[str, float]:
    return {"requests_per_min": limit_of(key.rpm_max), "tokens_per_min": limit_of(key.tpm_max)}
