"""Which key an attempt is sent with, and what is tried where a key fails; upstreams are scripted."""

from dataclasses import replace

import pytest

from clusters.signing import BearerSigner, Key
from gateway.errors import OverloadedError, UpstreamAuthError, UpstreamTimeoutError
from gateway.sending import Message, Sender
from gateway.upstream import UpstreamFailure, UpstreamResponse
from tests.e2e.test_transport import new_target

KEYS = tuple(Key(id=name, label=name, signer=BearerSigner(name)) for name in ("a", "b", "c"))
MESSAGE = Message(path="/v1/chat/completions", body=b"{}", request_id="r", attempt_id="t", tokens=10)


class FakeAnswer:
    def __init__(self):
        self.is_closed = False

    async def aclose(self):
        self.is_closed = True


class FakeUpstreams:
    """Fails for the tokens that are named; notes who was asked with what."""

    def __init__(self, failures=(), *, headers=None):
        self.failures = dict(failures)
        self.headers = headers or {}
        self.asked = []

    async def send(self, *, target, **_message):
        token = target.signer.token
        self.asked.append(token)
        if token in self.failures:
            raise self.failures[token]
        return UpstreamResponse(headers=self.headers, chunks=None, answer=FakeAnswer())


def limited(wait_s=5.0):
    return UpstreamFailure(OverloadedError("slow"), is_sent=True, retry_after_s=wait_s)


def refused():
    return UpstreamFailure(UpstreamAuthError("no"), is_sent=True)


def sender_of(upstreams):
    return Sender(upstreams=upstreams, clock=lambda: 100.0, wall_clock_s=lambda: 0.0)


def target_of(*keys):
    return replace(new_target("http://a"), signer=BearerSigner("own"), keys=keys)


async def test_cluster_without_keys_is_asked_with_its_own_signer():
    upstreams = FakeUpstreams()
    sender = sender_of(upstreams)

    response, key = await sender.send(target_of(), MESSAGE)
    await sender.end(response, key)

    assert (upstreams.asked, key, response.answer.is_closed) == (["own"], None, True)


async def test_next_key_is_tried_and_given_back_at_the_end():
    upstreams = FakeUpstreams({"a": limited(), "b": refused()})
    sender = sender_of(upstreams)

    response, key = await sender.send(target_of(*KEYS), MESSAGE)
    in_flight = [sender.keyring._states[name].in_flight for name in "abc"]
    await sender.end(response, key)

    assert (upstreams.asked, key.id, in_flight) == (["a", "b", "c"], "c", [0, 0, 1])
    assert sender.keyring._states["c"].in_flight == 0
    assert response.answer.is_closed


@pytest.mark.parametrize(
    "failure",
    [
        UpstreamFailure(UpstreamTimeoutError("late"), is_sent=True),
        # No place for one more connection: nothing was sent, and no key is to blame.
        UpstreamFailure(OverloadedError("full"), is_sent=False, is_counted=False),
    ],
)
async def test_what_is_no_fault_of_a_key_is_the_clusters(failure):
    upstreams = FakeUpstreams({"a": failure})
    sender = sender_of(upstreams)

    with pytest.raises(UpstreamFailure) as raised:
        await sender.send(target_of(*KEYS), MESSAGE)

    assert (raised.value, upstreams.asked) == (failure, ["a"])
    assert sender.keyring._states["a"].in_flight == 0
    assert sender.keyring.wait_s(KEYS[:1], tokens=1, now_s=100.0) == 0.0


@pytest.mark.parametrize(
    "failures",
    [
        {"a": limited(30.0), "b": limited(20.0), "c": refused()},
        {"a": refused(), "b": limited(30.0), "c": limited(20.0)},
    ],
)
async def test_keys_that_are_all_limited_say_when_the_first_comes_back(failures):
    upstreams = FakeUpstreams(failures)
    sender = sender_of(upstreams)

    waits = []
    for _ in range(2):
        with pytest.raises(UpstreamFailure) as raised:
            await sender.send(target_of(*KEYS), MESSAGE)
        waits.append((type(raised.value.error), raised.value.retry_after_s, raised.value.is_sent))

    assert upstreams.asked == ["a", "b", "c"]
    assert waits == [(OverloadedError, 20.0, False)] * 2


async def test_only_keys_that_are_refused_are_the_operators_matter():
    upstreams = FakeUpstreams({"a": refused(), "b": refused()})

    with pytest.raises(UpstreamFailure) as raised:
        await sender_of(upstreams).send(target_of(*KEYS[:2]), MESSAGE)

    assert isinstance(raised.value.error, UpstreamAuthError)


async def test_answer_that_says_that_nothing_is_left_rests_its_key():
    headers = {"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "30s"}
    sender = sender_of(FakeUpstreams(headers=headers))

    await sender.send(target_of(KEYS[0]), MESSAGE)

    assert sender.keyring.wait_s(KEYS[:1], tokens=1, now_s=100.0) == 30.0
