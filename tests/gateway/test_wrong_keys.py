"""Wrong master keys are counted by their sender's address, in a bounded memory."""

from datetime import UTC, datetime, timedelta

import pytest
from django.conf import settings as django_settings
from django.core.cache import caches

from gateway import wrong_keys
from gateway.wrong_keys import SPAN, WRONG_MAX, is_same_secret, note_wrong, shut_out_s

NOW = datetime(2030, 1, 2, 12, tzinfo=UTC)
ADDRESS = "192.0.2.1"


@pytest.fixture(autouse=True)
def _empty():
    caches[wrong_keys.CACHE].clear()


def wrong(count, *, address=ADDRESS, now=NOW):
    for _ in range(count):
        note_wrong(address=address, now=now)


@pytest.mark.parametrize(
    ("given", "is_same"), [("s", True), ("", False), ("S", False), ("ss", False), ("\u00df", False)]
)
def test_secret_is_compared_whole(given, is_same):
    assert is_same_secret(given=given, secret="s") is is_same


def test_one_too_many_shuts_out_for_the_rest_of_a_minute():
    wrong(WRONG_MAX - 1)
    before = shut_out_s(address=ADDRESS, now=NOW)
    wrong(1, now=NOW + timedelta(seconds=30))
    moments = [30, 89, 89.5, 90, 91]

    left = [shut_out_s(address=ADDRESS, now=NOW + timedelta(seconds=moment)) for moment in moments]

    assert (before, left) == (0, [60, 1, 1, 0, 0])


def test_wrong_keys_are_forgotten_a_minute_after_the_latest():
    wrong(WRONG_MAX - 1)
    wrong(1, now=NOW + SPAN)

    assert shut_out_s(address=ADDRESS, now=NOW + SPAN) == 0


@pytest.mark.parametrize(
    ("first", "second", "is_one"),
    [
        ("192.0.2.1", "192.0.2.2", False),
        ("2001:db8::1", "2001:db8::ffff:1", True),
        ("2001:db8::1", "2001:db8:0:1::1", False),
        ("::ffff:192.0.2.1", "192.0.2.1", True),
        ("fe80::1%eth0", "fe80::1", True),
        ("", "unix", True),
    ],
)
def test_addresses_are_counted_by_whose_they_are(first, second, is_one):
    wrong(WRONG_MAX, address=first)

    assert (shut_out_s(address=second, now=NOW) > 0) is is_one


def test_memory_is_bounded_and_the_longest_unseen_go_first():
    places = django_settings.CACHES[wrong_keys.CACHE]["OPTIONS"]["MAX_ENTRIES"]
    wrong(1, address=ADDRESS)

    for number in range(places):
        wrong(1, address=f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}")
    wrong(WRONG_MAX - 1, address=ADDRESS)

    assert len(caches[wrong_keys.CACHE]._cache) <= places
    assert shut_out_s(address=ADDRESS, now=NOW) == 0
