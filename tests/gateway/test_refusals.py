"""The words of refusals: what was wrong, and what to do."""

from dataclasses import replace
from datetime import UTC, datetime
from uuid import UUID

import pytest

from billing.amounts import usd_text
from billing.entries import BudgetExceededError, WindowClaim
from gateway.errors import (
    BudgetHeldError,
    ClusterAsleepError,
    ContextLengthError,
    CrossedBudgetError,
    InsufficientQuotaError,
    ModelNotPricedError,
    NoHealthyClusterError,
    OverloadedError,
    PermissionDeniedError,
    UnsupportedError,
)
from gateway.refusals import budget_refusal, no_candidate_refusal
from routing.types import Decision, Exclusion, Placement, Wakeable
from tests.gateway.snapshots import cluster_view, deployment_view, snapshot_of
from tests.routing.values import profile

WAKEABLE = Wakeable(warm_up_s=90.0)


def deployment_of(cluster, *, context_window=8192):
    views = (deployment_view(context_window=context_window),)
    (target,) = snapshot_of(clusters=[cluster_view(name=cluster, deployments=views)]).targets.values()
    return target.deployment


def refusal_of(*reasons, context_windows=None, asked=None):
    windows = context_windows or [8192] * len(reasons)
    exclusions = tuple(
        Exclusion(deployment=deployment_of(f"c{n}", context_window=window), reason=reason)
        for n, (reason, window) in enumerate(zip(reasons, windows, strict=True))
    )
    error = no_candidate_refusal(
        Decision(model="llama", policy="cost", reason="none_eligible", ranked=(), exclusions=exclusions),
        profile=asked or profile(),
        now_s=100.0,
    )
    return type(error), error.message, error.param


