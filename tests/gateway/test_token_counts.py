"""Counting a prompt: only where the request might go, within bounds, and an estimate for the rest."""

import asyncio
import socket
import time

import orjson
import pytest

from gateway import token_counts
from gateway.portable_chat import portable_chat
from gateway.schemas import read_completion
from gateway.surfaces.messages import MESSAGES
from gateway.token_counts import TokenCount, TokenCounter
from gateway.upstream import Upstreams
from routing.types import Placement
from tests.fakes.provider_server import Replay, run_provider
from tests.gateway.snapshots import cluster_view, deployment_view, snapshot_of
from tests.gateway.test_fleet import WAKING

QUESTION = {"model": "llama", "messages": [{"role": "user", "content": "one two"}], "max_tokens": 1}
# Of the chat's 81 bytes.
ESTIMATE = TokenCount(tokens=21)


@pytest.fixture
async def counter():
    upstreams = Upstreams(connect_timeout_s=2, clock=time.monotonic, wall_clock_s=lambda: 0)
    yield TokenCounter(upstreams=upstreams, clock=time.monotonic)
    await upstreams.aclose()


def request_of(placement=None, **members):
    document = MESSAGES.translate({**QUESTION, **members}).document
    return read_completion(
        surface="chat",
        document=document,
        body=orjson.dumps(portable_chat(document)),
        needs_priced=False,
        placement=placement,
        is_translated=True,
    )


async def count(counter, *clusters, request=None):
    snapshot = snapshot_of(clusters=clusters)
    return await counter.count(request or request_of(), snapshot=snapshot, request_id="req_1")


def site(provider, *, name="a", **values):
    return cluster_view(
        id=name,
        name=name,
        endpoint=provider.url,
        allow_private_network=True,
        deployments=(deployment_view(id=f"d-{name}"),),
        **values,
    )


def test_estimate_is_the_houses():
    assert len(orjson.dumps(portable_chat(request_of().document))) == 81


async def test_vllm_counts_the_messages(counter):
    with run_provider(lambda received: Replay(document={"count": 12})) as vllm:
        counted = await count(counter, site(vllm))

    (received,) = vllm.received
    assert counted == TokenCount(tokens=12, cluster="a")
    assert (received.path, received.document) == (
        "/tokenize",
        {"model": "llama", "messages": QUESTION["messages"], "add_generation_prompt": True},
    )


async def test_llamacpp_fills_its_template_first(counter):
    answers = {"/apply-template": {"prompt": "user: one two"}, "/tokenize": {"tokens": [1, 2, 3]}}
    with run_provider(lambda received: Replay(document=answers[received.path])) as llama:
        counted = await count(counter, site(llama, backend="llamacpp"))

    assert counted == TokenCount(tokens=3, cluster="a")
    assert llama.received[1].document == {
        "content": "user: one two",
        "add_special": True,
        "parse_special": True,
    }


@pytest.mark.parametrize(
    "answer",
    [
        Replay(status=404, document={}),
        Replay(pieces=(b"<html>",)),
        Replay(document=[]),
        Replay(document={"count": -1}),
        Replay(document={"count": True}),
        Replay(document={"count": "12"}),
    ],
)
async def test_cluster_that_cannot_say_it_is_followed_by_the_next(counter, answer):
    with (
        run_provider(lambda _: answer) as first,
        run_provider(lambda _: Replay(document={"count": 5})) as second,
    ):
        counted = await count(counter, site(first), site(second, name="b"))

    assert counted == TokenCount(tokens=5, cluster="b")


async def test_two_clusters_are_asked_at_most(counter):
    with run_provider(lambda _: Replay(status=500, document={})) as broken:
        counted = await count(counter, *(site(broken, name=name) for name in "abc"))

    assert (counted, len(broken.received)) == (ESTIMATE, 2)


@pytest.mark.parametrize(
    "values",
    [
        {"backend": "sglang"},
        {"backend": "openai", "kind": "provider", "billing": "metered"},
        {"state": "disabled"},
        {"state": "draining"},
        {"temperature": "cold", "billing": "autoscaled", "waking": WAKING},
        {"region": "us-west-1"},
    ],
)
async def test_prompt_goes_nowhere_where_the_request_may_not(counter, values):
    placement = Placement(regions=frozenset({"us-east-1"}))
    with run_provider(lambda _: Replay(document={"count": 5})) as cluster:
        counted = await count(counter, site(cluster, **values), request=request_of(placement))

    assert (counted, cluster.received) == (ESTIMATE, [])


async def test_pictures_are_estimated(counter):
    source = {"type": "url", "url": "https://example.com/a.png"}
    message = {"role": "user", "content": [{"type": "image", "source": source}]}
    with run_provider(lambda _: Replay(document={"count": 5})) as cluster:
        counted = await count(counter, site(cluster), request=request_of(messages=[message]))

    assert (counted.cluster, cluster.received) == ("", [])
    assert counted.tokens > 1024


async def test_no_more_are_asked_at_once_than_is_allowed(counter, monkeypatch):
    monkeypatch.setattr(token_counts, "RUNNING_MAX", 2)
    with run_provider(lambda _: Replay(document={"count": 5})) as cluster:
        counts = await asyncio.gather(*(count(counter, site(cluster)) for _ in range(3)))
        again = await count(counter, site(cluster))

    assert sorted(each.cluster for each in counts) == ["", "a", "a"]
    assert again.cluster == "a"


async def test_silence_is_not_waited_for(counter, monkeypatch):
    monkeypatch.setattr(token_counts, "ASKED_S_MAX", 0.05)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        endpoint = f"http://127.0.0.1:{silent.getsockname()[1]}"
        counted = await count(counter, cluster_view(endpoint=endpoint, allow_private_network=True))

    assert counted == ESTIMATE


async def test_answer_that_is_too_long_is_none(counter, monkeypatch):
    monkeypatch.setattr(token_counts, "ANSWER_BYTES_MAX", 8)
    with run_provider(lambda _: Replay(document={"count": 5, "tokens": [1, 2]})) as cluster:
        counted = await count(counter, site(cluster))

    assert counted == ESTIMATE
