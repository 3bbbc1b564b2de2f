"""An autoscaled cluster that sleeps: two processes spill, one call wakes it, and traffic comes home."""

import asyncio
import contextlib

import httpx
import pytest

from clusters.demo.standin import StandinSettings
from clusters.verifying.signatures import Verifier
from tests.e2e.conftest import audited_fleet
from tests.e2e.fleet import CHAT_PATH, wait_until
from tests.fakes.gateway_server import CLIENT_TIMEOUT_S, RunningGateway
from tests.fakes.scaler import run_scaler

pytestmark = pytest.mark.e2e

SECRET = "shared-with-the-scaler"
TICK_S = 0.2
WAKING_S_MAX = 15.0
WARM_UP_S = 1.0
CONNECTIONS = 12


@pytest.fixture(scope="module")
def gateway(control, observer, tmp_path_factory):
    gateway = RunningGateway(
        env=control.env,
        log_path=tmp_path_factory.mktemp("log") / "gateway.log",
        settings_module="tests.e2e.gateway_settings",
        options=("--workers", "2"),
    )
    gateway.wait_until_ready()
    yield gateway
    assert gateway.close() == 0


@pytest.fixture
def fleet(control, gateway, observer):
    with contextlib.contextmanager(audited_fleet)(control, gateway, observer) as fleet:
        yield fleet


@pytest.fixture
def scaler(fleet):
    settings = StandinSettings(models=(fleet.model,), tokens_per_s=2000.0)
    with run_scaler(settings, warm_up_s=WARM_UP_S) as running:
        yield running


class Scene:
    """A cluster that sleeps, and a route to it by `marginal`."""

    def __init__(self, fleet, scaler, *, provider=True, warm_up_s=2, **route):
        self.fleet, self.scaler = fleet, scaler
        self.own = fleet.add_cluster(
            is_dead=True,
            endpoint=scaler.url,
            billing="autoscaled",
            wake_url=scaler.hook.url,
            wake_auth="hmac",
            warm_up_s=warm_up_s,
        )
        fleet.control.call("put_wake_secret", cluster=self.own.name, secret=SECRET)
        self.provider = fleet.add_cluster(kind="provider") if provider else None
        self.key = fleet.issue_key()
        self.model = f"sleepy-{fleet.token}"
        fleet.add_route(model=self.model, candidates=[fleet.model], policy="marginal", **route)
        # The probe finds nobody there.
        assert self.tick() == []
        assert self.cluster()["temperature"] == "cold"
        fleet.ready()

    def tick(self):
        return self.fleet.control.call("tick")

    def cluster(self):
        return self.fleet.control.call("get_cluster", name=self.own.name)

    async def ask(self, **headers):
        """On a connection of its own, which either process may get."""
        async with httpx.AsyncClient(timeout=CLIENT_TIMEOUT_S, verify=False) as client:
            return await client.post(
                self.fleet.gateway.url + CHAT_PATH,
                json={**self.fleet.chat(standin_completion_tokens=3), "model": self.model},
                headers={"authorization": f"Bearer {self.key.key}", **headers},
            )

    async def tick_until(self, condition):
        async with asyncio.timeout(WAKING_S_MAX):
            while not condition():
                await asyncio.to_thread(self.tick)
                await asyncio.sleep(TICK_S)

    async def all_know(self, temperature):
        """Both processes: of so many new connections each gets some."""
        name = f'gateway_cluster_temperature{{cluster="{self.own.name}"}} {temperature}'

        async def look(client):
            return name in (await client.get(f"{self.fleet.gateway.url}/metrics")).text

        async with asyncio.timeout(WAKING_S_MAX):
            while True:
                found = []
                for _ in range(CONNECTIONS):
                    async with httpx.AsyncClient(timeout=CLIENT_TIMEOUT_S, verify=False) as client:
                        found.append(await look(client))
                if all(found):
                    return

    def is_warm(self):
        return self.cluster()["temperature"] == "warm"


def served_by(answers):
    assert [answer.status_code for answer in answers] == [200] * len(answers), answers[-1].text
    return {answer.headers["x-gateway-cluster"] for answer in answers}


async def asleep(fleet, scaler, **values):
    """The scene, once both processes know that the cluster is cold."""
    scene = Scene(fleet, scaler, **values)
    await scene.all_know(0.0)
    return scene


