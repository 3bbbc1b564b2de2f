"""Two web processes behind one port: they keep limits together, and one may die."""

import asyncio
import contextlib
import os
import signal
from collections import Counter
from functools import partial
from pathlib import Path

import httpx
import pytest

from tests.e2e.conftest import audited_fleet
from tests.e2e.fleet import CHAT_PATH, wait_until
from tests.fakes.gateway_server import CLIENT_TIMEOUT_S, RunningGateway

pytestmark = pytest.mark.e2e

WORKERS = 2
BURST = 40
# So many new connections that each worker gets some: the kernel deals them out by their ports.
CONNECTIONS = 40


@pytest.fixture(scope="module")
def gateway(control, observer, tmp_path_factory):
    gateway = RunningGateway(
        env=control.env,
        log_path=tmp_path_factory.mktemp("log") / "gateway.log",
        settings_module="tests.e2e.gateway_settings",
        options=("--workers", str(WORKERS)),
    )
    gateway.wait_until_ready()
    wait_until(lambda: len(worker_pids(gateway)) == WORKERS)
    # Other gateways of this test run on the same data folder are peers too.
    wait_until(lambda: (peers_of(gateway) or 0) >= WORKERS - 1, within_s=20)
    yield gateway
    assert gateway.close() == 0


@pytest.fixture
def fleet(control, gateway, observer):
    with contextlib.contextmanager(audited_fleet)(control, gateway, observer) as fleet:
        yield fleet


def worker_pids(gateway):
    """The processes that serve, by their number."""
    children = Path(f"/proc/{gateway.process.pid}/task/{gateway.process.pid}/children").read_text().split()
    found = {}
    for pid in children:
        with contextlib.suppress(OSError):
            words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
            if b"--worker" in words:
                found[int(words[words.index(b"--worker") + 1])] = int(pid)
    return found


def ask(gateway, method, path, **options):
    """On a connection of its own, which any worker may get."""
    # Without TLS there is nothing to verify, and loading certificates takes a tenth of a second.
    with httpx.Client(base_url=gateway.url, timeout=CLIENT_TIMEOUT_S, verify=False) as client:
        return client.request(method, path, **options)


def all_know(fleet):
    """Every worker has read what was entered: none of many new connections finds one that has not."""
    fleet.ready()

    def is_known():
        headers = {"authorization": f"Bearer {fleet.keys[0].key}"}
        answers = [ask(fleet.gateway, "GET", "/v1/models", headers=headers) for _ in range(CONNECTIONS)]
        return all(
            answer.status_code == 200 and fleet.model in {entry["id"] for entry in answer.json()["data"]}
            for answer in answers
        )

    wait_until(is_known)


async def burst(fleet, key, *, count, **members):
    """So many requests at once, each on a connection of its own."""
    headers = {"authorization": f"Bearer {key.key}"}
    limits = httpx.Limits(max_connections=count)
    async with httpx.AsyncClient(
        base_url=fleet.gateway.url, headers=headers, timeout=CLIENT_TIMEOUT_S, limits=limits
    ) as client:
        chat = fleet.chat(**members)
        return await asyncio.gather(*(client.post(CHAT_PATH, json=chat) for _ in range(count)))


async def test_limit_of_a_cluster_holds_over_the_workers(fleet):
    slow = {"tokens_per_s": 1000.0, "ttft_ms": 500.0, "running_max": BURST}
    site = fleet.add_cluster(standin=slow, in_flight_max=4)
    key = fleet.issue_key()
    all_know(fleet)

    answers = await burst(fleet, key, count=BURST, max_tokens=5)

    assert Counter(answer.status_code for answer in answers) == {200: 4, 503: BURST - 4}
    assert site.received_count == 4
    assert len(fleet.settled_rows(key, count=4)) == 4


