"""Reports: every settled request counted once, from hours and days alike."""

from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from billing import reports
from billing.models import CapacityHour, SpendRollup
from billing.reports import ReportRow
from billing.rollup_rows import ReportError, ReportFilter
from billing.rollups import fold_days
from tests.billing.rows import KEY_ID, NOW, make_capacity, make_rollup

pytestmark = pytest.mark.django_db(databases="__all__")

DAY = datetime(2026, 11, 20, tzinfo=UTC)
WEEK = {"from_at": DAY - timedelta(days=6), "to_at": DAY + timedelta(days=1)}


def test_report_by_team_sums_and_sorts_dearest_first():
    make_rollup(team="search", cost_nanousd=5, amortised_nanousd=2, failures=1)
    make_rollup(team="search", cluster="openai", cluster_kind="provider", cost_nanousd=3, estimates=1)
    make_rollup(team="ads", cost_nanousd=20)
    make_rollup(team="zoo", cost_nanousd=20)

    report = reports.spend_report(group="team", **WEEK)

    def row(name, **sums):
        counts = {"requests": 1, "input_tokens": 10, "cache_read_tokens": 4, "output_tokens": 5}
        return ReportRow(**{"name": name, "id": name, "detail": "acme", **counts, **sums})

    assert report.rows == (
        row("ads", cost_nanousd=20),
        row("zoo", cost_nanousd=20),
        row(
            "search",
            requests=2,
            failures=1,
            estimates=1,
            input_tokens=20,
            cache_read_tokens=8,
            output_tokens=10,
            cost_nanousd=8,
            metered_nanousd=3,
            amortised_nanousd=2,
        ),
    )
    assert report.totals == row(
        "Total",
        id="",
        detail="",
        requests=4,
        failures=1,
        estimates=1,
        input_tokens=40,
        cache_read_tokens=16,
        output_tokens=20,
        cost_nanousd=48,
        metered_nanousd=3,
        amortised_nanousd=2,
    )


def test_report_names_groups_and_what_they_belong_to():
    make_rollup()

    named = {}
    for group in ("key", "organisation", "model", "cluster", "day", "hour"):
        (row,) = reports.spend_report(group=group, **WEEK).rows
        named[group] = (row.name, row.id, row.detail)

    assert named == {
        "key": ("ci", str(KEY_ID), "search"),
        "organisation": ("acme", "acme", ""),
        "model": ("llama", "llama", ""),
        "cluster": ("gpu-a", "gpu-a", "own"),
        "day": ("2026-11-20", "", ""),
        "hour": ("2026-11-20 09:00", "", ""),
    }


def test_report_by_day_comes_in_the_order_of_time():
    for hours, cost in ((-30, 9), (3, 1), (5, 2)):
        make_rollup(starts_at=DAY + timedelta(hours=hours), cost_nanousd=cost)

    report = reports.spend_report(group="day", **WEEK)

    assert [(row.name, row.cost_nanousd) for row in report.rows] == [("2026-11-18", 9), ("2026-11-20", 3)]


def test_report_filters():
    other_key = UUID(int=7)
    make_rollup(cost_nanousd=1)
    make_rollup(key_id=other_key, team="ads", organisation="umbrella", model="gpt", cluster="openai")

    for only in (
        ReportFilter(key_id=str(KEY_ID)),
        ReportFilter(team="search"),
        ReportFilter(organisation="acme"),
        ReportFilter(model="llama"),
        ReportFilter(cluster="gpu-a"),
    ):
        assert reports.spend_report(group="team", only=only, **WEEK).totals.cost_nanousd == 1


@given(data=st.data())
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_report_counts_each_hour_once_whatever_was_folded(data):
    SpendRollup.objects.all().delete()
    ages = data.draw(st.sets(st.integers(0, 24 * 12), max_size=12))
    hours = {DAY - timedelta(hours=age): cost for cost, age in enumerate(sorted(ages), start=1)}
    for starts_at, cost in hours.items():
        make_rollup(starts_at=starts_at, cost_nanousd=cost)
    if (folded_days := data.draw(st.none() | st.integers(0, 12))) is not None:
        fold_days(now=DAY - timedelta(days=folded_days))
    from_at = DAY - timedelta(hours=data.draw(st.integers(1, 24 * 14)))
    to_at = from_at + timedelta(hours=data.draw(st.integers(1, 24 * 14)))
    span = {"from_at": from_at, "to_at": to_at}
    expected = sum(cost for starts_at, cost in hours.items() if from_at <= starts_at < to_at)

    totals = [reports.spend_report(group=group, **span).totals for group in ("key", "day", "hour")]
    series = [reports.spend_series(split="team", step=step, **span) for step in ("month", "day", "hour")]

    assert [total.cost_nanousd for total in totals] == [expected] * 3
    assert [sum(map(sum, one.values_nanousd)) for one in series] == [expected] * 3


