import json
from io import StringIO

import pytest
from django.core.management import call_command
from django.core.management.base import CommandError

NAMES = {
    "choice_alone",
    "others_read_with_nothing_new",
    "others_read_after_a_dispatch_of_each",
    "others_read_after_a_dispatch_and_first_token_of_each",
    "place_taken",
    "event_told",
}


def test_each_part_is_measured():
    out = StringIO()
    call_command("bench_exchange", "--choices", "100", "--processes", "2", "--json", stdout=out)
    measured = json.loads(out.getvalue())

    assert set(measured) == NAMES
    assert all(cpu_us > 0 for cpu_us in measured.values())


def test_table_has_a_line_for_each_part():
    out = StringIO()
    call_command("bench_exchange", "--choices", "10", "--processes", "3", stdout=out)

    assert len(out.getvalue().splitlines()) == len(NAMES)


@pytest.mark.parametrize(
    "options", [["--processes", "1"], ["--deployments", "0"], ["--choices", "1"], ["--processes", "65"]]
)
def test_senseless_numbers_are_refused(options):
    with pytest.raises(CommandError, match=rf"{options[0]} is {options[1]}: give a number from \d+ to \d+"):
        call_command("bench_exchange", *options)
