"""The overshoot harness in short: four processes of 64 clients at a hard budget, a seed of each mode."""

import pytest

from tests.overshoot.campaign import overshoot_campaign

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]


def test_hard_budget_is_never_exceeded_by_many_processes(tmp_path):
    with overshoot_campaign(tmp_path, processes=4, clients=64) as campaign:
        clamped = campaign.run_seed(1, mode="clamp")
        hard = campaign.run_seed(2, mode="hard")
        report = campaign.end()

    assert report["problems"] == []
    assert (report["overshoots"], report["refused_for_good"]) == (0, 2 * 256)
    for found in (clamped, hard):
        assert found["spent_nanousd"] == found["rows_nanousd"] <= found["limit_nanousd"]
