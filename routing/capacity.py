"""Arithmetic of paid capacity: what minutes of an hour cost, and an amount split into exact shares."""

from collections.abc import Sequence

MINUTES_PER_HOUR = 60


def shares(*, total: int, weights: Sequence[int]) -> list[int]:
    """The total in whole parts as the weights have it, by largest remainder; the parts add up exactly.

    Ties go to the earlier part; a weight of 0 gets nothing. Where no weight says anything the parts are
    equal, as near as can be.
    """
    assert total >= 0
    assert weights
    assert min(weights) >= 0
    whole = sum(weights)
    if whole == 0:
        return shares(total=total, weights=[1] * len(weights))
    parts = [total * weight // whole for weight in weights]
    remainders = [total * weight % whole for weight in weights]
    order = sorted(range(len(weights)), key=lambda index: (-remainders[index], index))
    for index in order[: total - sum(parts)]:
        parts[index] += 1
    assert sum(parts) == total
    return parts


def split_cost(*, cost_nanousd: int, tokens: Sequence[int], capacity_tokens: int) -> tuple[list[int], int]:
    """What each user of an hour used of its cost, and the rest, which is idle; together exactly the cost.

    cost x min(used / capacity, 1), by largest remainder. Tokens where there should be no capacity used
    all of it.
    """
    used_tokens = sum(tokens)
    if used_tokens == 0:
        return [0] * len(tokens), cost_nanousd
    idle_tokens = max(0, capacity_tokens - used_tokens)
    *parts, idle = shares(total=cost_nanousd, weights=[*tokens, idle_tokens])
    return parts, idle


def minutes_nanousd(*, cost_per_hour_nanousd: int, from_minute: int, to_minute: int) -> int:
    """What the minutes of an hour cost from one (0) up to another (60); its parts add up to it exactly."""
    assert 0 <= from_minute <= to_minute <= MINUTES_PER_HOUR
    before = cost_per_hour_nanousd * from_minute // MINUTES_PER_HOUR
    return cost_per_hour_nanousd * to_minute // MINUTES_PER_HOUR - before


def seed_nanousd_per_1k(*, cost_nanousd: int, capacity_tokens: int, overhead_permille: int) -> int:
    """The seed's formula, cost per hour / (tokens/s x 3600) x overhead x 1000, over hours; rounded up."""
    assert capacity_tokens > 0
    # Thousands of tokens and thousandths of overhead cancel out.
    return -(-cost_nanousd * overhead_permille // capacity_tokens)


def nanousd_per_mtok(*, cost_nanousd: int, tokens: int) -> int:
    """The average cost of a million tokens, rounded up."""
    assert tokens > 0
    return -(-cost_nanousd * 1_000_000 // tokens)
