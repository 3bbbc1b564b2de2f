"""A period's requests as a replay takes them from the ledger."""

from datetime import timedelta
from uuid import UUID

import pytest

from billing import replayed, settled_rows
from billing.models import PrunedPeriod
from billing.replayed import Recording, ReplayedError, recording_of
from routing.replay import RecordedRequest
from routing.types import Usage
from tests.billing.rows import KEY_ID, NOW, make_usage

pytestmark = pytest.mark.django_db(databases="__all__")

FROM, TO = NOW - timedelta(minutes=1), NOW + timedelta(minutes=1)


def ids(recording):
    return [UUID(request.id).int for request in recording.requests]


def numbered(number, **given):
    return make_usage(attempt_id=UUID(int=number), **given)


def test_recording_has_each_bucket_and_the_full_cost():
    numbered(
        7,
        input_fresh_tokens=1,
        cache_read_tokens=2,
        cache_write_5m_tokens=3,
        cache_write_1h_tokens=4,
        input_audio_tokens=5,
        input_image_tokens=6,
        output_text_tokens=7,
        reasoning_tokens=8,
        audio_tokens=9,
        cost_nanousd=100,
        variance_nanousd=11,
        service_tier="flex",
        ttft_ms=250,
    )

    assert recording_of(from_at=FROM, to_at=TO) == Recording(
        requests=(
            RecordedRequest(
                id=str(UUID(int=7)),
                arrived_s=60.0,
                key_id=str(KEY_ID),
                model="llama",
                surface="chat",
                service_tier="flex",
                usage=Usage(
                    input_fresh_tokens=1,
                    cache_read_tokens=2,
                    cache_write_5m_tokens=3,
                    cache_write_1h_tokens=4,
                    input_audio_tokens=5,
                    input_image_tokens=6,
                    output_text_tokens=7,
                    reasoning_tokens=8,
                    audio_tokens=9,
                ),
                cluster="gpu-a",
                cluster_kind="own",
                ttft_ms=250,
                cost_nanousd=111,
            ),
        ),
        failed_count=0,
        pruned_before=None,
    )


def test_recording_is_by_arrival_whatever_settled_first():
    numbered(3, started_at=NOW, settled_at=NOW + timedelta(seconds=1))
    numbered(2, started_at=NOW, settled_at=NOW + timedelta(seconds=2))
    numbered(1, started_at=NOW - timedelta(seconds=1), settled_at=NOW + timedelta(hours=23))

    assert ids(recording_of(from_at=FROM, to_at=TO)) == [1, 2, 3]


def test_recording_takes_the_begin_and_leaves_the_end():
    numbered(1, started_at=FROM, settled_at=FROM)
    numbered(2, started_at=TO, settled_at=TO)

    assert ids(recording_of(from_at=FROM, to_at=TO)) == [1]


def test_recording_counts_first_attempts_that_failed():
    numbered(1)
    numbered(2, outcome="failed")
    numbered(3, outcome="failed", attempt_number=2)

    recording = recording_of(from_at=FROM, to_at=TO)

    assert (ids(recording), recording.failed_count) == ([1], 1)


@pytest.mark.parametrize("rows_at_once", [1, 2, 5])
def test_recording_misses_none_of_a_moment_between_pages(monkeypatch, rows_at_once):
    monkeypatch.setattr(settled_rows, "ROWS_AT_ONCE", rows_at_once)
    for number in range(1, 6):
        numbered(number)

    assert ids(recording_of(from_at=FROM, to_at=TO)) == [1, 2, 3, 4, 5]


def test_recording_takes_as_many_as_it_may_and_refuses_one_more(monkeypatch):
    monkeypatch.setattr(replayed, "REQUESTS_MAX", 2)
    numbered(1)
    numbered(2)
    assert ids(recording_of(from_at=FROM, to_at=TO)) == [1, 2]

    numbered(3)
    with pytest.raises(ReplayedError, match="more than 2 requests: take a shorter one"):
        recording_of(from_at=FROM, to_at=TO)


def test_recording_refuses_a_period_of_failures_alone():
    numbered(1, outcome="failed")

    with pytest.raises(ReplayedError, match="no answered request that began from 2026-11-20 12:29"):
        recording_of(from_at=FROM, to_at=TO)


@pytest.mark.parametrize(("begun_before", "told"), [(FROM, None), (NOW, NOW)])
def test_recording_tells_of_pruning_within_the_period(begun_before, told):
    PrunedPeriod.objects.create(begun_before=begun_before, attempts=1, cost_nanousd=1, pruned_at=NOW)
    numbered(1)

    assert recording_of(from_at=FROM, to_at=TO).pruned_before == told
