"""Rent or buy: a replica is woken when spilling has cost more than it would."""

from routing.waking import Spill, on_choice, on_look

PER_HOUR = 3.6  # a thousandth of a dollar a second


def look(spill, *, replicas=0, is_waking=False, now_s):
    return on_look(spill, usd_per_replica_hour=PER_HOUR, replicas=replicas, is_waking=is_waking, now_s=now_s)


def test_spill_is_the_decayed_rate_of_what_providers_cost():
    spill = on_choice(Spill(), provider_usd=0.6, now_s=0.0)

    assert spill.usd_per_s == 0.01
    assert on_choice(spill, provider_usd=0.0, now_s=0.0).usd_per_s == 0.01
    assert on_choice(spill, provider_usd=0.0, now_s=600.0).usd_per_s < 1e-5


def test_look_wakes_one_replica_past_twice_the_break_even():
    assert look(Spill(usd_per_s=0.0020), now_s=5.0).replicas == 0

    woken = look(Spill(usd_per_s=0.0021), replicas=2, now_s=5.0)

    assert woken == Spill(usd_per_s=0.00105, replicas=3, woken_at_s=5.0)


def test_look_waits_for_the_replica_that_is_coming_up():
    spilling = Spill(usd_per_s=1.0, replicas=1, woken_at_s=0.0)

    assert look(spilling, replicas=1, is_waking=True, now_s=31.0) == spilling
    assert look(spilling, replicas=1, now_s=29.0) == spilling
    assert look(spilling, replicas=1, now_s=31.0).replicas == 2


def test_look_takes_the_wish_back_after_a_minute():
    asked = Spill(usd_per_s=0.0, replicas=2, woken_at_s=0.0)

    assert (look(asked, now_s=60.0).replicas, look(asked, now_s=60.1).replicas) == (2, 0)
