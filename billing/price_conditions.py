"""When a price holds: from a prompt's size on, for a service tier, between two times of the day in UTC."""

import re
from dataclasses import dataclass
from datetime import datetime, timedelta

from routing.cost import STANDARD_SERVICE_TIERS

MINUTES_PER_DAY = 1440
SERVICE_TIER_NAME = re.compile(r"[a-z0-9][a-z0-9_.-]{0,15}")
# As large as the column holds.
CONTEXT_TOKENS_MAX = 2**31 - 1
TIME_OF_DAY = re.compile(r"([0-9]{2}):([0-9]{2})")


class PriceConditionError(ValueError):
    """A condition that cannot be; the message says why and what to write."""


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class PriceCondition:
    """What has to be so for a price to hold. Prices under the same condition follow each other in time.

    Minutes are of the day in UTC, `daily_to_minute` not included; a window with from > to passes midnight,
    and one with from = to never holds: it ends the price before it. All day is 0 to 1440, so that a window
    which begins at midnight begins at 1440, and the two can be in force together.
    """

    service_tier: str = ""
    context_tokens_min: int = 0
    daily_from_minute: int = 0
    daily_to_minute: int = MINUTES_PER_DAY

    @property
    def key(self) -> tuple[str, int, int]:
        """What tells one price's history from another's."""
        return self.service_tier, self.context_tokens_min, self.daily_from_minute

    @property
    def is_all_day(self) -> bool:
        return (self.daily_from_minute, self.daily_to_minute) == (0, MINUTES_PER_DAY)

    @property
    def is_ended(self) -> bool:
        return self.daily_from_minute == self.daily_to_minute

    @property
    def is_base(self) -> bool:
        """Whether every request of the model falls back on it."""
        return not self.service_tier and not self.context_tokens_min and self.is_all_day

    def holds_at(self, minute: int) -> bool:
        """Whether the time of the day is inside the window."""
        start, end = self.daily_from_minute, self.daily_to_minute
        return start <= minute < end if start <= end else minute >= start or minute < end

    @property
    def needs(self) -> tuple["PriceCondition", ...]:
        """The prices that must be there before this one: it holds only for some of their requests."""
        base = PriceCondition()
        served = PriceCondition(service_tier=self.service_tier)
        return tuple(condition for condition in dict.fromkeys((base, served)) if condition != self)

    def __str__(self) -> str:
        """Such as `flex, from 200,001 tokens, 16:30-00:30 UTC`; nothing for the base price."""
        parts = [self.service_tier] if self.service_tier else []
        if self.context_tokens_min:
            parts.append(f"from {self.context_tokens_min:,} tokens")
        if self.is_ended:
            parts.append("ended")
        elif not self.is_all_day:
            parts.append(
                f"{time_text(self.daily_from_minute % MINUTES_PER_DAY)}-{time_text(self.daily_to_minute)} UTC"
            )
        return ", ".join(parts)


def checked_condition(
    *,
    service_tier: str = "",
    context_tokens_min: int = 0,
    daily_from_minute: int = 0,
    daily_to_minute: int = MINUTES_PER_DAY,
) -> PriceCondition:
    """The condition, if it can be one; raises PriceConditionError."""
    if service_tier in STANDARD_SERVICE_TIERS:
        raise PriceConditionError(
            f"the service tier {service_tier!r} is the standard one: leave the service tier empty"
        )
    if service_tier and SERVICE_TIER_NAME.fullmatch(service_tier) is None:
        raise PriceConditionError(
            f"the service tier {service_tier!r} is no name of one: write up to 16 small letters, digits, "
            f"'-', '_' or '.', such as flex"
        )
    if not 0 <= context_tokens_min <= CONTEXT_TOKENS_MAX:
        raise PriceConditionError(f"{context_tokens_min} prompt tokens are not between 0 and {2**31 - 1:,}")
    for minute in (daily_from_minute, daily_to_minute):
        if not 0 <= minute <= MINUTES_PER_DAY:
            raise PriceConditionError(
                f"the minute {minute} of the day is not between 0 and {MINUTES_PER_DAY}"
            )
    if daily_from_minute % MINUTES_PER_DAY == daily_to_minute % MINUTES_PER_DAY and (
        (daily_from_minute, daily_to_minute) != (0, MINUTES_PER_DAY)
    ):
        raise PriceConditionError(
            f"from {time_text(daily_from_minute)} to {time_text(daily_to_minute)} is no part of the day: "
            f"write two different times, or 00:00 to 24:00 for all day"
        )
    # Midnight is written in one way only: as 24:00, at either end of a window.
    daily_to_minute = daily_to_minute or MINUTES_PER_DAY
    is_from_midnight = daily_from_minute == 0 and daily_to_minute != MINUTES_PER_DAY
    return PriceCondition(
        service_tier=service_tier,
        context_tokens_min=context_tokens_min,
        daily_from_minute=MINUTES_PER_DAY if is_from_midnight else daily_from_minute,
        daily_to_minute=daily_to_minute,
    )


def time_text(minute: int) -> str:
    """A minute of the day as 16:30; the day's end is 24:00."""
    return f"{minute // 60:02d}:{minute % 60:02d}"


def minute_from_text(text: str) -> int:
    """16:30 as a minute of the day, 24:00 included; raises PriceConditionError."""
    found = TIME_OF_DAY.fullmatch(text.strip())
    minute = int(found[1]) * 60 + int(found[2]) if found else -1
    if found is None or int(found[2]) > 59 or minute > MINUTES_PER_DAY:
        raise PriceConditionError(f"{text} is no time of the day: write HH:MM in UTC, such as 16:30")
    return minute


def minute_of_day(moment: datetime) -> int:
    """Of an aware moment in UTC: the ledger's and the clocks' are."""
    offset = moment.utcoffset() or timedelta()
    in_utc = moment - offset
    return in_utc.hour * 60 + in_utc.minute


def next_boundary(*, minutes: frozenset[int], now: datetime) -> datetime | None:
    """The next moment after `now` whose time of the day is one of these."""
    midnight = now - timedelta(minutes=minute_of_day(now), seconds=now.second, microseconds=now.microsecond)
    today = minute_of_day(now)
    waits = [
        minute % MINUTES_PER_DAY + (0 if minute % MINUTES_PER_DAY > today else MINUTES_PER_DAY)
        for minute in minutes
    ]
    return midnight + timedelta(minutes=min(waits)) if waits else None
