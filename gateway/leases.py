"""Limits that hold over all processes: slices of each limit, leased from Valkey or Redis.

1. The store counts what it gave out, by the second of its own clock, in one script for all of a request's
   limits: it gives a slice only while what the last minute holds leaves room for it. So the sum over all
   processes never passes a limit, whoever asks.
2. A process takes from its slice without a word to the store; where the slice is used up, the request
   waits for one lease (WAIT_MAX_S at most). A slice is good for SLICE_S, by which the store's minute is
   longer; what is left of it then goes back. So a process keeps a slice at most from the others, briefly.
3. Places among requests at once are leased too, under a lease that a process renews while it lives: those
   of a dead process are free after PLACES_KEPT_S. Unused ones go back with the next beat.
4. Where the store cannot be asked, each process counts alone and takes its share: the limit divided by
   the number of processes last known. It counted its own minute all along and tells the store then.
"""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import structlog
from redis.asyncio import Redis
from redis.exceptions import RedisError

from gateway import metrics
from gateway.ratelimit import CONCURRENT, MINUTE_S, PLACE_WAIT_S, Allowance, Demand, LocalLimiter, Taken

logger = structlog.get_logger(__name__)

PREFIX = "tollgate:limit"
SLICE_S = 1.0
# The store's minute: what was leased in its first second may be used a slice's life later.
STORE_MINUTE_S = MINUTE_S + 2
# A slice is at most this part of the limit, and what the process used of late.
SLICE_PART = 16
WAIT_MAX_S = 0.1
BEAT_S = 0.05
RENEW_S = 1.0
PLACES_KEPT_S = 5.0
RETRY_S = 0.5

# KEYS: one per demand. ARGV: process, seconds of the store's minute, milliseconds that places are kept, then
# kind, limit, need and want of each. Gives for each: granted, room left, milliseconds to wait, to full.
LEASE = """
local now = redis.call('TIME')
local ms = now[1] * 1000 + math.floor(now[2] / 1000)
local second = tonumber(now[1])
local rooms, waits, resets, is_refused = {}, {}, {}, false
for i, key in ipairs(KEYS) do
  local at = 3 + (i - 1) * 4
  local kind, limit, need = ARGV[at + 1], tonumber(ARGV[at + 2]), tonumber(ARGV[at + 3])
  local fields = redis.call('HGETALL', key)
  local sum, wait, reset = 0, 0, 0
  if kind == 'concurrent' then
    for f = 1, #fields, 2 do
      local count, till = string.match(fields[f + 1], '(%d+):(%d+)')
      if tonumber(till) < ms then redis.call('HDEL', key, fields[f]) else sum = sum + tonumber(count) end
    end
  else
    local kept = {}
    for f = 1, #fields, 2 do
      local age = second - tonumber(fields[f])
      if age >= tonumber(ARGV[2]) then redis.call('HDEL', key, fields[f])
      else
        sum = sum + tonumber(fields[f + 1])
        kept[#kept + 1] = {tonumber(fields[f]), tonumber(fields[f + 1])}
      end
    end
    table.sort(kept, function(a, b) return a[1] < b[1] end)
    local surplus = sum + math.min(need, limit) - limit
    for _, one in ipairs(kept) do
      reset = (one[1] + tonumber(ARGV[2])) * 1000 - ms
      if surplus > 0 then wait = reset; surplus = surplus - one[2] end
    end
  end
  rooms[i], waits[i], resets[i] = limit - sum, wait, reset
  if rooms[i] < need then is_refused = true end
end
local answer = {}
for i, key in ipairs(KEYS) do
  local at = 3 + (i - 1) * 4
  local granted = 0
  if not is_refused then
    granted = math.min(tonumber(ARGV[at + 4]), rooms[i])
    if ARGV[at + 1] == 'concurrent' then
      local own = redis.call('HGET', key, ARGV[1])
      local count = own and tonumber(string.match(own, '(%d+):')) or 0
      redis.call('HSET', key, ARGV[1], (count + granted) .. ':' .. (ms + ARGV[3]))
      redis.call('PEXPIRE', key, ARGV[3] * 2)
    elseif granted > 0 then
      redis.call('HINCRBY', key, second, granted)
      redis.call('EXPIRE', key, ARGV[2] + 1)
      resets[i] = ARGV[2] * 1000
    end
  end
  answer[#answer + 1] = {granted, rooms[i] - granted, waits[i], resets[i]}
end
answer[#answer + 1] = {second}
return answer
"""
# KEYS: counts. ARGV: the store's minute, then second (0: now) and amount of each; nothing goes below zero.
COUNT = """
local now = redis.call('TIME')
for i, key in ipairs(KEYS) do
  local second = ARGV[i * 2] == '0' and now[1] or ARGV[i * 2]
  local count = redis.call('HINCRBY', key, second, ARGV[i * 2 + 1])
  if count <= 0 then redis.call('HDEL', key, second) end
  redis.call('EXPIRE', key, ARGV[1] + 1)
end
"""
# KEYS: the processes' register, then places. ARGV: process, milliseconds kept, then of each how many go back,
# and how many stay, which counts only where the store forgot them.
RENEW = """
local now = redis.call('TIME')
local ms = now[1] * 1000 + math.floor(now[2] / 1000)
redis.call('ZADD', KEYS[1], ms + ARGV[2], ARGV[1])
redis.call('ZREMRANGEBYSCORE', KEYS[1], 0, ms)
for i = 2, #KEYS do
  local own = redis.call('HGET', KEYS[i], ARGV[1])
  local count = tonumber(ARGV[i * 2])
  if own then count = tonumber(string.match(own, '(%d+):')) - tonumber(ARGV[i * 2 - 1]) end
  if count <= 0 then redis.call('HDEL', KEYS[i], ARGV[1])
  else
    redis.call('HSET', KEYS[i], ARGV[1], count .. ':' .. (ms + ARGV[2]))
    redis.call('PEXPIRE', KEYS[i], ARGV[2] * 2)
  end
end
return redis.call('ZCARD', KEYS[1])
"""


