"""Who may enter: the order of the refusals, and that a refusal takes nothing."""

import pytest

from billing.limits import LimitView
from billing.principals import Principal
from gateway.admission import Admission
from gateway.errors import (
    DrainingError,
    GatewayError,
    ModelNotFoundError,
    OverloadedError,
    PermissionDeniedError,
    RateLimitError,
)
from gateway.ratelimit import LocalLimiter
from gateway.schemas import decode_completion
from tests.gateway.snapshots import snapshot_of

SNAPSHOT = snapshot_of()


class FakeClock:
    def __init__(self):
        self.now_s = 1000.0

    def __call__(self):
        return self.now_s


def principal_of(**values):
    return Principal(
        **{
            "key_id": "k",
            "key_name": "ci",
            "prefix": "tg_abcdefgh",
            "team": "red",
            "organisation": "acme",
            "allowed_models": None,
            "expires_at": None,
            "revoked_at": None,
            "limits": (),
            "model_limits": {},
            "budgets": (),
            **values,
        }
    )


def limit_of(scope="key:k", label="API key tg_abcdefgh…", **values):
    return LimitView(
        **{"scope": scope, "label": label, "rpm_max": None, "tpm_max": None, "concurrent_max": None, **values}
    )


def request_of(*, model="llama", tokens=100):
    """A chat whose prompt is estimated at so many tokens: four bytes each."""
    empty = b'{"model":"%b","messages":[{"role":"user","content":"%b"}]}'
    padding = tokens * 4 - len(empty % (model.encode(), b""))
    body = empty % (model.encode(), b"x" * padding)
    return decode_completion(surface="chat", body=body, depth_max=64, needs_priced=False)


def admission_of(*, clock=None, in_flight_max=10):
    return Admission(limiter=LocalLimiter(clock=clock or FakeClock()), in_flight_max=in_flight_max)


async def admit(admission, *, request=None, **values):
    """`values` are of the principal, or limits of its key."""
    limits = {name: values.pop(name) for name in ("rpm_max", "tpm_max", "concurrent_max") if name in values}
    if limits:
        values["limits"] = (limit_of(**limits),)
    return await admission.admit(
        principal=principal_of(**values), request=request or request_of(), snapshot=SNAPSHOT
    )


async def refusal_of(admission, **values):
    with pytest.raises(GatewayError) as caught:
        await admit(admission, **values)
    return caught.value


async def test_request_that_is_admitted_holds_a_place_until_it_is_released_once():
    admission = admission_of()

    first, second = await admit(admission), await admit(admission)
    assert (first.demands, first.headers, admission.in_flight) == ((), (), 2)

    admission.release(first, tokens_used=5)
    admission.release(first, tokens_used=5)
    assert admission.in_flight == 1

    admission.release(second, tokens_used=0)
    assert admission.in_flight == 0


async def test_model_that_does_not_exist_is_refused():
    error = await refusal_of(admission_of(), request=request_of(model="gone"))

    assert (type(error), error.param, error.message) == (
        ModelNotFoundError,
        "model",
        "The model `gone` does not exist here; GET /v1/models lists those you may use.",
    )


async def test_model_that_the_key_may_not_use_is_refused():
    error = await refusal_of(admission_of(), allowed_models=frozenset({"qwen"}))

    assert (type(error), error.param, error.message) == (
        PermissionDeniedError,
        "model",
        "API key tg_abcdefgh… may not use `llama`; its models are set in Admin > Keys.",
    )


async def test_key_without_a_single_model_may_use_none():
    assert type(await refusal_of(admission_of(), allowed_models=frozenset())) is PermissionDeniedError


async def test_full_process_refuses_and_admits_again_after_a_release():
    admission = admission_of(in_flight_max=1)
    ticket = await admit(admission)

    error = await refusal_of(admission)
    assert (type(error), error.message, admission.in_flight) == (
        OverloadedError,
        "This gateway is serving its limit of 1 requests.",
        1,
    )

    admission.release(ticket, tokens_used=0)
    assert (await admit(admission)).headers == ()


async def test_draining_process_refuses_before_it_says_that_it_is_full():
    admission = admission_of(in_flight_max=0)
    admission.is_draining = True

    error = await refusal_of(admission)

    assert (type(error), error.message) == (
        DrainingError,
        "This gateway is shutting down; send the request again.",
    )


async def test_headers_say_what_is_left_of_each_limit():
    ticket = await admit(admission_of(), rpm_max=60, tpm_max=600)

    assert ticket.headers == (
        ("x-ratelimit-limit-requests", "60"),
        ("x-ratelimit-remaining-requests", "59"),
        ("x-ratelimit-reset-requests", "1m1s"),
        ("x-ratelimit-limit-tokens", "600"),
        ("x-ratelimit-remaining-tokens", "500"),
        ("x-ratelimit-reset-tokens", "1m1s"),
    )


