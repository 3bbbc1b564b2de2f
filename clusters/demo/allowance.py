"""The rate limits that a stand-in for a provider tells in its headers, as OpenAI does."""

from dataclasses import dataclass

REQUESTS_PER_MIN = 10_000
TOKENS_PER_MIN = 2_000_000


@dataclass(slots=True, kw_only=True)
class Bucket:
    """Refills evenly to its limit within a minute."""

    limit: int
    used: float = 0.0
    used_at_s: float = 0.0

    def take(self, *, amount: int, now_s: float) -> None:
        refilled = (now_s - self.used_at_s) * self.limit / 60
        self.used = min(max(self.used - refilled, 0.0) + amount, self.limit)
        self.used_at_s = now_s

    def headers(self, noun: str) -> dict[str, str]:
        return {
            f"x-ratelimit-limit-{noun}": str(self.limit),
            f"x-ratelimit-remaining-{noun}": str(int(self.limit - self.used)),
            f"x-ratelimit-reset-{noun}": duration(self.used * 60 / self.limit),
        }


class Allowance:
    """Counts and tells, but never refuses: a refusal is asked for with the fault http_429."""

    def __init__(self) -> None:
        self._requests = Bucket(limit=REQUESTS_PER_MIN)
        self._tokens = Bucket(limit=TOKENS_PER_MIN)

    def take(self, *, tokens: int, now_s: float) -> dict[str, str]:
        """Count one request and return the headers of its answer."""
        self._requests.take(amount=1, now_s=now_s)
        self._tokens.take(amount=tokens, now_s=now_s)
        return {**self._requests.headers("requests"), **self._tokens.headers("tokens")}


def duration(seconds: float) -> str:
    """As Go and OpenAI write it: `120ms`, `1.5s`, `6m0s`."""
    if seconds < 1:
        return f"{round(seconds * 1000)}ms"
    if seconds < 60:
        return f"{round(seconds, 3):g}s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}m{rest}s"
