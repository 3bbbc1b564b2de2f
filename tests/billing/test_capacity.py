"""Owned capacity: every nano-USD of an own cluster's hour was used by somebody or is idle."""

from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest
from django.db.models import Sum
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from billing.capacity import RunningHours, close_hours, load_served, running_hours
from billing.capacity_samples import CapacitySample, record_samples
from billing.models import CapacityHour, SpendRollup
from billing.reconciliation import Drift, reconcile
from routing.economics import Served
from tests.billing.rows import make_capacity, make_rollup

pytestmark = pytest.mark.django_db(databases="__all__")

HOUR = timedelta(hours=1)
NINE = datetime(2026, 11, 20, 9, tzinfo=UTC)


def at(minute, second=0):
    return NINE + timedelta(minutes=minute, seconds=second)


def sample(cluster="gpu-a", *, committed=True, up=True, cost=6_000, speed=10, replicas=1, changes=()):
    return CapacitySample(
        cluster=cluster,
        is_committed=committed,
        is_up=up,
        cost_per_hour_nanousd=cost,
        tokens_per_s=speed,
        overhead_permille=1_100,
        replica_count=replicas,
        changes=changes,
    )


def record(*samples, minute, second=0):
    return record_samples(samples=samples, now=at(minute, second))


def closed(now=NINE + 2 * HOUR):
    close_hours(now=now)
    rows = CapacityHour.objects.filter(is_closed=True).order_by("starts_at", "cluster")
    return [(row.starts_at.hour, row.cluster, row.cost_nanousd, row.idle_nanousd) for row in rows]


def amortised():
    rows = SpendRollup.objects.filter(period="hour").order_by("model")
    return {row.model: row.amortised_nanousd for row in rows}


def test_committed_cluster_costs_its_whole_hour_however_often_it_is_sampled():
    for minute in (20, 21, 40):
        record(sample(), minute=minute)

    assert closed() == [(9, "gpu-a", 6_000, 6_000)]


def test_committed_cluster_is_paid_while_down():
    record(sample(up=False), minute=0)

    close_hours(now=NINE + 2 * HOUR)
    row = CapacityHour.objects.get()
    assert (row.cost_nanousd, row.capacity_tokens) == (6_000, 0)


def test_open_hour_costs_what_its_minutes_cost_so_far_and_all_of_it_is_idle():
    record(sample(), minute=10)
    record(sample(cost=12_000), minute=14)

    row = CapacityHour.objects.get()
    assert (row.cost_nanousd, row.used_nanousd, row.idle_nanousd) == (1_600, 0, 1_600)
    assert row.committed_nanousd_per_hour == 12_000


def test_autoscaled_cluster_is_paid_for_each_replica():
    for minute, replicas in enumerate((1, 4, 0, 3)):
        record(sample(committed=False, replicas=replicas, speed=2), minute=minute)
    record(sample(committed=False, up=False, replicas=9), minute=4)

    row = CapacityHour.objects.get()
    assert (row.cost_nanousd, row.capacity_tokens) == (8 * 100, 8 * 60 * 2)
    assert (row.sample_count, row.replica_samples) == (5, 8)


def test_replicas_of_a_committed_cluster_are_not_counted():
    record(sample(replicas=7), minute=59)

    row = CapacityHour.objects.get()
    assert (row.cost_nanousd, row.capacity_tokens, row.replica_samples) == (6_000, 600, 1)


def test_price_that_changed_between_two_samples_counts_from_its_minute_on():
    record(sample(), minute=0)
    record(sample(cost=12_000, changes=[(at(-90), 6_000), (at(19, second=1), 12_000)]), minute=30)

    assert closed() == [(9, "gpu-a", 2_000 + 8_000, 10_000)]


def test_hours_that_were_slept_through_cost_what_was_in_force_then():
    record(sample(), sample("spot", committed=False), minute=10)
    changes = [(at(-500), 1), (at(30), 12_000), (at(100), 24_000), (at(3 * 60 + 5), 60)]
    record(
        sample(cost=60, changes=changes),
        sample("spot", committed=False, changes=changes),
        minute=3 * 60 + 10,
    )

    assert closed(NINE + 5 * HOUR) == [
        # The minutes up to the latest sample keep their price, those after it take what came later.
        (9, "gpu-a", 1_100 + 0 + 6_000, 7_100),
        (9, "spot", 100, 100),
        (10, "gpu-a", 8_000 + 8_000, 16_000),
        (11, "gpu-a", 24_000, 24_000),
        (12, "gpu-a", 2_000 + 55, 2_055),
        (12, "spot", 100, 100),
    ]