def test_report_reads_days_where_they_are_folded():
    for age in range(10):
        make_rollup(starts_at=DAY - timedelta(days=age), cost_nanousd=1)
    fold_days(now=NOW)
    # Were the old hours read, they would not be missed.
    SpendRollup.objects.filter(period="hour", starts_at__lt=DAY - timedelta(days=5)).delete()

    report = reports.spend_report(group="key", from_at=DAY - timedelta(days=9), to_at=NOW)

    assert report.totals.cost_nanousd == 10


def test_report_by_cluster_has_its_idle_and_what_a_million_tokens_cost():
    make_capacity()
    make_capacity(starts_at=DAY + timedelta(hours=10), is_closed=False)
    make_capacity(starts_at=DAY - timedelta(days=9))
    make_capacity(cluster="gpu-z", used_nanousd=0, idle_nanousd=1_000, used_tokens=0)
    make_rollup(cost_nanousd=50, amortised_nanousd=200, output_tokens=100)
    make_rollup(cluster="openai", cluster_kind="provider", cost_nanousd=70, output_tokens=100)

    report = reports.spend_report(group="cluster", **WEEK)

    rows = [
        (row.name, row.bill_nanousd, row.idle_nanousd, row.used_nanousd_per_mtok, row.loaded_nanousd_per_mtok)
        for row in report.rows
    ]
    assert rows == [
        ("openai", 70, 0, 700_000, 700_000),
        ("gpu-a", 1_000, 800, 2_000_000, 10_000_000),
        ("gpu-z", 1_000, 1_000, None, None),
    ]
    # 1,000 nano-USD an hour / (10 tokens/s x 3600) x 1.1 x 1000 = 30.6
    assert [row.seed_nanousd_per_1k for row in report.rows] == [None, 31, 31]
    totals = report.totals
    assert (totals.cost_nanousd, totals.idle_nanousd, totals.bill_nanousd) == (120, 1_800, 2_070)