async def test_request_over_its_limit_of_requests_is_refused_and_takes_no_tokens():
    admission, limits = admission_of(), {"rpm_max": 1, "tpm_max": 600}
    await admit(admission, **limits)

    error = await refusal_of(admission, **limits)

    assert (type(error), error.message, admission.in_flight) == (
        RateLimitError,
        "The API key tg_abcdefgh… is over its limit of 1 requests per minute; try again in 61.0 s.",
        1,
    )
    assert error.headers == (
        ("x-ratelimit-limit-requests", "1"),
        ("x-ratelimit-remaining-requests", "0"),
        ("x-ratelimit-reset-requests", "1m1s"),
        ("x-ratelimit-limit-tokens", "600"),
        ("x-ratelimit-remaining-tokens", "500"),
        ("x-ratelimit-reset-tokens", "1m1s"),
        ("retry-after", "61"),
        ("retry-after-ms", "61000"),
    )
    headers = dict((await admit(admission, tpm_max=600)).headers)
    assert headers["x-ratelimit-remaining-tokens"] == "400"


async def test_request_over_its_limit_of_tokens_is_refused_and_takes_no_request():
    admission, limits = admission_of(), {"rpm_max": 60, "tpm_max": 150}
    await admit(admission, **limits)

    errors = [await refusal_of(admission, **limits) for _ in range(3)]

    assert {(type(error), error.message) for error in errors} == {
        (
            RateLimitError,
            "The API key tg_abcdefgh… is over its limit of 150 tokens per minute; try again in 61.0 s.",
        )
    }
    headers = dict((await admit(admission, rpm_max=60)).headers)
    assert headers["x-ratelimit-remaining-requests"] == "58"


async def test_request_that_can_never_fit_is_told_so_and_not_to_try_again():
    error = await refusal_of(admission_of(), tpm_max=99)

    assert error.message == (
        "This request needs about 100 tokens, more than the 99 per minute of the API key tg_abcdefgh…: "
        "make it shorter, or raise the limit in the admin."
    )
    assert ("x-should-retry", "false") in error.headers


@pytest.mark.parametrize(("tokens_used", "remaining"), [(100, "400"), (0, "500"), (300, "200")])
async def test_true_tokens_replace_the_estimate(tokens_used, remaining):
    admission = admission_of()
    admission.release(await admit(admission, tpm_max=600), tokens_used=tokens_used)

    headers = dict((await admit(admission, tpm_max=600)).headers)

    assert headers["x-ratelimit-remaining-tokens"] == remaining


async def test_tokens_used_beyond_the_limit_are_waited_for():
    clock = FakeClock()
    admission = admission_of(clock=clock)
    admission.release(await admit(admission, tpm_max=600), tokens_used=1200)

    # The hundred of its like wait until all of it is forgotten, a minute after it ended.
    clock.now_s += 60.9
    assert type(await refusal_of(admission, tpm_max=600)) is RateLimitError
    clock.now_s += 0.1
    assert (await admit(admission, tpm_max=600)).demands[0].amount == 100


async def test_limits_of_key_team_and_model_bind_together():
    admission = admission_of()
    limits = (limit_of(rpm_max=60), limit_of("team:t", 'team "red"', rpm_max=50, concurrent_max=2))
    model_limits = {"llama": (limit_of("model:llama", "model `llama` for everybody", tpm_max=150),)}

    ticket = await admit(admission, limits=limits, model_limits=model_limits)
    error = await refusal_of(admission, limits=limits, model_limits=model_limits)

    assert [(demand.scope, demand.kind, demand.limit, demand.amount) for demand in ticket.demands] == [
        ("key:k", "requests", 60, 1),
        ("team:t", "requests", 50, 1),
        ("team:t", "concurrent", 2, 1),
        ("model:llama", "tokens", 150, 100),
    ]
    assert dict(ticket.headers)["x-ratelimit-limit-requests"] == "50"
    assert error.message == (
        "The model `llama` for everybody is over its limit of 150 tokens per minute; try again in 61.0 s."
    )


async def test_requests_at_once_are_limited_until_one_ends():
    admission = admission_of()
    first = await admit(admission, concurrent_max=1)

    error = await refusal_of(admission, concurrent_max=1)
    admission.release(first, tokens_used=0)
    admission.release(first, tokens_used=0)
    await admit(admission, concurrent_max=1)

    assert (type(error), error.message) == (
        RateLimitError,
        "The API key tg_abcdefgh… is at its limit of 1 requests at once; send this again when one has ended.",
    )
    assert ("retry-after", "1") in error.headers
    assert type(await refusal_of(admission, concurrent_max=1)) is RateLimitError