async def test_spill_past_the_break_even_wakes_the_cluster_once_and_traffic_comes_home(fleet, scaler):
    scene = await asleep(fleet, scaler)
    own, provider = scene.own.name, scene.provider.name
    few = [await scene.ask() for _ in range(2)]
    await asyncio.to_thread(wait_until, lambda: scene.cluster()["woken"]["spilt_nanousd"] > 0)
    early = scene.tick()
    # A replica costs $0.36 an hour: in a minute two of them $0.012. An answer of the length that is expected
    # of one costs $0.0019 at the provider.
    many = await asyncio.gather(*(scene.ask() for _ in range(20)))
    await scene.tick_until(lambda: scaler.hook.received)
    await scene.all_know(1.0)
    waking = [await scene.ask() for _ in range(3)]
    between = scene.cluster()
    await scene.tick_until(scene.is_warm)
    await scene.all_know(2.0)
    home = await asyncio.gather(*(scene.ask() for _ in range(10)))
    for _ in range(3):
        scene.tick()

    assert (early, served_by(few + many + waking), served_by(home)) == ([], {provider}, {own})
    assert scaler.hook.asked == [{"cluster": own, "replicas_wanted": 1, "reason": "spill"}]
    ((path, headers, body),) = scaler.hook.received
    problem = Verifier(secrets=[SECRET]).verify(
        method="POST",
        authority=headers["host"],
        path=path,
        query="",
        headers=headers,
        body=body,
        now_s=int(headers["x-timestamp"]),
    )
    assert problem is None
    assert between["temperature"] == "waking"
    warm = scene.cluster()
    assert (warm["temperature"], warm["replica_count"], warm["woken"]["warm_up_count"]) == ("warm", 1, 1)
    assert 300 < warm["woken"]["warm_up_ms"] < 8000
    rows = fleet.settled_rows(scene.key, count=35)
    reasons = [[reason for _, reason in row["decision"]["excluded"]] for row in rows]
    assert (reasons[0], reasons[24], reasons[-1]) == (["cold"], ["waking"], [])


async def test_route_that_waits_holds_requests_until_its_cluster_is_warm(fleet, scaler):
    scene = await asleep(fleet, scaler, while_waking="wait", queue_places_max=20, queue_wait_ms_max=12_000)
    asking = [asyncio.ensure_future(scene.ask()) for _ in range(4)]
    await scene.tick_until(scene.is_warm)
    answers = await asyncio.gather(*asking)

    assert served_by(answers) == {scene.own.name}
    assert scene.provider.received_count == 0
    assert scaler.hook.asked == [{"cluster": scene.own.name, "replicas_wanted": 1, "reason": "request"}]
    assert all(int(answer.headers["x-gateway-queue-wait-ms"]) > 300 for answer in answers)
    fleet.settled_rows(scene.key, count=4)


async def test_request_with_nowhere_else_to_go_wakes_the_cluster_and_waits(fleet, scaler):
    scene = await asleep(fleet, scaler, provider=False, queue_places_max=20, queue_wait_ms_max=12_000)
    asking = asyncio.ensure_future(scene.ask())
    await scene.tick_until(scene.is_warm)
    answer = await asking

    assert served_by([answer]) == {scene.own.name}
    assert len(scaler.hook.received) == 1
    fleet.settled_rows(scene.key, count=1)


async def test_who_cannot_wait_is_told_when_the_cluster_should_answer_and_it_is_woken_still(fleet, scaler):
    scene = await asleep(
        fleet, scaler, provider=False, warm_up_s=90, queue_places_max=20, queue_wait_ms_max=12_000
    )
    hasty, patient = await scene.ask(**{"x-gateway-max-wait": "0"}), await scene.ask()
    await scene.tick_until(scene.is_warm)
    await scene.all_know(2.0)
    later = await scene.ask()

    for refused in (hasty, patient):
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "cluster_asleep")
        assert refused.headers["retry-after"] == "90"
        assert "is asleep and is being woken" in refused.json()["error"]["message"]
    assert served_by([later]) == {scene.own.name}
    fleet.settled_rows(scene.key, count=1)


async def test_without_a_worker_requests_spill_and_nobody_is_woken(fleet, scaler):
    scene = await asleep(fleet, scaler)
    answers = await asyncio.gather(*(scene.ask() for _ in range(20)))

    assert served_by(answers) == {scene.provider.name}
    assert scaler.hook.received == []
    fleet.settled_rows(scene.key, count=20)


async def test_hook_that_fails_costs_requests_nothing(fleet, scaler):
    scene = await asleep(fleet, scaler)
    scaler.hook.status = 500
    answers = await asyncio.gather(*(scene.ask() for _ in range(20)))
    await scene.tick_until(lambda: scaler.hook.received)
    answers.append(await scene.ask())

    woken = scene.cluster()["woken"]
    assert served_by(answers) == {scene.provider.name}
    assert (woken["failure_count"], woken["error"]) == (1, "the wake hook answers HTTP 500")
    fleet.settled_rows(scene.key, count=21)
