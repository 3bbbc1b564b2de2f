"""What an answer says of itself besides its tokens: the service tier and the upstream's own cost."""

from datetime import UTC, datetime
from decimal import Decimal
from uuid import UUID

import orjson
import pytest

from billing.entries import Hold
from gateway.accounting import OutputBound, settlement_of
from gateway.attempt import Attempt, Reader
from gateway.completion import CompletionRequest
from gateway.outbox import Outbox
from gateway.patience import Patience
from gateway.streaming import DONE
from gateway.upstream import UpstreamFailure, UpstreamResponse
from routing.rate_record import rate_record
from routing.types import Candidate, Rate, RequestProfile, Usage
from tests.routing.values import deployment, profile

NOW = datetime(2030, 1, 2, 12, tzinfo=UTC)
USAGE = b'{"prompt_tokens":10,"completion_tokens":5,"cost":0.000123456}'


def flat(per_token_nanousd):
    microusd = per_token_nanousd * 1000
    return Rate.flat(input_microusd_per_mtok=microusd, output_microusd_per_mtok=microusd, source="test")


RATE = Rate(
    **{name: getattr(flat(2), name) for name in Rate.__slots__ if name not in ("tiers", "service_tiers")},
    tiers=((10, flat(3)), (1000, flat(8))),
    service_tiers=(("flex", flat(1)), ("priority", flat(9))),
)


def attempt_of(*, service_tier=None, rate=RATE, is_stream=False, document=None):
    given: RequestProfile = profile(prompt_tokens_max=100)
    request = CompletionRequest(
        surface="chat",
        model="m",
        is_stream=is_stream,
        wants_usage=True,
        body=orjson.dumps(document or {}),
        document=document or {},
        profile=given,
    )
    hold = Hold(
        attempt_id=UUID(int=1),
        request_id="req_1",
        owner=UUID(int=2),
        held_nanousd=10_000,
        claims=(),
        attribution={"rate": rate_record(rate=rate, input_tokens_max=100), "service_tier": service_tier},
        at=NOW,
    )
    return Attempt(
        request=request,
        target=None,  # type: ignore[arg-type]  # reading an answer asks nothing of its target
        candidate=Candidate(deployment=deployment(rate=rate), score=1.0, cost_nanousd=7),
        bound=OutputBound(tokens_max=50, is_injected=False),
        hold=hold,
        number=1,
        request_started_s=0.0,
        started_s=0.0,
    )


def reader():
    return Reader(
        ledger=None,  # type: ignore[arg-type]  # nothing is checkpointed in no time
        on_first_token=lambda _attempt: None,
        on_progress=lambda _attempt: None,
        clock=lambda: 0.0,
        wall_clock=lambda: NOW,
        response_bytes_max=1 << 20,
        line_bytes_max=1 << 20,
    )


async def chunks_of(*chunks):
    for chunk in chunks:
        yield chunk


def response_of(*chunks, **headers):
    return UpstreamResponse(
        headers={name.replace("_", "-"): value for name, value in headers.items()},
        chunks=chunks_of(*chunks),
        answer=None,  # type: ignore[arg-type]  # nobody closes it
    )


def plain(**members):
    head = orjson.dumps({"object": "chat.completion", "choices": [], **members})[:-1]
    return head + b',"usage":' + USAGE + b"}"


def settlement(attempt):
    return settlement_of(
        hold=attempt.hold,
        rate=attempt.candidate.deployment.rate,
        usage=attempt.usage(),
        service_tier_said=attempt.service_tier_said,
        reported_cost_nanousd=attempt.reported_cost_nanousd(),
        outcome="ok",
        ttft_ms=0,
        duration_ms=0,
        now=NOW,
    )


