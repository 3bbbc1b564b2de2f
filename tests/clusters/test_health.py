from datetime import timedelta

import pytest

from clusters.health import (
    QUICK_LOOKS,
    Condition,
    Observation,
    folded,
    is_probe_due,
    probe_interval,
    settled_latency_ms,
)
from tests.clusters.rows import NOW

GOOD = Observation(is_healthy=True)
BAD = Observation(is_healthy=False, reason="slow")
REFUSED = Observation(is_healthy=False, reason="refused", is_conclusive=True)


@pytest.mark.parametrize(
    ("health", "failure_count", "observation", "expected"),
    [
        ("unknown", 0, GOOD, ("healthy", 0)),
        ("unhealthy", 9, GOOD, ("healthy", 0)),
        ("healthy", 0, BAD, ("healthy", 1)),
        ("healthy", 1, BAD, ("unhealthy", 2)),
        ("unknown", 0, BAD, ("unknown", 1)),
        ("unknown", 1, BAD, ("unhealthy", 2)),
        ("healthy", 0, REFUSED, ("unhealthy", 1)),
        ("unhealthy", 2, BAD, ("unhealthy", 3)),
    ],
)
def test_condition_folds(health, failure_count, observation, expected):
    condition = Condition(health=health, failure_count=failure_count)

    after = folded(condition=condition, observation=observation)

    assert (after.health, after.failure_count) == expected


def folded_all(condition, *observations):
    for observation in observations:
        condition = folded(condition=condition, observation=observation)
    return condition


def test_refused_connection_is_followed_by_a_minute_of_quick_looks():
    absent = Observation(is_healthy=False, reason="refused", is_conclusive=True, is_absent=True)
    healthy = Condition(health="healthy", failure_count=0)

    first = folded_all(healthy, absent)
    later = folded_all(healthy, *[absent] * 10)
    last = folded_all(healthy, *[absent] * (QUICK_LOOKS + 1))

    assert [each.quick_look_count for each in (first, later, last)] == [60, 51, 0]
    assert probe_interval(condition=first, interval_s=30, cluster_id="a") == timedelta(seconds=1)
    assert probe_interval(condition=last, interval_s=30, cluster_id="a") == timedelta(seconds=58)


@pytest.mark.parametrize("observation", [GOOD, BAD, REFUSED])
def test_anything_else_ends_the_quick_looks(observation):
    quick = Condition(health="unhealthy", failure_count=3, quick_look_count=50)

    assert folded(condition=quick, observation=observation).quick_look_count == 0


def test_suspected_cluster_is_due_at_once():
    suspected = Condition(health="healthy", failure_count=0, is_suspected=True)

    assert probe_interval(condition=suspected, interval_s=30, cluster_id="a") == timedelta(seconds=1)


def seconds(health, failure_count, interval_s, cluster_id="a"):
    condition = Condition(health=health, failure_count=failure_count)
    interval = probe_interval(condition=condition, interval_s=interval_s, cluster_id=cluster_id)
    return interval.total_seconds()


def test_interval_is_spread_by_a_tenth_and_the_same_for_one_cluster():
    intervals = [seconds("healthy", 0, 30, str(number)) for number in range(200)]

    assert all(27 <= interval <= 33 for interval in intervals)
    assert len(set(intervals)) > 50
    assert seconds("healthy", 0, 30, "7") == intervals[7]


@pytest.mark.parametrize(
    ("failure_count", "nominal_s"), [(1, 4), (2, 8), (3, 16), (4, 20), (5, 20), (1000, 20)]
)
def test_interval_doubles_while_down_up_to_five_times(failure_count, nominal_s):
    assert seconds("unhealthy", failure_count, 4) == pytest.approx(nominal_s, rel=0.1)


@pytest.mark.parametrize("interval_s", [1, 5, 30, 60, 600])
def test_recovery_is_seen_within_a_minute(interval_s):
    for failure_count in range(1, 40):
        for cluster_id in range(50):
            assert seconds("unhealthy", failure_count, interval_s, str(cluster_id)) <= 58


def test_second_look_comes_soon():
    assert seconds("healthy", 1, 30) <= 5.5


def test_cluster_is_due_at_once_if_never_probed():
    values = {"condition": Condition(health="unknown", failure_count=0), "interval_s": 30, "cluster_id": "a"}

    assert is_probe_due(checked_at=None, now=NOW, **values)
    assert not is_probe_due(checked_at=NOW - timedelta(seconds=26), now=NOW, **values)
    assert is_probe_due(checked_at=NOW - timedelta(seconds=34), now=NOW, **values)


@pytest.mark.parametrize(
    ("before_ms", "observation", "expected"),
    [
        (None, Observation(is_healthy=True, duration_ms=3), 3),
        (3, Observation(is_healthy=True, duration_ms=7), 3),
        (3, Observation(is_healthy=True, duration_ms=20), 20),
        (800, Observation(is_healthy=True, duration_ms=3, ttft_ms=850), 800),
        (800, Observation(is_healthy=True, duration_ms=3, ttft_ms=1200), 1200),
        (800, BAD, None),
    ],
)
def test_latency_ignores_noise(before_ms, observation, expected):
    assert settled_latency_ms(before_ms=before_ms, observation=observation) == expected


@pytest.mark.parametrize("interval_s", [1, 30])
def test_a_waking_cluster_is_looked_at_each_second(interval_s):
    waking = Condition(health="unhealthy", failure_count=9, is_waking=True)

    assert probe_interval(condition=waking, interval_s=interval_s, cluster_id="x") == timedelta(seconds=1)
