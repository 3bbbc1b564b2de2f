"""Sends an attempt with one of a provider's keys, and with the next where one is at its limit or refused."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace

from msgspec import Struct

from clusters.signing import Key
from gateway.errors import OverloadedError, UpstreamAuthError
from gateway.fleet import Target
from gateway.keyring import Keyring
from gateway.upstream import UpstreamFailure, UpstreamResponse, Upstreams


class Message(Struct, frozen=True, kw_only=True):
    """What is sent, whatever the key. `tokens` are those of the prompt, roughly."""

    path: str
    body: bytes
    request_id: str
    attempt_id: str
    tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Sender:
    """`clock` gives monotonic seconds, `wall_clock_s` seconds since the epoch."""

    upstreams: Upstreams
    clock: Callable[[], float]
    wall_clock_s: Callable[[], float]
    keyring: Keyring = field(default_factory=Keyring)

    async def send(self, target: Target, message: Message) -> tuple[UpstreamResponse, Key | None]:
        """The answer, and the key that it was asked with; both go back by `end`. Raises UpstreamFailure."""
        if not target.keys:
            return await self._send(target, message), None
        return await self._keyed(target, message)

    async def end(self, response: UpstreamResponse, key: Key | None) -> None:
        """The answer was read, or nobody reads on."""
        if key is not None:
            self.keyring.give_back(key)
        await response.aclose()

    async def _keyed(self, target: Target, message: Message) -> tuple[UpstreamResponse, Key]:
        """The first answer that is no fault of a key's; each key is tried once, the ring's order.

        A key that was at its limit or not accepted cost nothing, so the next one is no second attempt.
        """
        tried: set[str] = set()
        failure: UpstreamFailure | None = None
        while key := self.keyring.take(target.keys, tried=tried, tokens=message.tokens, now_s=self.clock()):
            tried.add(key.id)
            try:
                response = await self._send(replace(target, signer=key.signer), message)
            except BaseException as error:
                self.keyring.give_back(key)
                if not (isinstance(error, UpstreamFailure) and self._is_of_key(key, error)):
                    raise
                # A key that may be used again soon says more than one that is dead.
                if failure is None or isinstance(error.error, OverloadedError):
                    failure = error
            else:
                self.keyring.on_answer(
                    key, response.headers, now_s=self.clock(), wall_now_s=self.wall_clock_s()
                )
                return response, key
        if failure is None or (len(tried) > 1 and isinstance(failure.error, OverloadedError)):
            failure = self._all_out(target, tokens=message.tokens)
        raise failure

    def _is_of_key(self, key: Key, failed: UpstreamFailure) -> bool:
        """Whether another key may do better; what it tells of this one is noted."""
        if not failed.is_sent:
            return False
        if isinstance(failed.error, OverloadedError):
            self.keyring.on_limited(key, retry_after_s=failed.retry_after_s, now_s=self.clock())
        elif isinstance(failed.error, UpstreamAuthError):
            self.keyring.on_refused(key, now_s=self.clock())
        else:
            return False
        return True

    async def _send(self, target: Target, message: Message) -> UpstreamResponse:
        return await self.upstreams.send(
            target=target,
            path=message.path,
            body=message.body,
            request_id=message.request_id,
            attempt_id=message.attempt_id,
        )

    def _all_out(self, target: Target, *, tokens: int) -> UpstreamFailure:
        wait_s = max(self.keyring.wait_s(target.keys, tokens=tokens, now_s=self.clock()), 1.0)
        cluster = target.deployment.cluster
        error = OverloadedError(f"All keys of cluster {cluster} are at their limits.", retry_after_s=wait_s)
        return UpstreamFailure(error, is_sent=False, retry_after_s=wait_s)
