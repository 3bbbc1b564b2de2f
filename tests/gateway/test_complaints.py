"""What a process tells the control plane of clusters that its breakers avoid."""

from datetime import UTC, datetime, timedelta

import pytest

from gateway import complaints
from gateway.complaints import Complaints
from routing.breaker import Breaker
from routing.learning import NOTHING_LEARNT, DeploymentState
from tests.fakes.desk_threads import DeskThreads
from tests.gateway.snapshots import keeper_of

NOW = datetime(2030, 1, 1, tzinfo=UTC)
NOW_S = 100.0
OPEN = DeploymentState(breaker=Breaker(open_until_s=NOW_S + 5.0, opened_at_s=NOW_S))


class Scene:
    def __init__(self, monkeypatch):
        self.told, self.states, self.threads = [], {}, DeskThreads()
        monkeypatch.setattr(complaints, "note_traffic", lambda **values: self.told.append(values))
        self.complaints = Complaints(
            keeper=keeper_of(),
            states=self.states,
            threads=self.threads,
            clock=lambda: NOW_S,
            wall_clock=lambda: NOW,
        )

    async def tell(self):
        self.told.clear()
        await self.complaints.tell()
        return list(self.told)


@pytest.fixture
def scene(monkeypatch):
    return Scene(monkeypatch)


AVOIDED = {"avoided": {"aws": NOW + timedelta(seconds=5)}, "recovered": [], "now": NOW}
RECOVERED = {"avoided": {}, "recovered": ["aws"], "now": NOW}


async def test_opened_breaker_is_told_once_and_its_closing_too(scene):
    scene.states["d1"] = NOTHING_LEARNT
    assert await scene.tell() == []

    scene.states["d1"] = OPEN
    assert (await scene.tell(), await scene.tell()) == ([AVOIDED], [])

    scene.states["d1"] = NOTHING_LEARNT
    assert (await scene.tell(), await scene.tell()) == ([RECOVERED], [])


async def test_breaker_that_opens_for_longer_is_told_again(scene):
    scene.states["d1"] = OPEN
    await scene.tell()

    scene.states["d1"] = DeploymentState(breaker=Breaker(open_until_s=NOW_S + 9.0, opened_at_s=NOW_S))

    assert await scene.tell() == [{**AVOIDED, "avoided": {"aws": NOW + timedelta(seconds=9)}}]


async def test_what_could_not_be_told_is_told_at_the_next_look(scene):
    scene.states["d1"] = OPEN
    scene.threads.is_down = True
    assert await scene.tell() == []

    scene.threads.is_down = False

    assert await scene.tell() == [AVOIDED]


async def test_deployment_that_was_deleted_is_nobodys(scene):
    scene.states["gone"] = OPEN

    assert await scene.tell() == []