async def test_requests_in_a_row_never_pass_the_limit_and_use_all_of_it(fleet):
    """Callers that try again at once: places change hands between the workers all the time."""
    site = fleet.add_cluster(standin={"ttft_ms": 5.0, "running_max": BURST}, in_flight_max=4)
    key = fleet.issue_key()
    all_know(fleet)
    engine = site.standin.app._engine
    peaks, answers = [], []

    async def watch():
        while len(answers) < 160:
            peaks.append(len(engine.running) + len(engine.waiting))
            await asyncio.sleep(0.001)

    async def ask_again_and_again():
        for _ in range(10):
            answers.extend(await burst(fleet, key, count=16, max_tokens=2))

    await asyncio.gather(watch(), ask_again_and_again())

    served = [answer for answer in answers if answer.status_code == 200]
    assert {answer.status_code for answer in answers} <= {200, 503}
    assert max(peaks) <= 4
    assert len(served) >= 40
    fleet.settled_rows(key, count=len(served))


async def test_counters_of_all_workers_are_summed_up(fleet):
    site = fleet.add_cluster()
    key = fleet.issue_key()
    all_know(fleet)
    await burst(fleet, key, count=20, max_tokens=1)
    fleet.settled_rows(key, count=20)

    wait_until(lambda: fleet.gateway.metrics()["gateway_in_flight_requests"] == 0.0)
    wait_until(lambda: fleet.gateway.metrics()["gateway_exchange_peers"] >= WORKERS - 1)
    # Each worker tells what it counted once a second.
    answered = f'llm_router_requests_total{{cluster="{site.name}",status="success"}}'
    wait_until(lambda: fleet.gateway.metrics().get(answered) == 20.0)
    seen = fleet.gateway.metrics()
    labels = f'cluster="{site.name}",provider="hetzner",region="eu-1"'
    assert f"llm_router_cluster_health{{{labels}}}" in seen


def test_cluster_that_is_dead_gets_no_more_from_two_workers_than_from_one(fleet):
    fleet.add_cluster(is_dead=True)
    fleet.add_cluster()
    key = fleet.issue_key()
    all_know(fleet)
    headers = {"authorization": f"Bearer {key.key}"}

    statuses = [
        ask(fleet.gateway, "POST", CHAT_PATH, json=fleet.chat(max_tokens=3), headers=headers).status_code
        for _ in range(40)
    ]

    rows = fleet.settled_rows(key, count=45)
    assert statuses == [200] * 40
    assert Counter(row["outcome"] for row in rows) == {"ok": 40, "failed": 5}


async def test_places_of_a_killed_worker_come_free(fleet):
    site = fleet.add_cluster(standin={"tokens_per_s": 20.0}, in_flight_max=4)
    key = fleet.issue_key()
    all_know(fleet)
    long = asyncio.ensure_future(burst(fleet, key, count=4, max_tokens=200, stream=True))
    await asyncio.to_thread(wait_until, lambda: site.received_count == 4)
    full = [answer.status_code for answer in await burst(fleet, key, count=4, max_tokens=1)]

    # One after the other, so that there always is one that serves: whoever held the places is dead then.
    for number in (1, 2):
        peers = peers_of(fleet.gateway)
        os.kill(worker_pids(fleet.gateway)[number], signal.SIGKILL)
        if number == WORKERS:
            await until_all_are_served(fleet, key, count=4)
        await asyncio.to_thread(wait_until, lambda: len(worker_pids(fleet.gateway)) == WORKERS, within_s=20)
        known = partial(knows_as_many, fleet.gateway, peers)
        await asyncio.to_thread(wait_until, known, within_s=20)
    with contextlib.suppress(httpx.TransportError):
        await long

    assert full == [503] * 4
    # What is in doubt waits for its operator: the audit of settled keys is not for this one.
    fleet.keys.remove(key)


def knows_as_many(gateway, peers):
    return peers_of(gateway) == peers


def peers_of(gateway):
    """What the least informed worker knows of others; None while nobody answers."""
    with contextlib.suppress(httpx.TransportError):
        lines = ask(gateway, "GET", "/metrics").text.splitlines()
        told = (float(line.split()[1]) for line in lines if line.startswith("gateway_exchange_peers "))
        # The series is gone while a worker is dead and the other has not told again.
        return next(told, None)
    return None


async def until_all_are_served(fleet, key, *, count):
    async with asyncio.timeout(15):
        while True:
            with contextlib.suppress(httpx.TransportError):
                answers = await burst(fleet, key, count=count, max_tokens=1)
                if [answer.status_code for answer in answers] == [200] * count:
                    return
