"""The bill: whatever fleet ran, whoever used it and however late, teams + idle are it to the nano-USD."""

from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest
from django.db.models import Sum
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from billing import reports
from billing.capacity import close_hours
from billing.capacity_samples import CapacitySample, record_samples
from billing.models import CapacityHour, SpendRollup
from billing.rollup_rows import ReportFilter
from billing.rollups import fold_days
from tests.billing.rows import make_rollup

pytestmark = pytest.mark.django_db(databases="__all__")

START = datetime(2026, 11, 10, tzinfo=UTC)
DAYS = 3
END = START + timedelta(days=DAYS)
LATER = END + timedelta(days=4)
SPAN = {"from_at": START, "to_at": END}
OWN = ("gpu-a", "gpu-b", "gpu-c")
CLUSTERS = (*OWN, "openai", "claude")
TEAMS = ("search", "ads", "zoo")

SAMPLES = st.tuples(
    st.integers(0, DAYS * 24 * 60 - 1),
    st.builds(
        CapacitySample,
        cluster=st.sampled_from(OWN),
        is_committed=st.booleans(),
        is_up=st.booleans(),
        cost_per_hour_nanousd=st.integers(0, 10**11),
        tokens_per_s=st.integers(1, 5_000),
        overhead_permille=st.integers(1, 2_000),
        replica_count=st.integers(0, 9),
    ),
)
USES = st.tuples(
    st.integers(0, DAYS * 24 - 1),
    st.sampled_from(CLUSTERS),
    st.sampled_from(TEAMS),
    st.sampled_from(("llama", "qwen", "embed")),
    st.integers(0, 10**7),
    st.integers(0, 10**10),
)


def add_uses(uses, *, first):
    for number, (hour, cluster, team, model, tokens, cost) in enumerate(uses, start=first):
        make_rollup(
            key_id=UUID(int=number),
            starts_at=START + timedelta(hours=hour),
            cluster=cluster,
            cluster_kind="own" if cluster in OWN else "provider",
            team=team,
            model=model,
            output_tokens=0 if model == "embed" else tokens,
            input_tokens=tokens,
            cost_nanousd=cost,
        )


def bill():
    """From the rows that nothing is derived from: what providers charged and what hours cost."""
    hours = SpendRollup.objects.filter(period="hour", cluster_kind="provider")
    metered = hours.aggregate(sum=Sum("cost_nanousd", default=0))["sum"]
    return int(metered + CapacityHour.objects.aggregate(sum=Sum("cost_nanousd", default=0))["sum"])


def reported():
    """Each group's rows and the idle that none of them has; all of them sums of one bill."""
    found = {}
    for group in reports.GROUPS:
        report = reports.spend_report(group=group, **SPAN)
        found[group] = sum(row.bill_nanousd for row in report.rows) + report.unshared_idle_nanousd
        assert found[group] == report.totals.bill_nanousd
        assert all(row.idle_nanousd >= 0 for row in report.rows)
        assert report.unshared_idle_nanousd >= 0
    return found


def settle_hours(*, now):
    close_hours(now=now, again_from=START)
    fold_days(now=now, again_from=START)


@given(
    samples=st.lists(SAMPLES, max_size=15),
    uses=st.lists(USES, max_size=10),
    late=st.lists(USES, max_size=5),
    pruned_days=st.integers(0, DAYS),
)
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_teams_and_idle_are_the_bill(samples, uses, late, pruned_days):
    SpendRollup.objects.all().delete()
    CapacityHour.objects.all().delete()
    for minute, sample in sorted(samples, key=lambda one: one[0]):
        record_samples(samples=[sample], now=START + timedelta(minutes=minute))
    add_uses(uses, first=0)
    settle_hours(now=END + timedelta(hours=1))
    early, early_bill = reported(), bill()
    add_uses(late, first=len(uses))
    # A sum of a later day, so that all these are read as days.
    make_rollup(starts_at=LATER, cost_nanousd=0)
    settle_hours(now=LATER + timedelta(hours=1))
    folded, folded_bill = reported(), bill()
    shown = reports.spend_report(group="team", **SPAN)
    kept_from = START + timedelta(days=pruned_days)
    SpendRollup.objects.filter(period="hour", starts_at__lt=kept_from).delete()
    settle_hours(now=LATER + timedelta(hours=2))

    assert early == dict.fromkeys(reports.GROUPS, early_bill)
    assert folded == dict.fromkeys(reports.GROUPS, folded_bill)
    assert reports.spend_report(group="team", **SPAN) == shown


@given(uses=st.lists(USES, min_size=1, max_size=8))
@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_bills_of_all_teams_and_the_idle_are_the_whole_bill(uses):
    SpendRollup.objects.all().delete()
    CapacityHour.objects.all().delete()
    samples = [
        CapacitySample(
            cluster=cluster,
            is_committed=True,
            is_up=True,
            cost_per_hour_nanousd=7,
            tokens_per_s=1_000,
            overhead_permille=1_100,
        )
        for cluster in OWN
    ]
    for hour in sorted({hour for hour, *_ in uses}):
        record_samples(samples=samples, now=START + timedelta(hours=hour))
    add_uses(uses, first=0)
    settle_hours(now=END + timedelta(hours=1))

    whole = reports.spend_report(group="cluster", **SPAN).totals
    bills = [
        reports.spend_report(group="cluster", only=ReportFilter(team=team), **SPAN).totals.bill_nanousd
        for team in TEAMS
    ]

    assert sum(bills) + whole.idle_nanousd == whole.bill_nanousd