@dataclass(slots=True)
class _Slice:
    """What this process may still take of a limit. `room` is what the store had left besides."""

    left: int = 0
    room: int = 0
    second: int = 0
    ends_s: float = 0.0
    reset_at_s: float = 0.0
    used: int = 0  # since it was leased


@dataclass(slots=True)
class _Counters:
    slices: dict[tuple[str, str], _Slice] = field(default_factory=dict)
    # Places leased, by scope; those in use are counted by the local limiter.
    places: dict[str, int] = field(default_factory=dict)
    # What the store is to be told with the next beat: kind, scope and second to an amount.
    untold: dict[tuple[str, str, int], int] = field(default_factory=dict)
    changed_places: set[str] = field(default_factory=set)


class LeasedLimiter:
    """One per process. `run` beats until it is cancelled; before its first answer limits count here alone."""

    def __init__(self, *, redis: Redis, process: str, clock: Callable[[], float]) -> None:
        self._redis = redis
        self._process = process
        self._clock = clock
        self._lease = redis.register_script(LEASE)
        self._count = redis.register_script(COUNT)
        self._renew = redis.register_script(RENEW)
        self._counters = _Counters()
        self._leasing = asyncio.Lock()
        # What the requests that wait for a lease ask for together, by kind and scope.
        self._waited_for: dict[tuple[str, str], int] = {}
        self.local = LocalLimiter(clock=clock)
        self.is_local = True

    async def take(self, demands: Sequence[Demand]) -> Taken:
        """Take all of them, or nothing where one does not fit."""
        if self.is_local:
            return self.local.take_now(demands)
        if not self._missing(demands):
            return self._take(demands)
        self._wait_for(demands, 1)
        try:
            async with asyncio.timeout(WAIT_MAX_S):
                # One lease at a time, for all that wait: those behind find their slices there.
                async with self._leasing:
                    while missing := self._missing(demands):
                        refused = await self._lease_slices(missing)
                        if refused is not None:
                            return refused
                    return self._take(demands)
        except (RedisError, OSError, TimeoutError) as error:
            self._go_local(error)
            return self.local.take_now(demands)
        finally:
            self._wait_for(demands, -1)

    def correct(self, demand: Demand, *, amount: int) -> None:
        """More (or, negative, less) was used than was taken: the store hears of it with the next beat."""
        self.local.correct(demand, amount=amount)
        if not self.is_local:
            self._note(demand.kind, demand.scope, 0, amount)

    def leave(self, demand: Demand) -> None:
        self.local.leave(demand)
        self._counters.changed_places.add(demand.scope)

    async def run(self) -> None:
        """Renew, give back and tell, for ever; a store that does not answer is asked again."""
        renewed_at_s = -RENEW_S
        while True:
            try:
                async with asyncio.timeout(RETRY_S):
                    if self._clock() - renewed_at_s >= RENEW_S:
                        renewed_at_s = self._clock()
                        await self._renew_places(everything=True)
                        await self._come_back()
                    await self._beat()
            except (RedisError, OSError, TimeoutError) as error:
                self._go_local(error)
                await asyncio.sleep(RETRY_S)
                renewed_at_s = -RENEW_S
            await asyncio.sleep(BEAT_S)

    async def aclose(self) -> None:
        await self._redis.aclose()

    # --- Taking

    def _missing(self, demands: Sequence[Demand]) -> list[Demand]:
        return [demand for demand in demands if not self._has(demand)]

    def _wait_for(self, demands: Sequence[Demand], sign: int) -> None:
        for demand in demands:
            place = (demand.kind, demand.scope)
            waited_for = self._waited_for.pop(place, 0) + sign * demand.amount
            if waited_for:
                self._waited_for[place] = waited_for

    def _has(self, demand: Demand) -> bool:
        if demand.kind == CONCURRENT:
            used = self.local.used(kind=CONCURRENT, scope=demand.scope)
            return self._counters.places.get(demand.scope, 0) - used >= demand.amount
        found = self._counters.slices.get((demand.kind, demand.scope))
        return found is not None and found.left >= demand.amount and self._clock() < found.ends_s

    def _take(self, demands: Sequence[Demand]) -> Taken:
        now_s = self._clock()
        allowances = []
        for demand in demands:
            remaining, reset_s = 0, PLACE_WAIT_S
            if demand.kind == CONCURRENT:
                remaining = self._counters.places[demand.scope] - demand.amount
            else:
                found = self._counters.slices[demand.kind, demand.scope]
                found.left -= demand.amount
                found.used += demand.amount
                remaining, reset_s = found.left + found.room, max(found.reset_at_s - now_s, 0.0)
            allowances.append(Allowance(demand=demand, remaining=max(remaining, 0), reset_s=reset_s))
        self.local.note(demands)
        return Taken(allowances=tuple(allowances))

    async def _lease_slices(self, missing: Sequence[Demand]) -> Taken | None:
        """Lease a slice for each; what refuses, or None: they are there."""
        self._give_back_old(missing)
        wants = [self._want(demand) for demand in missing]
        arguments: list[Any] = [self._process, STORE_MINUTE_S, int(PLACES_KEPT_S * 1000)]
        for demand, want in zip(missing, wants, strict=True):
            arguments += [demand.kind, demand.limit, demand.amount, want]
        keys = [_key(demand.kind, demand.scope) for demand in missing]
        *answers, (second,) = await self._lease(keys=keys, args=arguments)
        # Of slices that others leased while this one waited.
        self._give_back_old(missing)
        now_s = self._clock()
        if any(room + granted < d.amount for d, (granted, room, *_) in zip(missing, answers, strict=True)):
            return Taken(
                allowances=tuple(
                    _refusal(demand, answer) for demand, answer in zip(missing, answers, strict=True)
                )
            )
        for demand, (granted, room, _, reset_ms) in zip(missing, answers, strict=True):
            if demand.kind == CONCURRENT:
                self._counters.places[demand.scope] = self._counters.places.get(demand.scope, 0) + granted
                continue
            self._counters.slices[demand.kind, demand.scope] = _Slice(
                left=granted,
                room=room,
                second=second,
                ends_s=now_s + SLICE_S,
                reset_at_s=now_s + reset_ms / 1000,
            )
        return None

    def _want(self, demand: Demand) -> int:
        """What all that wait need; of what goes by the minute twice the latest slice, as it did not last."""
        waited_for = self._waited_for.get((demand.kind, demand.scope), 0)
        if demand.kind == CONCURRENT:
            return max(demand.amount, waited_for)
        latest = self._counters.slices.get((demand.kind, demand.scope))
        if latest is not None:
            is_used_up = self._clock() < latest.ends_s
            waited_for = max(waited_for, latest.used * 2 if is_used_up else latest.used)
        return max(demand.amount, min(waited_for, demand.limit // SLICE_PART))

    def _give_back_old(self, demands: Sequence[Demand]) -> None:
        """What is left of slices that are replaced now."""
        for demand in demands:
            found = self._counters.slices.get((demand.kind, demand.scope))
            if found is not None and found.left:
                self._note(demand.kind, demand.scope, found.second, -found.left)
                found.left = 0

    # --- Telling the store

    def _note(self, kind: str, scope: str, second: int, amount: int) -> None:
        place = (kind, scope, second)
        self._counters.untold[place] = self._counters.untold.get(place, 0) + amount

    async def _beat(self) -> None:
        now_s = self._clock()
        for (kind, scope), found in list(self._counters.slices.items()):
            if now_s < found.ends_s:
                continue
            if found.left:
                self._note(kind, scope, found.second, -found.left)
                found.left = 0
            if now_s >= found.ends_s + MINUTE_S:
                del self._counters.slices[kind, scope]
        untold, self._counters.untold = self._counters.untold, {}
        if untold:
            keys = [_key(kind, scope) for kind, scope, _ in untold]
            amounts = [part for (_, _, second), amount in untold.items() for part in (second, amount)]
            await self._count(keys=keys, args=[STORE_MINUTE_S, *amounts])
        if self._counters.changed_places:
            await self._renew_places(everything=False)

    async def _renew_places(self, *, everything: bool) -> None:
        """Keep the places in use, give the others back, and be known to live."""
        changed, self._counters.changed_places = self._counters.changed_places, set()
        scopes = list(self._counters.places) if everything else [*changed & set(self._counters.places)]
        arguments: list[Any] = [self._process, int(PLACES_KEPT_S * 1000)]
        # By how many they change, not how many they are: a lease may be on its way at the same time.
        for scope in scopes:
            used = self.local.used(kind=CONCURRENT, scope=scope)
            arguments += [self._counters.places[scope] - used, used]
            if used:
                self._counters.places[scope] = used
            else:
                del self._counters.places[scope]
        keys = [f"{PREFIX}:processes", *(_key(CONCURRENT, scope) for scope in scopes)]
        self.local.share = max(int(await self._renew(keys=keys, args=arguments)), 1)

    # --- Away and back

    def _go_local(self, error: BaseException) -> None:
        if not self.is_local:
            logger.warning("ratelimit_is_local", reason=repr(error), processes=self.local.share)
        self.is_local = True
        metrics.RATELIMIT_LOCAL.set(1)

    async def _come_back(self) -> None:
        """The store answers again: it hears what this process used meanwhile, then it counts."""
        if not self.is_local:
            return
        self._counters = _Counters()
        keys, amounts = [], []
        for kind, scope in self.local.scopes():
            used = self.local.used(kind=kind, scope=scope)
            if kind == CONCURRENT:
                self._counters.places[scope] = used
            else:
                keys.append(_key(kind, scope))
                amounts += [0, used]
        if keys:
            await self._count(keys=keys, args=[STORE_MINUTE_S, *amounts])
        await self._renew_places(everything=True)
        self.is_local = False
        metrics.RATELIMIT_LOCAL.set(0)
        logger.info("ratelimit_is_shared", processes=self.local.share)


def _key(kind: str, scope: str) -> str:
    return f"{PREFIX}:{kind}:{scope}"


def _refusal(demand: Demand, answer: Sequence[int]) -> Allowance:
    granted, room, wait_ms, reset_ms = answer
    is_refused = room + granted < demand.amount
    wait_s = PLACE_WAIT_S if demand.kind == CONCURRENT else wait_ms / 1000
    return Allowance(
        demand=demand,
        remaining=max(room, 0),
        reset_s=reset_ms / 1000,
        is_refused=is_refused,
        retry_after_s=wait_s if is_refused else 0.0,
    )
