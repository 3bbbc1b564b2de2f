"""The charts of a cluster's last day, drawn from checks at known moments."""

import re
from datetime import timedelta

import pytest
from django.urls import reverse
from django.utils import timezone

from clusters.day_charts import BUCKETS, DayCharts, Line, Slot, Strip, load_day_charts
from clusters.models import HealthCheck
from tests.clusters.rows import NOW, add_cluster

pytestmark = pytest.mark.django_db

MINUTE = timedelta(minutes=1)
NAMES = (
    "Queue depth (largest)",
    "Running (mean)",
    "Tokens/s while busy (mean)",
    "Time to first token (mean)",
)


def add_check(cluster, ago, *, is_healthy=True, **values):
    HealthCheck.objects.create(
        cluster=cluster, checked_at=NOW - ago, is_healthy=is_healthy, duration_ms=1, **values
    )


def line(name, *, pieces=(), dots=(), summary="not known"):
    return Line(name=name, width=480, height=72, baseline=68, pieces=pieces, dots=dots, summary=summary)


def test_cluster_that_was_never_probed_is_unknown_all_day(django_assert_num_queries):
    cluster = add_cluster()

    with django_assert_num_queries(1):
        charts = load_day_charts(cluster_id=cluster.id, now=NOW)

    assert charts == DayCharts(
        strip=Strip(width=480, height=20, slots=(), summary="not probed"),
        lines=tuple(line(name) for name in NAMES),
        since="Mon 12:15",
        noon="Tue 00:15",
    )


def test_checks_are_drawn_by_quarters_of_an_hour_with_gaps_where_nothing_is_known(
    django_assert_num_queries,
):
    cluster = add_cluster()
    add_check(add_cluster(name="other"), MINUTE, queue_depth=99)
    add_check(cluster, timedelta(days=1), queue_depth=98)  # yesterday's
    add_check(cluster, 40 * MINUTE, queue_depth=2, ttft_ms=100)
    add_check(cluster, 39 * MINUTE, is_healthy=False)
    add_check(cluster, 20 * MINUTE, queue_depth=4)
    add_check(cluster, 19 * MINUTE, queue_depth=0)
    add_check(cluster, 0 * MINUTE, is_healthy=False)

    with django_assert_num_queries(1):
        charts = load_day_charts(cluster_id=cluster.id, now=NOW)

    assert charts.strip == Strip(
        width=480,
        height=20,
        slots=(
            Slot(x=460.0, width=5, css="strip-partly", title="11:15 UTC: partly unhealthy, 1 of 2 probes"),
            Slot(x=465.0, width=5, css="strip-up", title="11:30 UTC: healthy, 2 of 2 probes"),
            Slot(x=475.0, width=5, css="strip-down", title="12:00 UTC: unhealthy, 0 of 1 probes"),
        ),
        summary="60 % of 5 probes were healthy, unknown for 23 h 15 min",
    )
    assert charts.lines == (
        line(
            NAMES[0],
            pieces=("462.5,36.0 467.5,4.0",),
            summary="now unknown, at most 4, unknown for 23 h 30 min",
        ),
        line(NAMES[1]),
        line(NAMES[2]),
        line(NAMES[3], dots=((462.5, 4.0),), summary="now unknown, at most 100 ms, unknown for 23 h 45 min"),
    )


def test_zero_is_a_line_at_the_bottom_and_not_unknown():
    cluster = add_cluster()
    for quarter in range(BUCKETS):
        add_check(cluster, quarter * 15 * MINUTE, running_count=0)

    charts = load_day_charts(cluster_id=cluster.id, now=NOW)

    (points,) = charts.lines[1].pieces
    assert {point.partition(",")[2] for point in points.split()} == {"68.0"}
    assert charts.lines[1].summary == "now 0, at most 0"
    assert charts.strip.summary == "100 % of 96 probes were healthy"


def test_page_of_a_cluster_draws_the_charts_without_inline_style_or_script(admin_client):
    cluster = add_cluster()
    now = timezone.now()  # noqa: TID251 -- the page draws by the wall's clock
    for minutes in (1, 16):  # a bucket apart, whatever the time
        HealthCheck.objects.create(
            cluster=cluster, checked_at=now - minutes * MINUTE, is_healthy=True, duration_ms=1, queue_depth=1
        )

    page = admin_client.get(reverse("admin:clusters_cluster_change", args=[cluster.id])).content.decode()
    charts = page.partition('<div class="day-charts">')[2].partition("recent-checks")[0]

    assert charts.count("<svg ") == 5
    assert charts.count("<polyline ") == 1
    assert charts.count('class="strip-up"') == 2
    assert not {"style=", "<script", "onclick"} & set(re.findall(r"style=|<script|onclick", charts))
