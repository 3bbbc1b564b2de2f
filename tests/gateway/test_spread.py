"""Requests to a name of which each address is a server of its own: real sockets, a resolver of the test's."""

import asyncio
from contextlib import AsyncExitStack

import pytest

from clusters.signing import TlsIdentity
from gateway import upstream
from gateway.spread import REST_S
from gateway.upstream import UpstreamFailure, Upstreams
from tests.clusters.rows import certificate_and_key
from tests.fakes.raw_server import OK, answering, run_raw
from tests.gateway.test_connection_pool import now, server_context
from tests.gateway.test_upstream import NOW_S, new_target, read_whole, send

# Loopback has more addresses than one.
pytestmark = pytest.mark.allow_hosts([f"127.0.0.{number}" for number in range(1, 10)])

HOSTS = ("127.0.0.1", "127.0.0.2", "127.0.0.3")
ABSENT = b"HTTP/1.1 503 Starting\r\ncontent-length: 0\r\n\r\n"


class Scene:
    """A name, what it resolves to, and the time."""

    def __init__(self, monkeypatch, port):
        self.now_s = 0.0
        self.addresses = list(HOSTS)
        self.asked_count = 0
        self.upstreams = Upstreams(connect_timeout_s=2, clock=lambda: self.now_s, wall_clock_s=lambda: NOW_S)
        monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", self._find)
        self.target = new_target(port, host="pods.example", expands_addresses=True)

    async def _find(self, _host, port, **_options):
        self.asked_count += 1
        if not self.addresses:
            raise OSError("the resolver is away")
        return [(None, None, None, "", (address, port)) for address in self.addresses]

    async def ask(self, times=1):
        for _ in range(times):
            await read_whole(self.upstreams, self.target)

    async def failure_of_two(self):
        """Of two requests the one that failed."""
        with pytest.raises(UpstreamFailure) as failed:
            await self.ask(times=2)
        return failed.value


@pytest.fixture
async def pods():
    """Three servers at one port of three addresses; each may be given other words."""
    async with AsyncExitStack() as stack:
        first = await stack.enter_async_context(run_raw(answering(OK)))
        others = [
            await stack.enter_async_context(run_raw(answering(OK), host=host, port=first.port))
            for host in HOSTS[1:]
        ]
        yield [first, *others]


@pytest.fixture
async def scene(monkeypatch, pods):
    scene = Scene(monkeypatch, pods[0].port)
    yield scene
    await scene.upstreams.aclose()


def request_counts(pods):
    return [len(pod.requests) for pod in pods]


async def test_requests_go_to_all_addresses_in_turn_under_the_one_name(scene, pods):
    await scene.ask(times=6)

    assert request_counts(pods) == [2, 2, 2]
    assert [len(pod.connections) for pod in pods] == [1, 1, 1]
    heads = {head.split(b"\r\n")[1] for pod in pods for head, _ in pod.requests}
    assert heads == {b"host: pods.example:%d" % pods[0].port}


async def test_address_with_fewer_requests_under_way_is_preferred(scene, pods):
    held = [await send(scene.upstreams, scene.target) for _ in range(2)]

    await scene.ask(times=3)

    assert request_counts(pods) == [1, 1, 3]
    for answer in held:
        await answer.aclose()


async def test_address_that_refuses_is_skipped_and_tried_again_after_its_rest(scene, pods):
    scene.addresses = ["127.0.0.9", *HOSTS[:2]]

    await scene.ask(times=4)
    assert request_counts(pods) == [2, 2, 0]

    # The server is there again, at the address that rested.
    async with run_raw(answering(OK), host="127.0.0.9", port=pods[0].port) as revived:
        scene.now_s = REST_S - 0.1
        await scene.ask(times=3)
        assert len(revived.requests) == 0
        scene.now_s = REST_S
        await scene.ask(times=3)
        assert len(revived.requests) == 1


async def test_address_that_says_it_is_not_ready_is_avoided(scene, pods):
    scene.addresses = ["127.0.0.9", "127.0.0.1"]
    async with run_raw(answering(ABSENT), host="127.0.0.9", port=pods[0].port) as starting:
        failed = await scene.failure_of_two()
        await scene.ask(times=3)

        assert (failed.is_of_address, failed.is_counted) == (True, False)
        assert (len(starting.requests), request_counts(pods)) == (1, [4, 0, 0])


