"""The words of refusals: what was wrong, and what to do."""

from datetime import UTC, datetime
from uuid import UUID

import pytest

from billing.entries import BudgetExceededError, WindowClaim
from gateway.errors import (
    ContextLengthError,
    InsufficientQuotaError,
    ModelNotPricedError,
    NoHealthyClusterError,
    OverloadedError,
    UnsupportedError,
)
from gateway.refusals import budget_refusal, no_candidate_refusal
from routing.types import Decision, Exclusion
from tests.gateway.snapshots import cluster_view, deployment_view, snapshot_of


def deployment_of(cluster, *, context_window=8192):
    views = (deployment_view(context_window=context_window),)
    (target,) = snapshot_of(clusters=[cluster_view(name=cluster, deployments=views)]).targets.values()
    return target.deployment


def refusal_of(*reasons, context_windows=None):
    windows = context_windows or [8192] * len(reasons)
    exclusions = tuple(
        Exclusion(deployment=deployment_of(f"c{n}", context_window=window), reason=reason)
        for n, (reason, window) in enumerate(zip(reasons, windows, strict=True))
    )
    error = no_candidate_refusal(
        Decision(model="llama", policy="cost", reason="none_eligible", ranked=(), exclusions=exclusions)
    )
    return type(error), error.message, error.param


TOO_LONG = "The prompt is longer than the context window of `llama` ({} tokens); shorten it."
UNPRICED = "`llama` has no price, and a hard budget binds this key: add one in Admin > Prices."


@pytest.mark.parametrize(
    ("reasons", "refusal"),
    [
        (["context_window"], (ContextLengthError, TOO_LONG.format(8192), "messages")),
        (["context_window", "lacks_tools"], (ContextLengthError, TOO_LONG.format(8192), "messages")),
        (["context_window", "disabled"], (ContextLengthError, TOO_LONG.format(8192), "messages")),
        (["unpriced"], (ModelNotPricedError, UNPRICED, "model")),
        (["unpriced", "disabled"], (ModelNotPricedError, UNPRICED, "model")),
        (
            ["lacks_vision", "lacks_tools", "lacks_tools", "unpriced"],
            (UnsupportedError, "No deployment of `llama` can do this: it lacks tools, vision.", None),
        ),
        # One that is only down or full may come back and serve it: such a request may be sent again.
        (
            ["lacks_tools", "unhealthy"],
            (
                NoHealthyClusterError,
                "No cluster can serve `llama` now (c0: lacks_tools, c1: unhealthy).",
                None,
            ),
        ),
        (
            ["context_window", "in_flight_max"],
            (
                OverloadedError,
                "Every cluster that serves `llama` is full (c0: context_window, c1: in_flight_max).",
                None,
            ),
        ),
        (
            ["queue_depth", "unhealthy"],
            (
                OverloadedError,
                "Every cluster that serves `llama` is full (c0: queue_depth, c1: unhealthy).",
                None,
            ),
        ),
        (
            ["latency"],
            (OverloadedError, "Every cluster that serves `llama` is full (c0: latency).", None),
        ),
        (
            ["draining", "secret_unreadable"],
            (
                NoHealthyClusterError,
                "No cluster can serve `llama` now (c0: draining, c1: secret_unreadable).",
                None,
            ),
        ),
        (["disabled"], (NoHealthyClusterError, "No cluster can serve `llama` now (c0: disabled).", None)),
        ([], (NoHealthyClusterError, "No cluster can serve `llama` now (none is registered).", None)),
    ],
)
def test_refusal_says_what_stands_in_the_way(reasons, refusal):
    assert refusal_of(*reasons) == refusal


def test_refusal_of_a_long_prompt_names_the_largest_window():
    _, message, _ = refusal_of("context_window", "context_window", context_windows=[4096, 131_072])

    assert message == TOO_LONG.format(131_072)


def test_refusal_of_a_long_prompt_names_no_window_of_a_place_that_lacks_something_else():
    _, message, _ = refusal_of("context_window", "lacks_tools", context_windows=[4096, 131_072])

    assert message == TOO_LONG.format(4096)


def test_refusal_names_ten_clusters_at_most():
    _, message, _ = refusal_of(*["unhealthy"] * 12)

    assert message.count("unhealthy") == 10


@pytest.mark.parametrize(
    ("ends_at", "until"),
    [(datetime(2030, 2, 1, tzinfo=UTC), "until 2030-02-01T00:00:00+00:00"), (None, "for good")],
)
@pytest.mark.parametrize(
    ("limit_nanousd", "limit"),
    [(0, "$0"), (1, "$0.000000001"), (1_500_000_000, "$1.5"), (1_000_000_000_000, "$1000")],
)
def test_refusal_of_a_spent_budget_says_which_and_until_when(ends_at, until, limit_nanousd, limit):
    claim = WindowClaim(
        window_id="w",
        budget_id=UUID(int=1),
        owner="team red",
        limit_nanousd=limit_nanousd,
        is_hard=True,
        starts_at=datetime(2030, 1, 1, tzinfo=UTC),
        ends_at=ends_at,
    )

    error = budget_refusal(BudgetExceededError(claim=claim, held_nanousd=20_000_000))

    assert type(error) is InsufficientQuotaError
    assert error.message == (
        f"The budget of team red ({limit}) has no room for this request, which may cost up to $0.02, "
        f"{until}. Lower max_tokens, or raise it in Admin > Budgets."
    )
