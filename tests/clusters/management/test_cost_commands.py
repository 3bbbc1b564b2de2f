"""The commands for autoscalers and price lists: what they write, and what they refuse."""

from io import StringIO

import pytest
from django.core.management import call_command
from django.core.management.base import CommandError

from clusters.models import Cluster, HourlyCost
from clusters.snapshots import get_revision
from tests.clusters.rows import add_cluster

pytestmark = pytest.mark.django_db

HEADER = "cluster,effective_at,usd_per_hour\n"


def run(*arguments):
    out = StringIO()
    call_command(*arguments, stdout=out)
    return out.getvalue()


def test_set_replicas_notes_the_number_once():
    add_cluster(billing="autoscaled")
    first = run("set_replicas", "metal", "4")
    revision = get_revision()
    second = run("set_replicas", "metal", "4")

    assert (first, second) == ("metal runs 4 replicas.\n", "metal runs 4 replicas, as before.\n")
    assert (Cluster.objects.get().replica_count, get_revision()) == (4, revision)


@pytest.mark.parametrize(
    ("billing", "arguments", "message"),
    [
        ("autoscaled", ("gpu", "1"), "there is no cluster 'gpu'"),
        ("committed", ("metal", "1"), "'metal' is committed, and its replicas are not counted"),
        ("autoscaled", ("metal", "100001"), "write a number from 0 to 100000"),
        ("autoscaled", ("metal", "--", "-1"), "write a number from 0 to 100000"),
        ("autoscaled", ("metal", "many"), "invalid int value"),
    ],
)
def test_set_replicas_refuses(billing, arguments, message):
    add_cluster(billing=billing)

    with pytest.raises(CommandError, match=message):
        run("set_replicas", *arguments)

    assert Cluster.objects.get().replica_count == 1


def test_import_hourly_costs_twice_changes_nothing(tmp_path):
    add_cluster()
    path = tmp_path / "spot.csv"
    path.write_text(
        "\ufeff" + HEADER + "metal,2026-11-20T10:00Z,1.0432\n\n"
        " metal , 2026-11-20T10:00+01:00 ,0.000000001\n",
        encoding="utf-8",
    )

    texts = [run("import_hourly_costs", str(path)) for _ in range(2)]

    assert texts == [
        "2 hourly costs written, 0 known already.\n",
        "0 hourly costs written, 2 known already.\n",
    ]
    rows = HourlyCost.objects.order_by("effective_at")
    assert [(f"{row.effective_at:%H:%M}", row.cost_per_hour_nanousd, row.source) for row in rows] == [
        ("09:00", 1, "spot.csv"),
        ("10:00", 1_043_200_000, "spot.csv"),
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "line 1 must be cluster,effective_at,usd_per_hour"),
        ("cluster,usd\n", "line 1 must be"),
        (HEADER + "metal,2026-11-20T10:00Z\n", "line 2: found 2 values"),
        (HEADER + "\nmetal,today,1\n", "line 3: 'today' is no moment"),
        (HEADER + "metal,2026-11-20T10:00,1\n", "has no time zone"),
        (HEADER + "metal,2026-11-20T10:00Z,cheap\n", "'cheap' is not an amount"),
        (HEADER + "metal,2026-11-20T10:00Z,NaN\n", "'NaN' is not an amount"),
        (HEADER + "metal,2026-11-20T10:00Z,-1\n", "'-1' is not an amount"),
        (HEADER + "metal,2026-11-20T10:00Z,1e999999\n", "is not an amount from 0 to 1,000,000"),
        (HEADER + "metal,2026-11-20T10:00Z,0.0000000001\n", "more than nine decimals"),
        (HEADER + "gpu,2026-11-20T10:00Z,1\n", "there is no cluster 'gpu'"),
        (HEADER + "metal,2026-11-20T10:00Z,1\nmetal,2026-11-20T10:00Z,2\n", "exists already and differs"),
    ],
)
def test_import_hourly_costs_refuses_with_the_line_and_writes_nothing(tmp_path, text, message):
    add_cluster()
    path = tmp_path / "spot.csv"
    path.write_text(text)

    with pytest.raises(CommandError, match=message):
        run("import_hourly_costs", str(path))

    assert HourlyCost.objects.count() == 0


def test_import_hourly_costs_needs_a_readable_file(tmp_path):
    with pytest.raises(CommandError, match=r"cannot read .* name a CSV file"):
        run("import_hourly_costs", str(tmp_path / "none.csv"))
    (tmp_path / "latin.csv").write_bytes(b"\xe4,")
    with pytest.raises(CommandError, match="is not UTF-8 text"):
        run("import_hourly_costs", str(tmp_path / "latin.csv"))
