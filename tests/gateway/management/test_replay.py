"""The command that plays a period of the ledger again, before and after a change."""

import json
from datetime import UTC, datetime, timedelta
from io import StringIO

import pytest
from django.core.management import CommandError, call_command

from billing import replayed, settled_rows
from billing.models import Price, PrunedPeriod, UsageRecord
from billing.prices import put_price
from clusters.catalogue import put_cluster, put_deployment, put_router_settings
from clusters.models import Cluster, Revision
from tests.billing.rows import NOW, make_usage

pytestmark = pytest.mark.django_db(databases="__all__")

PERIOD = ("--from", "2026-11-20T12:00Z", "--to", "2026-11-20T14:00Z")
COUNT = 20
# 100 tokens of the prompt and 20 of the answer at the provider's price.
BOUGHT_NANOUSD = 100 * 1000 + 20 * 2000


def replay(*arguments, errors=None):
    output = StringIO()
    call_command("replay", *PERIOD, *arguments, stdout=output, stderr=errors or output)
    return output.getvalue()


def document(*arguments):
    return json.loads(replay(*arguments, "--json", errors=StringIO()))


@pytest.fixture
def fleet():
    put_cluster(
        name="gpu-a",
        values={"endpoint": "https://a.example.com", "cost_per_hour_nanousd": 10**9, "tokens_per_s": 1000},
    )
    put_cluster(
        name="openai", values={"endpoint": "https://p.example.com", "kind": "provider", "billing": "metered"}
    )
    for name in ("gpu-a", "openai"):
        put_deployment(cluster_name=name, model="llama", values={"context_window": 8192})
    put_price(
        model="llama",
        cluster_name="openai",
        input_microusd_per_mtok=1_000_000,
        output_microusd_per_mtok=2_000_000,
        effective_at=datetime(2020, 1, 1, tzinfo=UTC),
    )
    put_router_settings(values={"policy": "marginal"})


@pytest.fixture
def ledger(fleet):
    for number in range(COUNT):
        usage(number)


def usage(number, **given):
    values = {
        "started_at": NOW + timedelta(seconds=number),
        "settled_at": NOW + timedelta(seconds=number + 2),
        "input_fresh_tokens": 100,
        "cache_read_tokens": 0,
        "output_text_tokens": 20,
        "cost_nanousd": 1_000,
        "cluster": "openai",
        "cluster_kind": "provider",
        "ttft_ms": 400,
    }
    return make_usage(**{**values, **given})


def served(outcome):
    return {one["cluster"]: one["requests"] for one in outcome["clusters"]}


def test_replay_of_todays_settings_says_how_far_it_is_off_the_ledger(ledger):
    found = document()

    assert found["ledger"] == {
        "requests": COUNT,
        "cost_nanousd": 20_000,
        "metered_nanousd": 20_000,
        "ttft_p50_s": 0.4,
        "ttft_p99_s": 0.4,
    }
    before = found["before"]
    assert served(before) == {"gpu-a": COUNT, "openai": 0}
    assert (before["metered_nanousd"], before["capacity_nanousd"]) == (0, 2 * 10**9)
    assert before["bill_nanousd"] == 2 * 10**9
    assert before["within_objective"] == COUNT
    assert found["model_error"] == {
        "cost_nanousd": before["cost_nanousd"] - 20_000,
        "metered_nanousd": -20_000,
        "elsewhere": COUNT,
    }
    assert (found["after"], found["difference"]) == (None, None)


def test_replay_under_another_policy_buys_at_exact_prices(ledger):
    found = document("--policy", "external_first")

    after = found["after"]
    assert (after["policy"], served(after)) == ("external_first", {"gpu-a": 0, "openai": COUNT})
    assert after["metered_nanousd"] == COUNT * BOUGHT_NANOUSD
    assert found["difference"] == {
        "bill_nanousd": COUNT * BOUGHT_NANOUSD,
        "cost_nanousd": COUNT * BOUGHT_NANOUSD - found["before"]["cost_nanousd"],
        "metered_nanousd": COUNT * BOUGHT_NANOUSD,
        "capacity_nanousd": 0,
        "changed_decisions": COUNT,
    }


def test_replay_at_other_prices_changes_only_what_the_file_prices(ledger, tmp_path):
    prices = tmp_path / "prices.csv"
    prices.write_text("model,cluster,input,output\nllama,openai,0.5,1\n")

    found = document("--policy", "external_first", "--prices", str(prices))

    assert found["after"]["metered_nanousd"] == COUNT * BOUGHT_NANOUSD // 2