async def test_cluster_of_which_no_address_takes_connections_fails_as_one(scene, pods):
    scene.addresses = ["127.0.0.7", "127.0.0.8", "127.0.0.9"]

    with pytest.raises(UpstreamFailure) as failed:
        await scene.ask()

    assert (failed.value.error.code, failed.value.is_sent) == ("upstream_unreachable", False)
    assert (failed.value.is_of_address, failed.value.is_counted) == (False, True)


async def test_address_that_dies_with_a_request_speaks_against_itself_alone(scene, pods):
    scene.addresses = ["127.0.0.9", "127.0.0.1"]
    async with run_raw(answering(then="close"), host="127.0.0.9", port=pods[0].port) as dying:
        failed = await scene.failure_of_two()
        await scene.ask(times=3)

        assert (failed.is_sent, failed.is_of_address, failed.is_counted) == (True, True, False)
        assert (len(dying.requests), request_counts(pods)) == (1, [4, 0, 0])


@pytest.mark.parametrize(
    ("addresses", "is_of_address"), [(["127.0.0.9"], False), (["127.0.0.9", HOSTS[0]], True)]
)
async def test_answer_that_breaks_off_speaks_against_the_cluster_where_it_has_one_address(
    scene, pods, addresses, is_of_address
):
    scene.addresses = addresses
    half = b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhalf"
    async with run_raw(answering(half, then="close"), host="127.0.0.9", port=pods[0].port):
        failed = await scene.failure_of_two()

    assert (failed.is_of_address, failed.is_counted) == (is_of_address, not is_of_address)


async def test_new_address_is_used_and_a_vanished_one_drains(scene, pods):
    scene.addresses = list(HOSTS[:2])
    held = await send(scene.upstreams, scene.target)
    await scene.ask(times=2)
    before = request_counts(pods)

    scene.addresses = list(HOSTS[1:])
    scene.now_s = upstream.EXPANDED_FOR_S
    await scene.ask(times=4)

    assert before == [1, 2, 0]
    assert request_counts(pods) == [1, 4, 2]
    # What ran there goes on to its end, and its connection is closed then.
    assert b"".join([chunk async for chunk in held.chunks]) == b"hi"
    await held.aclose()
    assert await until(lambda: pods[0].closed_count == 1)


async def test_resolver_that_fails_leaves_the_addresses_for_a_minute(scene, pods):
    await scene.ask()

    scene.addresses = []
    for scene.now_s in (3.0, 6.0, 58.0):
        await scene.ask()
    scene.now_s = upstream.RESOLVED_FOR_S + 2
    with pytest.raises(UpstreamFailure) as failed:
        await scene.ask()

    assert failed.value.error.message == "Cluster site has no address: its name cannot be resolved."
    assert scene.asked_count == 5


async def test_one_refused_address_is_never_connected_to(scene, pods):
    scene.addresses = ["127.0.0.1", "169.254.169.254"]

    with pytest.raises(UpstreamFailure) as failed:
        await scene.ask()

    assert failed.value.error.message == "Cluster site resolves to an address that is not allowed."
    assert request_counts(pods) == [0, 0, 0]


async def until(condition):
    """True once it holds; the loop's own rounds are all it takes."""
    for _ in range(200):
        if condition():
            return True
        await asyncio.sleep(0.005)
    return False


async def test_address_that_does_not_prove_to_be_the_name_gets_nothing(monkeypatch, tmp_path):
    certificate, key = certificate_and_key(name="localhost", now=now())
    tls = TlsIdentity(ca_pem=certificate.encode())
    context = server_context(certificate, key, tmp_path)
    stranger = server_context(*certificate_and_key(name="localhost", now=now()), tmp_path)
    async with (
        run_raw(answering(OK), context=context) as pod,
        run_raw(answering(OK), context=stranger, host="127.0.0.2", port=pod.port) as other,
    ):
        scene = Scene(monkeypatch, pod.port)
        scene.addresses = list(HOSTS[:2])
        scene.target = new_target(pod.port, scheme="https", host="localhost", tls=tls, expands_addresses=True)
        await scene.ask(times=4)
        await scene.upstreams.aclose()

    assert (len(pod.requests), len(other.requests)) == (4, 0)
