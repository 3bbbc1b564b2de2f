"""The crash harness in short: every named point once, a few kills at random, and three ledgers compared."""

import pytest

from tests.crash.campaign import Tally, compare_ledgers, kill_at_random, pass_points
from tests.crash.fleet import crash_fleet
from tests.crash.points import POINTS

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.timeout(180)]

RANDOM_KILLS = 5


async def test_crash_loses_and_doubles_no_money(tmp_path):
    async with crash_fleet(tmp_path, worker_count=2, seed=1) as fleet:
        tally = Tally()

        assert await fleet.workers[1].start()
        await pass_points(fleet, tally)
        await kill_at_random(fleet, tally, kills=RANDOM_KILLS, requests=100, callers=8)
        report = await compare_ledgers(fleet, tally)

        assert {promise: problems for promise, problems in tally.problems.items() if problems} == {}
        assert tally.points == [point.name for point in POINTS]
        assert report["kills"] >= len(POINTS) + RANDOM_KILLS
        assert report["completed"] > 50
        assert fleet.logged_errors() == []
