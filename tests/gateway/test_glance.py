"""The state at a glance: what it sums up, what it calls attention to, what it costs to draw."""

from datetime import timedelta
from types import SimpleNamespace

import pytest
from django.conf import settings
from django.db import connections
from django.test.utils import CaptureQueriesContext

from billing import budgets, keys
from billing.models import BudgetWindow
from billing.windows import window_of
from clusters.inventory import save_record
from clusters.models import Deployment, Waking
from gateway.glance import CapacityLine, Notice, load_glance
from routing.economics import CostFigures
from tests.billing.rows import make_rollup
from tests.clusters.rows import add_cluster
from tests.gateway.snapshots import NOW, keeper_of

pytestmark = pytest.mark.django_db(databases="__all__")


def gateway_with(*, in_flight=0, is_draining=False, age_s=0.0, figures=()):
    keeper = keeper_of()
    return SimpleNamespace(
        figures=SimpleNamespace(figures=lambda: {each.cluster: each for each in figures}),
        keeper=SimpleNamespace(snapshot=keeper.snapshot, age_s=age_s),
        admission=SimpleNamespace(in_flight=in_flight, is_draining=is_draining),
    )


def add_serving_cluster(name="aws", **values):
    seen = {"health": "healthy", "health_checked_at": NOW - timedelta(seconds=5)}
    cluster = add_cluster(**{"name": name, "tokens_per_s": 900, **seen, **values})
    save_record(record=Deployment(cluster=cluster, model="llama"))
    return cluster


def values_of(glance):
    return {tile.label: tile.value for tile in glance.tiles}


def cost_of(cluster, **values):
    known = {
        "average_measured_nanousd": 94_519,
        "average_nameplate_nanousd": 31_507,
        "marginal_nanousd": 0,
        "marginal_kind": "paid",
        "idle_nanousd_per_hour": 50_000_000,
        "break_even_tokens_per_s": 1_200,
        "served_tokens_per_s": 55.5,
        "overhead_measured_permille": 2_500,
    }
    return CostFigures(cluster=cluster, **{**known, **values})


def test_owned_capacity_says_where_a_provider_would_be_cheaper():
    figures = (
        cost_of("busy", served_tokens_per_s=1_300.0, marginal_kind="provider_price", marginal_nanousd=600),
        cost_of("aws"),
        cost_of("new", **dict.fromkeys(("served_tokens_per_s", "idle_nanousd_per_hour"))),
        cost_of("openai", marginal_kind="metered"),
    )

    aws, busy, new = load_glance(gateway=gateway_with(figures=figures), now=NOW).capacities

    assert aws == CapacityLine(
        name="aws",
        average_measured="$0.000095",
        average_nameplate="$0.000032",
        marginal="$0.00",
        marginal_note="paid already",
        idle_per_hour="$0.05",
        served="55.5",
        break_even="1,200",
        verdict="a provider would be cheaper",
    )
    assert (busy.verdict, busy.marginal, busy.marginal_note) == ("", "$0.0000006", "full: a provider's price")
    assert (new.served, new.idle_per_hour, new.verdict) == ("-", "-", "")


def test_glance_of_an_empty_installation_asks_for_nothing():
    glance = load_glance(gateway=None, now=NOW)

    assert values_of(glance) == {
        "Spend today": "$0.00",
        "Requests today": "0",
        "Tokens today": "0",
        "Failed today": "0%",
        "Fleet": "0 of 0 healthy",
    }
    assert (glance.notices, glance.sites) == ((), ())


def test_glance_sums_up_today_only():
    add_serving_cluster()
    make_rollup(
        starts_at=NOW.replace(hour=9), cluster="aws", cost_nanousd=2_000_000_000, requests=40, failures=3
    )
    make_rollup(starts_at=NOW - timedelta(days=1), cluster="aws", cost_nanousd=7_000_000_000, requests=9)

    glance = load_glance(gateway=gateway_with(in_flight=4), now=NOW)

    assert values_of(glance) == {
        "Spend today": "$2.00",
        "Requests today": "40",
        "Tokens today": "15",
        "Failed today": "7.5%",
        "Fleet": "1 of 1 healthy",
        "In flight here": "4",
    }
    assert [tile.kind for tile in glance.tiles] == ["", "", "", "bad", "", ""]
    (site,) = glance.sites
    assert (site.name, site.badge_text, site.requests, site.spend) == ("aws", "healthy", "40", "$2.00")
    assert (site.models, site.tokens_per_s, site.cost_per_hour) == ("llama", "900", "$0.0928")
    assert glance.notices == ()


