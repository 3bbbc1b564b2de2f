from xml.etree import ElementTree as ET

import pytest

from gateway.bench import tables
from gateway.bench.load import LoadError, Sample
from gateway.bench.plot import plot_svg
from gateway.bench.record import Record, number

CPU = ("CPU per request", "us")
MACHINE = {
    "cpu": "A CPU",
    "cores": "2 usable of 2",
    "pinning": "pinned so",
    "memory": "24 GiB",
    "kernel": "6.1",
    "python": "3.11.7",
    "commit": "abc",
    "packages": "",
}

MEASURED = (
    "Measured on 2030-01-01: A CPU, 2 usable of 2 cores, 24 GiB, Linux 6.1, Python 3.11.7, commit abc; "
    "pinned so."
)


@pytest.fixture
def said():
    return []


@pytest.fixture
def record(said):
    """Two rounds of ours, a peer that costs 10 and 12 times as much, and the bare upstream."""
    record = Record(said.append)
    for ours, theirs in ((100.0, 1000.0), (110.0, 1320.0)):
        record.add(part="plain", target="direct", figures={("requests", "/s"): 50_000.0})
        record.add(part="plain", target="tollgate", figures={CPU: ours}, costs=CPU[:1])
        record.add(part="plain", target="litellm", figures={CPU: theirs}, costs=CPU[:1])
    return record


def test_ratios_are_of_the_same_round(record):
    assert [(ratio.target, ratio.values) for ratio in record.ratios()] == [("litellm", (10.0, 12.0))]


def test_no_ratio_where_a_round_is_missing(record):
    record.add(part="plain", target="litellm", figures={CPU: 5.0}, costs=CPU[:1])

    assert record.ratios() == []


def test_text_has_least_to_most_and_the_ratio(record):
    assert tables.text(record).splitlines() == [
        "plain     CPU per request, us  x tollgate  requests, /s",
        "direct                                           50,000",
        "tollgate              100-110",
        "litellm           1,000-1,320       10-12",
    ]


def test_markdown_has_the_machine_the_peers_and_the_notes(record):
    record.note("haproxy is not installed here and was not measured")

    page = tables.markdown(record, machine=MACHINE, versions={"litellm": "1.2"}, date="2030-01-01")

    assert page.splitlines() == [
        MEASURED,
        "Beside it: litellm 1.2.",
        "",
        "| | plain: CPU per request, us |",
        "|---|---|",
        "| tollgate | 100 |",
        "| litellm | 1,000 (11 x) |",
        "",
        "- haproxy is not installed here and was not measured",
    ]


def test_document_has_every_value(record):
    document = tables.document(record)

    assert document["figures"][1] == {
        "part": "plain",
        "target": "tollgate",
        "name": "CPU per request",
        "unit": "us",
        "least": 100.0,
        "median": 105.0,
        "most": 110.0,
        "values": [100.0, 110.0],
    }
    assert document["ratios_to_tollgate"][0]["values"] == [10.0, 12.0]


def test_plot_is_an_svg_with_a_bar_for_each_target(record):
    root = ET.fromstring(plot_svg(record))

    texts = [element.text for element in root.iter("{http://www.w3.org/2000/svg}text")]
    bars = [element for element in root.iter("{http://www.w3.org/2000/svg}rect") if element.get("rx")]
    widths = [float(bar.get("width")) for bar in bars]
    assert "plain: CPU per request, us" in texts
    assert {"tollgate", "litellm"} <= set(texts)
    assert [bar.get("class") for bar in bars] == ["ours", "other"]
    assert 0 < widths[0] < widths[1]


def test_a_peer_that_fails_is_noted_and_left_out(record, said):
    with record.forgiving("plain", "litellm"):
        raise LoadError("it hung\nand more")

    assert record.notes == ["plain: litellm was not measured: it hung"]
    assert said[-1] == "  plain: litellm was not measured: it hung"


@pytest.mark.parametrize("target", ["tollgate", "direct"])
def test_what_is_ours_must_not_fail(record, target):
    with pytest.raises(LoadError), record.forgiving("plain", target):
        raise LoadError("it hung")


def test_failures_are_told_by_status(record):
    sample = Sample(
        seconds=1.0, statuses={0: 2, 200: 5, 429: 1}, latencies_s=(), first_bytes_s=(), refusals_s=()
    )

    record.note_failures("plain", "tollgate", sample)

    assert record.notes == ["plain: tollgate failed 3 requests (2 x no answer, 1 x 429)"]


@pytest.mark.parametrize(
    ("value", "text"), [(1234.5, "1,234"), (12.34, "12.3"), (1.234, "1.23"), (-5.0, "-5"), (0, "0")]
)
def test_numbers_have_three_digits(value, text):
    assert number(value) == text