def test_refusal_names_the_cluster_whose_certificate_expired_and_the_date():
    problem = "the client certificate of site expired on 2029-12-31: store a new one"
    view = cluster_view(name="site", secret_problem=problem, deployments=(deployment_view(),))
    (target,) = snapshot_of(clusters=[view]).targets.values()
    exclusion = Exclusion(deployment=target.deployment, reason="secret_unreadable")

    error = no_candidate_refusal(
        Decision(
            model="llama", policy="cost", reason="none_eligible", ranked=(), exclusions=(exclusion, exclusion)
        ),
        profile=profile(),
        now_s=100.0,
    )

    assert error.code == "no_healthy_cluster"
    assert error.message == (
        "No cluster can serve `llama` now (site: secret_unreadable, site: secret_unreadable). The client "
        "certificate of site expired on 2029-12-31: store a new one."
    )


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
            ["draining", "secret_unreadable", "vanished"],
            (
                NoHealthyClusterError,
                "No cluster can serve `llama` now (c0: draining, c1: secret_unreadable, c2: vanished).",
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


def test_refusal_of_prompt_and_max_tokens_says_both():
    _, message, _ = refusal_of(
        "context_window", asked=profile(prompt_tokens_estimate=8000, output_tokens_max=500)
    )

    assert message == (
        "The prompt (about 8000 tokens) and max_tokens (500) together are longer than the context window of "
        "`llama` (8192 tokens); shorten one of them."
    )


PLACEMENT = Placement(
    regions=frozenset({"eu-2", "eu-1"}),
    required_tags=frozenset({"gdpr"}),
    forbidden_tags=frozenset({"spot"}),
    regions_by='team "search"',
    tags_by='team "search" and key "ci"',
)
NOTHING_LEFT = Placement(regions=frozenset(), regions_by='team "search" and key "ci"')
START = "No cluster that serves `llama` may serve this request, since"
END = "Add one that may, or change the rule in Admin."
REGIONS = 'team "search" allows only the regions eu-1, eu-2'
TAGS = 'team "search" and key "ci" requires the tags gdpr; team "search" and key "ci" forbids the tags spot'


@pytest.mark.parametrize(
    ("reasons", "placement", "refusal"),
    [
        (["residency"], PLACEMENT, (PermissionDeniedError, f"{START} {REGIONS}. {END}", "model")),
        (["residency", "disabled"], PLACEMENT, (PermissionDeniedError, f"{START} {REGIONS}. {END}", "model")),
        (
            ["residency", "tags"],
            PLACEMENT,
            (PermissionDeniedError, f"{START} {REGIONS}; {TAGS}. {END}", "model"),
        ),
        (
            ["residency"],
            NOTHING_LEFT,
            (
                PermissionDeniedError,
                f'{START} team "search" and key "ci" have no allowed region in common. {END}',
                "model",
            ),
        ),
        (
            ["unhealthy", "residency"],
            PLACEMENT,
            (
                NoHealthyClusterError,
                f"No cluster can serve `llama` now (c0: unhealthy, c1: residency). Mind that {REGIONS}.",
                None,
            ),
        ),
        (
            ["context_window", "residency"],
            PLACEMENT,
            (ContextLengthError, f"{TOO_LONG.format(8192)} Mind that {REGIONS}.", "messages"),
        ),
    ],
)
def test_refusal_by_a_rule_on_places_says_whose_it_is(reasons, placement, refusal):
    assert refusal_of(*reasons, asked=profile(placement=placement)) == refusal


def test_refusal_names_ten_clusters_at_most():
    _, message, _ = refusal_of(*["unhealthy"] * 12)

    assert message.count("unhealthy") == 10


def claim_of(**values):
    return WindowClaim(
        **{
            "window_id": "w",
            "budget_id": UUID(int=1),
            "owner": 'team "red"',
            "limit_nanousd": 10_000_000_000,
            "is_hard": True,
            "starts_at": datetime(2030, 1, 1, tzinfo=UTC),
            "ends_at": datetime(2030, 2, 1, tzinfo=UTC),
            "window": "month",
            **values,
        }
    )


def budget_refusal_of(*, spent, held=0, in_doubt=0, needed=20_000_000, output_tokens_min=None, **claim):
    error = budget_refusal(
        BudgetExceededError(
            claim=claim_of(**claim),
            needed_nanousd=needed,
            spent_nanousd=spent,
            held_nanousd=held,
            in_doubt_nanousd=in_doubt,
            output_tokens_min=output_tokens_min,
        )
    )
    return type(error), error.message


def test_refusal_of_a_spent_budget_says_which_how_much_until_when_and_what_to_do():
    kind, message = budget_refusal_of(spent=9_990_000_000)

    assert kind is InsufficientQuotaError
    assert message == (
        'The monthly budget of team "red" has no room for this request, which may cost up to $0.02: $9.99 of '
        "$10.00 is spent. Wait until it starts anew at 2030-02-01T00:00+00:00, lower max_tokens, or raise it "
        "in Admin > Budgets."
    )


def test_refusal_of_a_budget_without_anything_left_does_not_ask_for_less():
    kind, message = budget_refusal_of(spent=10_000_000_000, held=1)

    assert kind is InsufficientQuotaError
    assert message == (
        'The monthly budget of team "red" has no room for this request, which may cost up to $0.02: $10.00 '
        "of $10.00 is spent, and $0.000000001 is held by requests that run. Wait until it starts anew at "
        "2030-02-01T00:00+00:00, or raise it in Admin > Budgets."
    )


@pytest.mark.parametrize(
    ("spent", "advice"),
    [(0, "lower max_tokens, or raise it"), (1_000, "raise it"), (2_000, "raise it")],
)
def test_refusal_of_a_total_budget_says_that_it_never_starts_anew(spent, advice):
    _, message = budget_refusal_of(spent=spent, limit_nanousd=1_000, window="total", ends_at=None)

    assert message == (
        'The total budget of team "red" has no room for this request, which may cost up to $0.02: '
        f"{usd_text(spent)} of $0.000001 is spent. It never starts anew: {advice} in Admin > Budgets."
    )


def test_refusal_under_an_override_says_when_that_ends():
    _, message = budget_refusal_of(
        spent=9_990_000_000, window="day", override_until=datetime(2030, 1, 5, 12, 30, tzinfo=UTC)
    )

    assert message == (
        'The daily budget of team "red" has no room for this request, which may cost up to $0.02: $9.99 of '
        "$10.00 is spent. Its limit is an override that ends at 2030-01-05T12:30+00:00. Wait until it starts "
        "anew at 2030-02-01T00:00+00:00, lower max_tokens, or raise it in Admin > Budgets."
    )


def test_refusal_of_a_clamped_budget_says_the_least_that_was_tried():
    _, message = budget_refusal_of(spent=9_990_000_000, output_tokens_min=16, window="week")

    assert message == (
        'The weekly budget of team "red" has no room for this request, which needs at least $0.02 for its '
        "prompt and 16 tokens of answer: $9.99 of $10.00 is spent. Wait until it starts anew at "
        "2030-02-01T00:00+00:00, send less, or raise it in Admin > Budgets."
    )


def test_refusal_because_of_requests_that_run_asks_to_come_again():
    kind, message = budget_refusal_of(spent=9_000_000_000, held=990_000_000)

    assert kind is BudgetHeldError
    assert message == (
        'The monthly budget of team "red" has no room at the moment for this request, which may cost up to '
        "$0.02: $9.00 of $10.00 is spent, and $0.99 is held by requests that run. What those do not "
        "use comes free when they end: send it again in a second."
    )


@pytest.mark.parametrize(
    ("spent", "held", "kind"),
    [
        (80, 1, BudgetHeldError),
        (80, 20, BudgetHeldError),
        (81, 20, InsufficientQuotaError),
        (81, 0, InsufficientQuotaError),
        (200, 0, InsufficientQuotaError),
    ],
)
def test_refusal_is_final_where_spent_alone_leaves_no_room(spent, held, kind):
    assert budget_refusal_of(spent=spent, held=held, needed=20, limit_nanousd=100)[0] is kind


@pytest.mark.parametrize(
    ("owner", "team", "path"), [('team "red"', "Team=red ", "team"), ('key "ci"', "", "key")]
)
def test_refusal_of_a_crossed_budget_is_in_litellm_s_words(owner, team, path):
    kind, message = budget_refusal_of(
        spent=1_500_000_000, limit_nanousd=1_000_000_000, is_crossed=True, owner=owner
    )

    assert kind is CrossedBudgetError
    assert message == (
        f"Budget has been exceeded! {team}Current cost: 1.5, Max budget: 1. It starts anew at "
        f"2030-02-01T00:00:00+00:00; or raise max_budget of {owner} with POST /{path}/update or in "
        "Admin > Budgets."
    )


def test_refusal_of_a_budget_that_running_requests_may_cross_asks_to_come_again():
    kind, message = budget_refusal_of(spent=0, held=10_000_000_000, needed=1, is_crossed=True)

    assert kind is BudgetHeldError
    assert message == (
        'The monthly budget of team "red" has no room at the moment for this request, which needs something '
        "to be left: $0.00 of $10.00 is spent, and $10.00 is held by requests that run. What those do not "
        "use comes free when they end: send it again in a second."
    )


def test_refusal_because_of_attempts_in_doubt_does_not_ask_to_come_again():
    kind, message = budget_refusal_of(
        spent=9_000_000_000, held=990_000_000, in_doubt=900_000_000, needed=200_000_000
    )

    assert kind is InsufficientQuotaError
    assert kind.headers == (("x-should-retry", "false"),)
    assert message == (
        'The monthly budget of team "red" has no room for this request, which may cost up to $0.20: $9.00 of '
        "$10.00 is spent, $0.09 is held by requests that run, and $0.90 is held by attempts in doubt, whose "
        "gateway died. Wait until it starts anew at 2030-02-01T00:00+00:00, lower max_tokens, raise it in "
        "Admin > Budgets, or have an operator end those attempts (manage.py reconcile_ledger "
        "--settle-in-doubt)."
    )


def test_refusal_because_of_requests_that_run_beside_attempts_in_doubt_asks_to_come_again():
    kind, message = budget_refusal_of(spent=9_000_000_000, held=990_000_000, in_doubt=900_000_000)

    assert kind is BudgetHeldError
    assert (
        "$9.00 of $10.00 is spent, $0.09 is held by requests that run, and $0.90 is held by attempts"
        in message
    )


def test_refusal_of_a_crossed_budget_tells_what_is_in_doubt():
    kind, message = budget_refusal_of(
        spent=0, held=10_000_000_000, in_doubt=10_000_000_000, needed=1, is_crossed=True, ends_at=None
    )

    assert kind is CrossedBudgetError
    assert message == (
        "Budget has been exceeded! Team=red Current cost: 10, Max budget: 10. Raise max_budget of "
        'team "red" with POST /team/update or in Admin > Budgets. Of it 10 is held by attempts in doubt, '
        "whose gateway died."
    )


def asleep_refusal(*states, wakeable=WAKEABLE, extra=()):
    exclusions = [
        Exclusion(
            deployment=replace(deployment_of(f"c{n}"), state=state, billing="autoscaled", wakeable=wakeable),
            reason=state,
        )
        for n, state in enumerate(states)
    ]
    exclusions += [Exclusion(deployment=deployment_of("p"), reason=reason) for reason in extra]
    decision = Decision(
        model="llama", policy="cost", reason="none_eligible", ranked=(), exclusions=tuple(exclusions)
    )
    error = no_candidate_refusal(decision, profile=profile(), now_s=100.0)
    return type(error), error.message, dict(error.headers)["retry-after"]


def test_refusal_of_a_cluster_asleep_says_when_it_should_answer():
    words = (
        "What serves `llama` is asleep and is being woken (c0: cold, p: waits_for_waking). It should answer "
        "in about 90 s: send the request again then."
    )
    waking = replace(WAKEABLE, warm_at_s=119.5)

    assert asleep_refusal("cold", extra=["waits_for_waking"]) == (ClusterAsleepError, words, "90")
    assert asleep_refusal("waking", wakeable=waking)[::2] == (ClusterAsleepError, "20")


def test_what_nobody_can_wake_or_is_only_full_is_refused_as_such():
    alone = asleep_refusal("cold", wakeable=None)
    full = asleep_refusal("cold", extra=["in_flight_max"])

    assert alone == (NoHealthyClusterError, "No cluster can serve `llama` now (c0: cold).", "5")
    assert full[::2] == (OverloadedError, "1")