def test_glance_calls_attention_to_an_unhealthy_cluster():
    cluster = add_serving_cluster(health="unhealthy", health_reason="connection refused")

    glance = load_glance(gateway=None, now=NOW)

    url = f"/admin/clusters/cluster/{cluster.id}/change/"
    assert glance.notices == (
        Notice(kind="bad", subject="aws", text="connection refused", url=url, link="Open"),
    )
    assert values_of(glance)["Fleet"] == "0 of 1 healthy"


def test_glance_lets_a_cluster_sleep_and_tells_of_a_hook_that_fails():
    hook = {"billing": "autoscaled", "wake_url": "http://127.0.0.1:9/wake"}
    cluster = add_serving_cluster(**hook, health="unhealthy", health_reason="refused", temperature="cold")

    asleep = load_glance(gateway=None, now=NOW)
    Waking.objects.create(cluster=cluster, failure_count=2, error="the wake hook answers HTTP 500")
    failing = load_glance(gateway=None, now=NOW)

    assert (asleep.notices, asleep.sites[0].badge_kind, asleep.sites[0].badge_text) == ((), "muted", "cold")
    (fleet,) = [tile for tile in asleep.tiles if tile.label == "Fleet"]
    assert (fleet.value, fleet.note, fleet.kind) == ("0 of 1 healthy", "1 asleep, $0.00 per hour", "")
    assert [notice.text for notice in failing.notices] == [
        "waking it failed 2 times in a row: the wake hook answers HTTP 500"
    ]


def test_glance_does_not_believe_an_old_probe():
    add_serving_cluster(health_checked_at=NOW - timedelta(minutes=10), queue_depth=3)

    glance = load_glance(gateway=None, now=NOW)

    assert [notice.subject for notice in glance.notices] == ["Prober"]
    assert (glance.sites[0].badge_text, glance.sites[0].queue) == ("unknown", "-")


def test_glance_says_nothing_against_a_disabled_cluster():
    add_serving_cluster(state="disabled", health="unhealthy", health_reason="gone")

    glance = load_glance(gateway=None, now=NOW)

    assert (glance.notices, glance.sites[0].badge_text) == ((), "disabled")


def test_glance_tells_of_a_full_budget():
    acme = keys.put_organisation(name="acme")
    budget_id = budgets.put_budget(
        organisation_id=acme, limit_nanousd=2_000_000_000, window="day", is_hard=True
    )
    span = window_of(window="day", timezone="UTC", now=NOW)
    BudgetWindow.objects.create(
        id=f"{budget_id}:{span.key}",
        budget_id=budget_id,
        starts_at=span.starts_at,
        ends_at=span.ends_at,
        spent_nanousd=2_000_000_000,
    )

    (notice,) = load_glance(gateway=None, now=NOW).notices

    assert notice.kind == "bad"
    assert notice.text == "organisation acme, day: 100.0% of $2.00, requests are refused"


def test_glance_tells_of_a_stale_control_plane_and_a_drain():
    gateway = gateway_with(is_draining=True, age_s=settings.SNAPSHOT_STALE_S + 1.0)

    glance = load_glance(gateway=gateway, now=NOW)

    assert [(notice.kind, notice.subject) for notice in glance.notices] == [
        ("warn", "Draining"),
        ("bad", "Control plane"),
    ]


def test_glance_costs_the_same_queries_for_one_cluster_and_for_three():
    def count_queries():
        default_queries = CaptureQueriesContext(connections["default"])
        ledger_queries = CaptureQueriesContext(connections[settings.LEDGER_DATABASE])
        with default_queries as default, ledger_queries as ledger:
            load_glance(gateway=None, now=NOW)
        return len(default), len(ledger)

    add_serving_cluster()
    make_rollup(starts_at=NOW.replace(hour=9), cluster="aws")
    with_one = count_queries()
    for name in ("gcp", "azure"):
        add_serving_cluster(name)
        make_rollup(starts_at=NOW.replace(hour=9), cluster=name)

    assert count_queries() == with_one
