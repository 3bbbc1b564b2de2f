from dataclasses import replace
from datetime import UTC, datetime

from clusters.health import Observation
from clusters.probes import joined

UP = Observation(
    is_healthy=True,
    duration_ms=3,
    queue_depth=1,
    running_count=4,
    generated_tokens_total=100,
    tokens_per_s=50,
    ttft_ms=200,
    models=("a", "b"),
    context_windows=(("a", 8192), ("b", 4096)),
)
QUIET = Observation(
    is_healthy=True, duration_ms=9, running_count=2, models=("b", "c"), context_windows=(("b", 2048),)
)
REFUSED = Observation(is_healthy=False, reason="refused", is_conclusive=True, is_absent=True)
SLOW = Observation(is_healthy=False, reason="slow", is_absent=True)


def test_load_adds_up_and_the_slowest_and_least_count():
    assert joined({"10.0.0.1": UP, "10.0.0.2": QUIET, "10.0.0.3": UP}) == Observation(
        is_healthy=True,
        duration_ms=9,
        queue_depth=2,
        running_count=10,
        generated_tokens_total=200,
        tokens_per_s=100,
        ttft_ms=200,
        models=("b",),
        context_windows=(("a", 8192), ("b", 2048)),
        address_count=3,
        healthy_address_count=3,
    )


def test_any_healthy_address_makes_the_cluster_healthy_and_the_others_are_told():
    seen = joined({"10.0.0.1": REFUSED, "10.0.0.2": QUIET})

    assert (seen.is_healthy, seen.running_count, seen.queue_depth) == (True, 2, None)
    assert (seen.healthy_address_count, seen.address_count) == (1, 2)
    assert seen.reason == "1 of 2 addresses fail, 10.0.0.1: refused"


def test_cluster_fails_as_all_its_addresses_do():
    both = joined({"10.0.0.1": REFUSED, "10.0.0.2": SLOW})
    alike = joined({"10.0.0.1": REFUSED, "10.0.0.2": REFUSED})

    assert both == Observation(
        is_healthy=False,
        reason="2 of 2 addresses fail, 10.0.0.1: refused",
        is_absent=True,
        address_count=2,
        healthy_address_count=0,
    )
    assert (alike.is_conclusive, alike.is_absent) == (True, True)


def test_address_that_does_not_list_models_says_nothing_of_them():
    silent = Observation(is_healthy=True)

    assert joined({"10.0.0.1": silent, "10.0.0.2": UP}).models == ("a", "b")
    assert joined({"10.0.0.1": silent}).models is None


def test_clock_furthest_apart_and_certificate_that_ends_first_are_told():
    soon, late = datetime(2030, 1, 1, tzinfo=UTC), datetime(2031, 1, 1, tzinfo=UTC)
    near = replace(QUIET, clock_skew_s=3, certificate_expires_at=late)
    far = replace(REFUSED, clock_skew_s=-70, certificate_expires_at=soon)

    seen = [joined({"10.0.0.1": near, "10.0.0.2": far, "10.0.0.3": UP}), joined({"10.0.0.2": far})]

    assert [(each.clock_skew_s, each.certificate_expires_at) for each in seen] == [(-70, soon), (-70, soon)]