def test_open_hour_of_the_former_form_goes_on():
    """Before the commitment had its own column, an open hour's cost held its rest."""
    for cluster, cost, used in (("gpu-a", 6_000, 6_000), ("spot", 500, 0)):
        CapacityHour.objects.create(
            id=f"{cluster}:2026-11-20T09",
            cluster=cluster,
            starts_at=NINE,
            cost_nanousd=cost,
            capacity_tokens=3_000,
            used_tokens=0,
            used_nanousd=used,
            idle_nanousd=cost - used,
            sample_count=5,
            updated_at=at(14),
        )
    span = {"from_at": NINE, "to_at": NINE + HOUR}
    before = running_hours(**span).cost_nanousd
    record(sample(cost=12_000), sample("spot", committed=False), minute=30)

    assert before == 1_500 + 500
    assert closed() == [(9, "gpu-a", 3_000 + 6_000, 9_000), (9, "spot", 600, 600)]


def test_hour_of_the_former_form_closes_without_another_sample():
    CapacityHour.objects.create(
        id="gpu-a:2026-11-20T09",
        cluster="gpu-a",
        starts_at=NINE,
        cost_nanousd=9_000,
        capacity_tokens=1_200,
        used_tokens=0,
        used_nanousd=12_000,
        idle_nanousd=-3_000,
        sample_count=2,
        updated_at=at(31),
    )
    make_rollup(output_tokens=9_000)

    assert closed() == [(9, "gpu-a", 9_000, 6_750)]


def test_changed_cost_counts_from_the_sample_on():
    record(sample(cost=6_000), minute=0)
    record(sample(cost=12_000), minute=15)
    record(sample(cost=0), minute=45)

    assert closed() == [(9, "gpu-a", 1_500 + 6_000, 7_500)]


def test_autoscaled_cluster_is_paid_for_the_minutes_it_is_up():
    for minute in range(60):
        record(sample(committed=False, up=10 <= minute < 25, speed=2), minute=minute)

    close_hours(now=NINE + 2 * HOUR)
    row = CapacityHour.objects.get()
    assert (row.cost_nanousd, row.capacity_tokens, row.sample_count) == (1_500, 15 * 60 * 2, 60)


def test_cluster_may_become_autoscaled_within_the_hour():
    record(sample(), minute=0)
    for minute in range(30, 60):
        record(sample(committed=False, up=minute < 40), minute=minute)

    assert closed() == [(9, "gpu-a", 3_000 + 1_000, 4_000)]


@pytest.mark.parametrize("committed", [True, False])
def test_second_sample_in_a_minute_changes_nothing(committed):
    first = record(sample(committed=committed), minute=5)
    before = CapacityHour.objects.values().get()
    again = [record(sample(committed=committed, cost=9), minute=minute) for minute in (5, 5, 4)]
    again.append(record(sample(committed=committed), minute=5, second=59))

    assert (first, again) == (1, [0, 0, 0, 0])
    assert CapacityHour.objects.values().get() == before


def test_outage_is_filled_at_the_last_known_cost():
    record(sample(), sample("spot", committed=False), minute=10)
    record(sample(cost=12_000), sample("spot", committed=False), minute=3 * 60 + 30)

    assert closed(NINE + 5 * HOUR) == [
        (9, "gpu-a", 6_000, 6_000),
        (9, "spot", 100, 100),
        (10, "gpu-a", 6_000, 6_000),
        (11, "gpu-a", 6_000, 6_000),
        (12, "gpu-a", 3_000 + 6_000, 9_000),
        (12, "spot", 100, 100),
    ]


def test_outage_is_filled_after_a_change_of_cost_too():
    record(sample(cost=6_000), minute=0)
    record(sample(cost=12_000), minute=30)
    record(sample(cost=1), minute=2 * 60)

    assert [cost for _, _, cost, _ in closed(NINE + 4 * HOUR)] == [9_000, 12_000, 1]


def test_outage_is_filled_when_the_hour_was_closed_before_the_first_sample():
    record(sample(), minute=10)
    close_hours(now=NINE + 3 * HOUR)
    record(sample(), minute=3 * 60)

    assert [hour for hour, *_ in closed(NINE + 5 * HOUR)] == [9, 10, 11, 12]


def test_filled_hour_has_the_capacity_of_the_hour_before():
    record(sample(), minute=10)
    record(sample(), minute=2 * 60)
    make_rollup(starts_at=NINE + HOUR, output_tokens=9_000)
    close_hours(now=NINE + 4 * HOUR)

    row = CapacityHour.objects.get(starts_at=NINE + HOUR)
    assert (row.capacity_tokens, row.used_nanousd, row.idle_nanousd) == (36_000, 1_500, 4_500)


