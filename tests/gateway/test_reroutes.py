"""What a request's failures teach about where it may still go."""

from types import SimpleNamespace

import pytest

from gateway.errors import UpstreamError, UpstreamRefusedError
from gateway.reroutes import Course
from gateway.upstream import UpstreamFailure
from routing.types import Decision, Exclusion, RoutePlan
from tests.routing.values import deployment, profile

A = deployment("a", context_window=1000)
PLAN = RoutePlan(model="m", policy="", candidates=(A,), fallbacks=())
NOBODY = Decision(
    model="m",
    policy="cost",
    reason="none_eligible",
    ranked=(),
    exclusions=(Exclusion(deployment=deployment("b"), reason="unhealthy"),),
)


def refused(refusal):
    error = UpstreamRefusedError("No.", upstream_status=400, param="messages", code="its_code")
    return UpstreamFailure(error, is_sent=True, is_retryable=False, refusal=refusal)


def tried(course, failed, place=A):
    """Whether another place may do better after this attempt."""
    course.on_attempt(cluster=place.cluster)
    attempt = SimpleNamespace(candidate=SimpleNamespace(deployment=place))
    return course.on_failure(attempt, failed)


def test_cluster_that_failed_is_left_alone():
    course, failed = Course(), UpstreamFailure(UpstreamError("x"), is_sent=True)

    assert tried(course, failed) is True
    assert (course.tried, course.told(profile())) == ({"cluster-a"}, profile())


def test_cluster_of_which_one_server_failed_may_be_tried_again():
    course, failed = Course(), UpstreamFailure(UpstreamError("x"), is_sent=True)
    failed.is_of_address = True

    assert tried(course, failed) is True
    assert (course.tried, course.attempt_count) == (set(), 1)


def test_refusal_of_a_wrong_request_ends_it():
    course = Course()

    assert tried(course, refused("")) is False
    assert course.told(profile()) == profile()


def test_refusal_for_length_leaves_the_cluster_and_asks_for_a_larger_window():
    course = Course()

    assert tried(course, refused("too_long")) is True
    assert tried(course, refused("too_long"), deployment("b", context_window=500)) is True
    assert course.tried == {"a", "b"}
    assert course.attempt_count == 2
    assert course.told(profile()) == profile(context_tokens_min=1001)


def test_refusal_for_content_opens_its_fallbacks():
    course = Course()

    assert tried(course, refused("filtered")) is True
    assert (course.tried, course.told(profile())) == ({"a"}, profile(is_content_filtered=True))


@pytest.mark.parametrize(
    ("refusal", "chain", "decision", "words"),
    [
        (
            "too_long",
            "context_fallbacks",
            NOBODY,
            " No context fallback of `m` can take it (cluster-b: unhealthy).",
        ),
        (
            "filtered",
            "content_filter_fallbacks",
            NOBODY,
            " No content-filter fallback of `m` can take it (cluster-b: unhealthy).",
        ),
        ("too_long", "content_filter_fallbacks", NOBODY, ""),
        ("filtered", "context_fallbacks", NOBODY, ""),
        ("", "context_fallbacks", NOBODY, ""),
        ("too_long", "context_fallbacks", None, ""),
    ],
)
def test_error_says_why_no_fallback_took_it(refusal, chain, decision, words):
    plan = RoutePlan(model="m", policy="", candidates=(A,), fallbacks=(), **{chain: (deployment("b"),)})
    course = Course(last_decision=decision)

    error = course.final_error(refused(refusal), plan=plan)

    assert (error.message, error.http_status, error.param, error.upstream_code) == (
        f"No.{words}",
        400,
        "messages",
        "its_code",
    )


def test_fault_of_the_last_place_is_told_as_it_is():
    fault = UpstreamFailure(UpstreamError("Cluster b broke."), is_sent=True)

    assert Course(last_decision=NOBODY).final_error(fault, plan=PLAN) is fault.error