def test_replay_of_a_changed_fleet_imports_nothing(ledger, tmp_path):
    file = tmp_path / "gateway.yaml"
    file.write_text(
        "clusters:\n"
        "  - name: gpu-a\n    endpoint: https://a.example.com\n    costPerHour: 3\n"
        "  - name: gpu-b\n    endpoint: https://b.example.com\n    costPerHour: 2\n"
        "    models: [{name: llama, contextWindow: 8192}]\n"
    )
    revision = Revision.objects.get().number

    found = document("--config", str(file))

    assert found["after"]["capacity_nanousd"] == 2 * 5 * 10**9
    assert set(served(found["after"])) == {"gpu-a", "gpu-b", "openai"}
    assert found["difference"]["capacity_nanousd"] == 8 * 10**9
    assert [cluster.name for cluster in Cluster.objects.order_by("name")] == ["gpu-a", "openai"]
    assert Cluster.objects.get(name="gpu-a").cost_per_hour_nanousd == 10**9
    assert (Revision.objects.get().number, Price.objects.count()) == (revision, 1)
    assert UsageRecord.objects.count() == COUNT


def test_replay_prints_what_a_person_can_read(ledger):
    usage(30, model="gone", outcome="ok")
    usage(31, outcome="failed")
    PrunedPeriod.objects.create(begun_before=NOW, attempts=1, cost_nanousd=1, pruned_at=NOW)

    lines = replay("--policy", "external_first").splitlines()

    assert lines[0] == "2026-11-20 12:00 to 2026-11-20 14:00 UTC"
    assert lines[1].split("  ")[-1].strip() == "replay, changed"
    width = len("bill (metered + capacity)")
    cells = {line[:width].strip(): line[width:].split() for line in lines[2:]}
    assert cells["policy"] == ["marginal", "external_first"]
    assert cells["requests"] == ["21", "21", "21"]
    assert cells["own capacity by the hour"] == ["$2.00", "$2.00"]
    assert "21 of 21 requests elsewhere" in "".join(lines)
    assert "20 decisions changed." in "".join(lines)
    assert "Today's fleet has no active deployment of: gone (1). They are not in its figures." in lines
    assert "1 first attempts that failed before any content are left out." in lines
    assert "Attempts begun before 2026-11-20 12:30 UTC are pruned, so not in it." in lines


def test_replay_takes_first_attempts_that_began_in_the_period(ledger):
    usage(0, attempt_number=2)
    usage(0, started_at=NOW - timedelta(hours=1), settled_at=NOW)
    usage(0, started_at=NOW + timedelta(hours=2), settled_at=NOW + timedelta(hours=2))

    assert document()["ledger"]["requests"] == COUNT


def test_replay_reads_a_period_page_by_page(ledger, monkeypatch):
    whole = document()
    monkeypatch.setattr(settled_rows, "ROWS_AT_ONCE", 3)

    assert document() == whole


def test_replay_warns_of_a_cluster_of_unknown_speed(ledger):
    put_cluster(name="gpu-a", values={"tokens_per_s": None})

    assert replay().startswith("warning: gpu-a has no rated or measured speed, so 10 tokens/s are assumed")


def test_replay_bills_own_clusters_that_serve_nothing_and_none_that_is_disabled(ledger):
    costs = {"endpoint": "https://a.example.com", "cost_per_hour_nanousd": 10**9}
    put_cluster(name="empty", values=costs)
    put_cluster(name="off", values={**costs, "state": "disabled"})
    put_cluster(name="scaled", values={**costs, "billing": "autoscaled", "replica_count": 3})

    assert document()["before"]["capacity_nanousd"] == 2 * (1 + 1 + 3) * 10**9


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--policy", "best"], "there is no policy 'best': there are "),
        (["--from", "2026-11-20T14:00Z"], "the period ends .* before it begins"),
        (["--from", "yesterday"], "'yesterday' is not a date"),
        (["--from", "2026-11-01", "--to", "2026-11-02"], "no answered request that began from"),
        (["--prices", "/nowhere.csv"], "cannot read the prices of /nowhere.csv"),
        (["--config", "/nowhere.yaml"], "nothing was replayed"),
    ],
)
def test_replay_refuses_with_words(ledger, arguments, message):
    with pytest.raises(CommandError, match=message):
        replay(*arguments)


def test_replay_refuses_more_requests_than_it_can_hold(ledger, monkeypatch):
    monkeypatch.setattr(replayed, "REQUESTS_MAX", COUNT - 1)

    with pytest.raises(CommandError, match="the period has more than 19 requests"):
        replay()


def test_replay_refuses_a_fleet_that_serves_none_of_the_period(fleet):
    usage(0, model="gone")

    with pytest.raises(CommandError, match=r"of today's fleet serves any model of the period \(gone\)"):
        replay()