def test_cluster_that_was_removed_and_came_back_is_not_paid_in_between():
    record(sample(), sample("gpu-b"), minute=0)
    record(sample("gpu-b"), minute=60)
    record(sample(), sample("gpu-b"), minute=120)

    hours = CapacityHour.objects.filter(cluster="gpu-a").order_by("starts_at")
    assert [row.starts_at.hour for row in hours] == [9, 11]


def test_hour_is_split_by_output_tokens_and_the_rest_is_idle():
    record(sample(cost=10_000), minute=0)
    make_rollup(model="a", output_tokens=6_000)
    make_rollup(model="b", output_tokens=3_000)
    make_rollup(model="c", output_tokens=0, input_tokens=99)
    make_rollup(model="d", cluster="openai", cluster_kind="provider", output_tokens=1)

    assert closed() == [(9, "gpu-a", 10_000, 7_500)]
    assert amortised() == {"a": 1_667, "b": 833, "c": 0, "d": 0}


def test_embeddings_alone_share_the_hour_by_input_tokens():
    record(sample(), minute=0)
    make_rollup(model="a", output_tokens=0, input_tokens=12_000)
    make_rollup(model="b", output_tokens=0, input_tokens=6_000)

    assert closed() == [(9, "gpu-a", 6_000, 3_000)]
    assert amortised() == {"a": 2_000, "b": 1_000}


def test_more_tokens_than_rated_use_the_whole_hour_and_no_more():
    record(sample(), minute=0)
    make_rollup(model="a", output_tokens=36_001)

    assert closed() == [(9, "gpu-a", 6_000, 0)]


def test_hour_closes_five_minutes_after_its_end_and_only_once():
    record(sample(), minute=0)
    counts = [close_hours(now=at(minute)) for minute in (59, 64, 65, 66)]

    assert counts == [0, 0, 1, 0]


def test_late_row_closes_the_hour_anew():
    record(sample(), minute=0)
    rollup = make_rollup(model="a", output_tokens=3_600)
    before = closed()
    SpendRollup.objects.filter(id=rollup.id).update(output_tokens=7_200)
    make_rollup(model="b", output_tokens=3_600)

    assert before == [(9, "gpu-a", 6_000, 5_400)]
    assert closed() == [(9, "gpu-a", 6_000, 4_200)]
    assert amortised() == {"a": 1_200, "b": 600}


def test_old_hour_is_closed_anew_only_when_asked():
    record(sample(), minute=0)
    closed()
    make_rollup(model="a", output_tokens=36_000)
    now = NINE + timedelta(days=9)

    assert close_hours(now=now) == 0
    assert close_hours(now=now, again_from=NINE) == 1
    assert amortised() == {"a": 6_000}


def test_hour_whose_rollups_were_pruned_stays_as_it_is():
    record(sample(), minute=0)
    make_rollup(output_tokens=3_600)
    before = closed()
    SpendRollup.objects.all().delete()

    assert close_hours(now=NINE + timedelta(days=9), again_from=NINE) == 0
    assert closed() == before == [(9, "gpu-a", 6_000, 5_400)]


MINUTES = st.integers(0, 239)


def price_at(moment, *, changes, base):
    return next((cost for effective_at, cost in reversed(changes) if effective_at <= moment), base)


