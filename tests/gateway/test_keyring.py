"""A provider's keys: who is next, who rests, and for how long."""

from clusters.signing import Key, NoneSigner
from gateway.keyring import KEYS_MAX, REFUSED_S, Keyring


def key_of(name, **limits):
    return Key(id=name, label=name, signer=NoneSigner(), **limits)


A, B, C = key_of("a"), key_of("b"), key_of("c")


def taken(ring, keys, *, now_s=0.0, tokens=1, tried=()):
    key = ring.take(keys, tried=tried, tokens=tokens, now_s=now_s)
    return key and key.id


def test_least_loaded_comes_first_then_the_one_that_rested_longest():
    ring = Keyring()

    assert [taken(ring, [A, B, C], now_s=moment) for moment in (1.0, 2.0, 3.0)] == ["a", "b", "c"]
    ring.give_back(C)
    assert taken(ring, [A, B, C], now_s=4.0) == "c"
    for key in (A, B, C):
        ring.give_back(key)
    assert [taken(ring, [A, B, C], now_s=moment) for moment in (5.0, 6.0)] == ["a", "b"]


def test_key_that_was_tried_is_not_given_again():
    assert taken(Keyring(), [A, B], tried={"a"}) == "b"
    assert taken(Keyring(), [A, B], tried={"a", "b"}) is None


def test_limited_key_rests_as_long_as_it_was_told():
    ring = Keyring()

    ring.on_limited(A, retry_after_s=20.0, now_s=100.0)

    assert (taken(ring, [A], now_s=119.9), ring.wait_s([A], tokens=1, now_s=105.0)) == (None, 15.0)
    assert taken(ring, [A], now_s=120.0) == "a"


def test_limited_key_rests_a_second_where_nobody_said():
    ring = Keyring()

    ring.on_limited(A, retry_after_s=0.0, now_s=0.0)

    assert (taken(ring, [A], now_s=0.9), taken(ring, [A], now_s=1.0)) == (None, "a")


def test_refused_key_rests_until_somebody_may_have_seen_to_it():
    ring = Keyring()

    ring.on_refused(A, now_s=0.0)

    assert (taken(ring, [A, B], now_s=REFUSED_S - 1), taken(ring, [A], now_s=REFUSED_S)) == ("b", "a")


def test_answer_with_nothing_left_rests_its_key():
    ring = Keyring()
    headers = {"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "30s"}
    taken(ring, [A])

    ring.on_answer(A, headers, now_s=1.0, wall_now_s=0.0)

    assert (ring.wait_s([A], tokens=1, now_s=1.0), ring.wait_s([A, B], tokens=1, now_s=1.0)) == (30.0, 0.0)


def test_key_stays_within_its_own_limits():
    ring = Keyring()
    slow = key_of("slow", rpm_max=2)

    assert [taken(ring, [slow], now_s=moment) for moment in (0.0, 0.0, 0.0, 30.0)] == [
        "slow",
        "slow",
        None,
        "slow",
    ]


def test_tokens_count_and_more_than_the_limit_is_sent_alone():
    ring = Keyring()
    small = key_of("small", tpm_max=100)

    assert taken(ring, [small], tokens=500) == "small"
    assert taken(ring, [small], tokens=1) is None
    assert taken(ring, [small], tokens=1, now_s=241.0) == "small"
    assert taken(ring, [small], tokens=500, now_s=1000.0) == "small"


def test_memory_is_bounded():
    ring = Keyring()

    for number in range(KEYS_MAX + 5):
        taken(ring, [key_of(str(number))], now_s=float(number))

    assert len(ring._states) == KEYS_MAX