def test_seed_formula_has_the_overhead_factor_of_each_hour():
    """Amounts whose product with the factor is beyond the database's integers."""
    hour = {"cost_nanousd": 10**17, "used_nanousd": 0, "idle_nanousd": 10**17, "capacity_tokens": 50}
    make_capacity(**hour)
    make_capacity(**hour, starts_at=DAY + timedelta(hours=10), overhead_permille=1_300)
    make_capacity(**hour, starts_at=DAY + timedelta(hours=11), overhead_permille=1_000)

    (row,) = reports.spend_report(group="cluster", **WEEK).rows

    assert row.capacity_nanousd == 3 * 10**17
    assert row.seed_nanousd_per_1k == -(-(10**17) * (1_100 + 1_300 + 1_000) // 150)


def test_report_by_model_loads_each_with_its_share_of_the_idle():
    make_capacity(cost_nanousd=101, used_nanousd=30, idle_nanousd=71)
    make_capacity(cluster="gpu-z", used_nanousd=0, idle_nanousd=1_000)
    make_rollup(model="a", amortised_nanousd=20, output_tokens=1_000)
    make_rollup(model="b", amortised_nanousd=10, output_tokens=0)

    report = reports.spend_report(group="model", **WEEK)

    shares = {row.name: (row.idle_nanousd, row.loaded_nanousd_per_mtok) for row in report.rows}
    assert shares == {"a": (47, 67_000), "b": (24, 3_400_000)}
    # Model b made no output token. Nobody used gpu-z: its idle is in the total alone.
    assert report.totals.idle_nanousd == 1_071


@pytest.mark.parametrize("group", ["day", "hour"])
def test_report_by_time_has_moments_that_were_idle_alone(group):
    make_capacity()
    make_capacity(cluster="gpu-b")
    make_capacity(starts_at=DAY - timedelta(days=1))
    make_rollup(amortised_nanousd=200)

    report = reports.spend_report(group=group, **WEEK)

    rows = [(row.requests, row.amortised_nanousd, row.idle_nanousd) for row in report.rows]
    assert rows == [(0, 0, 800), (1, 200, 1_600)]
    assert report.totals.bill_nanousd == 2_600


@given(only=st.sampled_from([None, ReportFilter(cluster="gpu-a")]), group=st.sampled_from(reports.GROUPS))
@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_bill_is_the_rows_and_the_idle_whatever_is_asked(only, group):
    SpendRollup.objects.all().delete()
    CapacityHour.objects.all().delete()
    make_capacity()
    make_rollup(amortised_nanousd=200, cost_nanousd=9)
    if only is None:
        make_rollup(cluster="openai", cluster_kind="provider", cost_nanousd=70)

    report = reports.spend_report(group=group, only=only, **WEEK)

    rows = sum(row.metered_nanousd + row.amortised_nanousd for row in report.rows)
    assert rows + report.totals.idle_nanousd == report.totals.bill_nanousd
    assert report.totals.bill_nanousd == (1_070 if only is None else 1_000)


def test_idle_is_no_part_of_a_key_team_or_model():
    make_capacity()
    make_rollup(amortised_nanousd=200)

    for only in (ReportFilter(team="search"), ReportFilter(model="llama"), ReportFilter(cluster="other")):
        assert reports.spend_report(group="cluster", only=only, **WEEK).totals.idle_nanousd == 0


def test_series_keeps_the_dearest_eight_and_sums_the_rest():
    for number in range(10):
        make_rollup(cluster=f"c{number}", cost_nanousd=100 - number)
        make_rollup(cluster=f"c{number}", starts_at=DAY - timedelta(days=1), cost_nanousd=1)

    series = reports.spend_series(split="cluster", step="day", from_at=DAY - timedelta(days=2), to_at=NOW)

    assert series == reports.Series(
        moments=(DAY - timedelta(days=2), DAY - timedelta(days=1), DAY),
        names=(*(f"c{number}" for number in range(8)), "other"),
        values_nanousd=(*((0, 1, 100 - number) for number in range(8)), (0, 2, 183)),
    )


def test_series_of_hours_has_a_value_for_every_hour():
    make_rollup(starts_at=DAY + timedelta(hours=1), cost_nanousd=4)

    series = reports.spend_series(split="team", step="hour", from_at=DAY, to_at=DAY + timedelta(hours=3))

    assert series == reports.Series(
        moments=tuple(DAY + timedelta(hours=hour) for hour in range(3)),
        names=("search",),
        values_nanousd=((0, 4, 0),),
    )


def test_reports_refuse_what_they_cannot_make():
    naive = datetime(2026, 11, 1)  # noqa: DTZ001
    for change, message in [
        ({"group": "planet"}, "unknown group 'planet': it is one of day,"),
        ({"to_at": WEEK["from_at"]}, "ends before it begins"),
        ({"from_at": DAY - timedelta(days=2000)}, "at most 1100 days"),
        ({"from_at": DAY - timedelta(days=40), "group": "hour"}, "at most 35 days"),
        ({"from_at": naive}, "needs a time zone"),
        ({"only": ReportFilter(key_id="x")}, "is not the id of a key"),
    ]:
        with pytest.raises(ReportError, match=message):
            reports.spend_report(**{"group": "key", **WEEK, **change})
    with pytest.raises(ReportError, match="unknown split 'key'"):
        reports.spend_series(split="key", step="day", **WEEK)


@pytest.mark.parametrize("row_count", [1, 3])
def test_reports_ask_few_queries(row_count, django_assert_num_queries):
    for number in range(row_count):
        make_rollup(key_id=UUID(int=number), model=f"m{number}", cluster=f"c{number}", amortised_nanousd=1)
        make_capacity(cluster=f"c{number}")

    for group, count in (("key", 3), ("day", 3), ("cluster", 3), ("model", 3)):
        with django_assert_num_queries(count, using=SpendRollup.objects.db):
            reports.spend_report(group=group, **WEEK)
    with django_assert_num_queries(2, using=SpendRollup.objects.db):
        reports.spend_series(split="cluster", step="day", **WEEK)