@given(
    sampled=st.sets(MINUTES, min_size=1, max_size=8),
    changed=st.dictionaries(st.integers(-60, 3 * 240), st.integers(1, 10**9), max_size=6),
    base=st.integers(1, 10**9),
)
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_committed_hour_costs_its_minutes_whenever_samples_are_taken(sampled, changed, base):
    """The same prices give the same hours, whether the gateway slept or not."""
    CapacityHour.objects.all().delete()
    # In steps of 20 s: prices change within minutes too.
    schedule = [(NINE + timedelta(seconds=20 * step), cost) for step, cost in sorted(changed.items())]
    for minute in sorted(sampled):
        known = [change for change in schedule if change[0] <= at(minute)]
        record(sample(cost=price_at(at(minute), changes=known, base=base), changes=known), minute=minute)
    last = max(sampled)

    found = {row: cost for row, _, cost, _ in closed(NINE + 6 * HOUR)}

    first = min(sampled)
    expected = {}
    for hour in range(first // 60, last // 60 + 1):
        prices = []
        for minute in range(hour * 60, hour * 60 + 60):
            # Before the first sample nothing but the schedule is known, after the last nothing new.
            moment = at(min(minute, last))
            known = [change for change in schedule if change[0] <= at(last)]
            prices.append(price_at(moment, changes=known, base=price_at(at(first), changes=known, base=base)))
        expected[9 + hour] = prices
    whole = {hour: sum(prices) for hour, prices in expected.items()}
    # Each run of minutes at one price is cut to whole nano-USD at both ends.
    assert found.keys() == whole.keys()
    assert all(abs(found[hour] * 60 - whole[hour]) < 60 * 60 for hour in whole)


SAMPLES = st.builds(
    sample,
    st.sampled_from(["gpu-a", "gpu-b"]),
    committed=st.booleans(),
    up=st.booleans(),
    cost=st.integers(0, 10**10),
    speed=st.integers(1, 5_000),
    replicas=st.integers(0, 5),
)


@given(
    events=st.lists(st.tuples(st.integers(0, 239), SAMPLES), max_size=12),
    usage=st.lists(
        st.tuples(st.integers(0, 3), st.sampled_from(["gpu-a", "gpu-b"]), st.integers(0, 10**7)), max_size=8
    ),
)
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_every_closed_hour_is_used_and_idle_to_the_nanousd(events, usage):
    CapacityHour.objects.all().delete()
    SpendRollup.objects.all().delete()
    for minute, one in sorted(events, key=lambda event: event[0]):
        record_samples(samples=[one], now=at(minute))
    for number, (hour, cluster, tokens) in enumerate(usage):
        make_rollup(
            key_id=UUID(int=number), starts_at=NINE + hour * HOUR, cluster=cluster, output_tokens=tokens
        )

    close_hours(now=NINE + 6 * HOUR)

    rows = list(CapacityHour.objects.all())
    assert all(row.is_closed for row in rows)
    for row in rows:
        hour = SpendRollup.objects.filter(period="hour", cluster=row.cluster, starts_at=row.starts_at)
        used = hour.aggregate(used=Sum("amortised_nanousd", default=0))["used"]
        assert used + row.idle_nanousd == row.cost_nanousd
        assert used >= 0
        assert row.idle_nanousd >= 0
    assert [drift for drift in reconcile().drift if "cluster's hour" in drift.what] == []
    assert close_hours(now=NINE + 6 * HOUR) == 0


def test_running_hours_cost_up_to_the_latest_sample():
    record(sample(), sample("spot", committed=False), minute=0)
    record(sample(), sample("spot", committed=False, up=False), minute=14)
    make_rollup(output_tokens=4_500)

    span = {"from_at": NINE, "to_at": NINE + HOUR}
    assert running_hours(**span) == RunningHours(
        starts_at=NINE,
        closes_at=NINE + HOUR + timedelta(minutes=5),
        cost_nanousd=1_500 + 100,
        idle_nanousd=750 + 100,
    )
    assert running_hours(**span, cluster="spot").cost_nanousd == 100
    assert running_hours(from_at=NINE - HOUR, to_at=NINE) is None


def test_reconcile_proves_each_closed_hour():
    record(sample(), minute=0)
    rollup = make_rollup(output_tokens=3_600)
    closed()
    sound = [drift for drift in reconcile().drift if "used" in drift.what]
    SpendRollup.objects.filter(id=rollup.id).update(amortised_nanousd=599)
    make_rollup(cluster="gpu-b", amortised_nanousd=7)

    found = [drift for drift in reconcile().drift if "used" in drift.what]

    assert sound == []
    assert found == [
        Drift(
            what="used and idle of a cluster's hour", id="gpu-a:2026-11-20T09", expected=6_000, found=5_999
        ),
        Drift(what="used of an hour that is not closed", id="gpu-b:2026-11-20T09", expected=0, found=7),
    ]


def test_served_hours_are_summed_by_cluster_and_providers_tell_their_tokens():
    for hour in (9, 10):
        make_capacity(starts_at=NINE.replace(hour=hour))
    make_capacity(starts_at=NINE.replace(hour=11), is_closed=False)
    make_capacity(starts_at=NINE.replace(hour=8))
    make_rollup(starts_at=NINE, input_tokens=30, output_tokens=7)
    make_rollup(starts_at=NINE, model="other", input_tokens=3, output_tokens=2)
    make_rollup(starts_at=NINE, cluster="openai", cluster_kind="provider", input_tokens=5, output_tokens=4)
    make_rollup(starts_at=NINE, period="day", input_tokens=999, output_tokens=999)
    one = CapacityHour.objects.get(starts_at=NINE)

    served = load_served(from_at=NINE + timedelta(minutes=30), to_at=NINE + 3 * HOUR)

    assert served == {
        "gpu-a": Served(
            hours=2,
            input_tokens=33,
            output_tokens=9,
            cost_nanousd=2 * one.cost_nanousd,
            idle_nanousd=2 * one.idle_nanousd,
            capacity_tokens=2 * one.capacity_tokens,
        ),
        "openai": Served(input_tokens=5, output_tokens=4),
    }
