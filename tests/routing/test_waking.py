"""Rent or buy: a replica is woken when spilling has cost more than it would."""

from routing.waking import Spill, learnt_warm_up_s, on_choice, on_look, patience_s, warm_up_s

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


def test_warm_up_is_what_was_said_and_measured_together():
    assert warm_up_s(given_s=None, learnt_s=None, learnt_count=0) == 60.0
    assert warm_up_s(given_s=90.0, learnt_s=None, learnt_count=0) == 90.0
    assert warm_up_s(given_s=None, learnt_s=40.0, learnt_count=1) == 40.0
    assert warm_up_s(given_s=90.0, learnt_s=60.0, learnt_count=1) == 80.0
    assert warm_up_s(given_s=90.0, learnt_s=60.0, learnt_count=8) == 66.0


def test_measured_warm_ups_are_remembered_the_newer_ones_more():
    assert learnt_warm_up_s(before_s=None, measured_s=80.0) == 80.0
    assert learnt_warm_up_s(before_s=80.0, measured_s=60.0) == 74.0


def test_patience_is_three_warm_ups_and_a_minute_at_least():
    assert (patience_s(5.0), patience_s(90.0)) == (60.0, 270.0)