async def test_plain_answer_is_charged_at_the_tier_that_it_names_and_its_own_cost_is_kept():
    attempt = attempt_of(service_tier="flex")

    await reader().read_plain(attempt, response_of(plain(service_tier="flex")))
    settled = settlement(attempt)

    assert (settled.usage, settled.cost_nanousd, settled.reported_cost_nanousd, settled.service_tier) == (
        Usage(input_fresh_tokens=10, output_text_tokens=5),
        15 * 1,
        123_456,
        "flex",
    )
    assert settled.hold.attribution == {**attempt.hold.attribution, "rate": rate_record(rate=flat(1))}


async def test_plain_answer_of_no_tier_is_charged_at_its_context_tier():
    attempt = attempt_of(service_tier="flex")

    await reader().read_plain(attempt, response_of(plain()))
    settled = settlement(attempt)

    assert (settled.cost_nanousd, settled.service_tier) == (15 * 3, "")
    assert settled.hold.attribution["rate"] == rate_record(rate=flat(3))


async def test_rate_without_tiers_leaves_the_hold_as_it_was():
    attempt = attempt_of(rate=flat(2))

    await reader().read_plain(attempt, response_of(plain(service_tier="default")))

    assert settlement(attempt).hold is attempt.hold


async def test_header_of_a_plain_answer_is_its_cost_where_the_usage_has_none():
    attempt = attempt_of()
    body = plain().replace(b',"cost":0.000123456', b"")

    await reader().read_plain(attempt, response_of(body, x_litellm_response_cost="1.5e-05"))

    assert settlement(attempt).reported_cost_nanousd == 15_000


async def test_usage_that_is_impossible_leaves_the_cost_that_was_reported():
    attempt = attempt_of()
    body = plain().replace(b'"prompt_tokens":10', b'"prompt_tokens":-1')

    await reader().read_plain(attempt, response_of(body))
    settled = settlement(attempt)

    assert (settled.usage.is_estimate, settled.reported_cost_nanousd) == (True, 123_456)


async def test_words_of_a_request_are_kept_until_its_stream_has_begun():
    document = {"messages": [{"role": "user", "content": "a long prompt"}]}
    broken, begun = (attempt_of(is_stream=True, document=document) for _ in range(2))
    patience = Patience(first_byte_s=5, idle_s=5, total_s=5)
    frame = b'data: {"choices":[{"index":0,"delta":{"content":"a"},"finish_reason":"stop"}]}\n\n'

    async def relay(attempt, *frames):
        response = response_of(*frames, content_type="text/event-stream")
        await reader().relay_stream(attempt, response, Outbox(bytes_max=1 << 20), patience, headers=())

    async with patience:
        with pytest.raises(UpstreamFailure):
            await relay(broken)
        await relay(begun, frame, DONE)

    assert (broken.request.document, broken.request.body) == (document, orjson.dumps(document))
    assert (begun.request.document, begun.request.body) == ({}, b"")


@pytest.mark.parametrize(
    ("said", "charged", "cost"), [(b'"priority"', "priority", 15 * 9), (b"null", "", 15 * 3)]
)
async def test_stream_is_charged_at_the_tier_that_it_names(said, charged, cost):
    attempt = attempt_of(is_stream=True)
    start = b'data: {"service_tier":%b,"choices":[{"index":0,"delta":{},"finish_reason":' % said
    frames = [
        start + b"null}]}\n\n",
        start + b'"stop"}]}\n\n',
        b'data: {"choices":[],"usage":' + USAGE + b"}\n\n",
        b"data: [DONE]\n\n",
    ]
    patience = Patience(first_byte_s=5, idle_s=5, total_s=5)

    async with patience:
        await reader().relay_stream(
            attempt,
            response_of(*frames, content_type="text/event-stream"),
            Outbox(bytes_max=1 << 20),
            patience,
            headers=(),
        )
    settled = settlement(attempt)

    assert (settled.cost_nanousd, settled.service_tier, settled.reported_cost_nanousd) == (
        cost,
        charged,
        123_456,
    )
    assert attempt.reported_usage == {
        "prompt_tokens": 10,
        "completion_tokens": 5,
        "cost": Decimal("0.000123456"),
    }
