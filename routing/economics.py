"""What a cluster's tokens cost, by five figures: averages, the margin, what idles, and when it pays.

The average tells what tokens did cost and never where the next one should go: capacity that is paid by the
hour costs nothing more until it is full. The break-even is for whoever buys capacity, not for routing.

A replica of an autoscaled cluster is paid while it loads, and once it is warm for its shortest billing or the
time until it is taken down again, whichever is longer: its window. Averages and break-even are of such a
shortest life: what warm-up and window cost, over the tokens of the window alone.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from routing.cost import PERMILLE, SECONDS_PER_HOUR, nanousd_per_1k_tokens
from routing.eligibility import exclusion_reason
from routing.learning import NOTHING_LEARNT, States
from routing.scoring import lateness
from routing.types import ASLEEP, Deployment, Rate, RequestProfile, RoutingSettings, Wakeable

# Prompt tokens that come with each output token where no traffic has told: chats of the public traces have 5.
PROMPT_PERMILLE_ASSUMED = 5000
OUTPUT_TOKENS_TELLING = 1000
# The request that asks whether a cluster has room: a chat of the usual length.
TYPICAL_PROMPT_TOKENS = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """What the accounts say of a cluster's latest closed hours; all of it 0: there are none.

    `capacity_tokens` are the output tokens it could have made at its rated speed in the hours it was up.
    """

    hours: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    cost_nanousd: int = 0
    idle_nanousd: int = 0
    capacity_tokens: int = 0

    @property
    def prompt_permille(self) -> int:
        """Prompt tokens for every thousand output tokens."""
        if self.output_tokens < OUTPUT_TOKENS_TELLING:
            return PROMPT_PERMILLE_ASSUMED
        return self.input_tokens * PERMILLE // self.output_tokens

    @property
    def tokens_per_s(self) -> float | None:
        """Output tokens per second, averaged over the hours; None where there are none."""
        return self.output_tokens / (self.hours * SECONDS_PER_HOUR) if self.hours else None


NOTHING_SERVED = Served()


@dataclass(frozen=True, slots=True, kw_only=True)
class CostFigures:
    """One cluster. Amounts are nano-USD per 1,000 output tokens, except the idle one, which is per hour.

    None: it cannot be known (no speed, no price, no provider to compare with). `marginal_kind` says what
    the next token is: `paid` already, on capacity that is `running` anyway, at the `provider_price` of who
    would take what no longer fits here, what `waking` costs where nobody else is, or `metered`.
    """

    cluster: str
    average_measured_nanousd: int | None
    average_nameplate_nanousd: int | None
    marginal_nanousd: int | None
    marginal_kind: str
    idle_nanousd_per_hour: int | None
    break_even_tokens_per_s: int | None
    # Output tokens per second on average over the closed hours: below the break-even a provider is cheaper.
    served_tokens_per_s: float | None
    # By how much a served token cost more than one of a full cluster at its rated speed.
    overhead_measured_permille: int | None
    # What one replica more of an autoscaled cluster costs at least, warm-up included.
    waking_nanousd: int | None = None


def cost_figures(
    *,
    deployments: Iterable[Deployment],
    served: Mapping[str, Served],
    settings: RoutingSettings,
    state: States,
    now_s: float,
) -> dict[str, CostFigures]:
    """The figures of each cluster that has a deployment, by its name."""
    by_cluster: dict[str, list[Deployment]] = {}
    for deployment in deployments:
        by_cluster.setdefault(deployment.cluster, []).append(deployment)
    providers = [d for group in by_cluster.values() for d in group if d.cluster_kind == "provider" and d.rate]
    return {
        name: _figures(
            group,
            providers=providers,
            served=served.get(name, NOTHING_SERVED),
            settings=settings,
            has_room=_has_room(group, settings=settings, state=state, now_s=now_s),
        )
        for name, group in by_cluster.items()
    }


def metered_nanousd_per_1k(rate: Rate, *, prompt_permille: int) -> int:
    """What 1,000 output tokens cost at a rate, with the prompts that come with them; rounded up."""
    picousd = rate.input_microusd_per_mtok * prompt_permille + rate.output_microusd_per_mtok * PERMILLE
    return -(-picousd // PERMILLE)  # pico-USD per token is nano-USD per 1,000


def waking_nanousd(*, cost_per_hour_nanousd: int, wakeable: Wakeable) -> int:
    """What waking one replica costs at least: its hour x (warm-up + window); rounded up."""
    paid_s = _whole_s(wakeable.warm_up_s) + wakeable.window_s
    return -(-cost_per_hour_nanousd * paid_s // SECONDS_PER_HOUR)


def break_even_tokens_per_s(
    *, cost_per_hour_nanousd: int, overhead_permille: int, provider_nanousd_per_1k: int
) -> int:
    """Below so many output tokens per second a provider is cheaper than the hour; rounded up.

    cost per hour x overhead x 1000 / (3600 x the provider's price of 1,000 tokens).
    """
    assert provider_nanousd_per_1k > 0
    return -(-cost_per_hour_nanousd * overhead_permille // (SECONDS_PER_HOUR * provider_nanousd_per_1k))


def _figures(
    group: Sequence[Deployment],
    *,
    providers: Sequence[Deployment],
    served: Served,
    settings: RoutingSettings,
    has_room: bool,
) -> CostFigures:
    first = group[0]
    prompt_permille = served.prompt_permille
    if first.cluster_kind == "provider":
        metered = _cheapest(group, prompt_permille=prompt_permille)
        return CostFigures(
            cluster=first.cluster,
            average_measured_nanousd=metered,
            average_nameplate_nanousd=metered,
            marginal_nanousd=metered,
            marginal_kind="metered",
            idle_nanousd_per_hour=None,
            break_even_tokens_per_s=None,
            served_tokens_per_s=None,
            overhead_measured_permille=None,
        )
    models = {deployment.model for deployment in group}
    elsewhere = _cheapest([d for d in providers if d.model in models], prompt_permille=prompt_permille)
    cost_per_hour_nanousd = _with_warm_up(first)

    def average_at(tokens_per_s: int | None) -> int | None:
        return nanousd_per_1k_tokens(
            cost_per_hour_nanousd=cost_per_hour_nanousd,
            tokens_per_s=tokens_per_s,
            overhead_permille=settings.overhead_permille,
        )

    kind, marginal = "provider_price", elsewhere
    if has_room:
        kind, marginal = ("paid" if first.billing == "committed" else "running"), 0
    elif first.state in ASLEEP and elsewhere is None:
        kind, marginal = "waking", average_at(first.rated_tokens_per_s)
    return CostFigures(
        cluster=first.cluster,
        average_measured_nanousd=average_at(first.measured_tokens_per_s),
        average_nameplate_nanousd=average_at(first.rated_tokens_per_s),
        marginal_nanousd=marginal,
        marginal_kind=kind,
        idle_nanousd_per_hour=served.idle_nanousd // served.hours if served.hours else None,
        break_even_tokens_per_s=break_even_tokens_per_s(
            cost_per_hour_nanousd=cost_per_hour_nanousd,
            overhead_permille=settings.overhead_permille,
            provider_nanousd_per_1k=elsewhere,
        )
        if elsewhere
        else None,
        served_tokens_per_s=served.tokens_per_s,
        overhead_measured_permille=_overhead(served),
        waking_nanousd=None
        if first.wakeable is None
        else waking_nanousd(cost_per_hour_nanousd=first.cost_per_hour_nanousd, wakeable=first.wakeable),
    )


def _with_warm_up(deployment: Deployment) -> int:
    """The hour's cost, raised by what the warm-up before a window adds to each second of it; rounded up."""
    wakeable = deployment.wakeable
    if wakeable is None or not wakeable.window_s:
        return deployment.cost_per_hour_nanousd
    paid_s = _whole_s(wakeable.warm_up_s) + wakeable.window_s
    return -(-deployment.cost_per_hour_nanousd * paid_s // wakeable.window_s)


def _whole_s(seconds: float) -> int:
    """Rounded up."""
    return -int(-seconds // 1)


def _cheapest(providers: Sequence[Deployment], *, prompt_permille: int) -> int | None:
    prices = [
        metered_nanousd_per_1k(d.rate, prompt_permille=prompt_permille)
        for d in providers
        if d.rate is not None
    ]
    return min(prices, default=None)


def _overhead(served: Served) -> int | None:
    """Cost per token made, over cost per token that could have been made; rounded up."""
    if not served.output_tokens or not served.capacity_tokens:
        return None
    return -(-PERMILLE * served.capacity_tokens // served.output_tokens)


def _has_room(group: Sequence[Deployment], *, settings: RoutingSettings, state: States, now_s: float) -> bool:
    """Whether a typical request would be answered here within the latency objective now."""
    for deployment in group:
        profile = RequestProfile(
            model=deployment.model,
            surface="chat",
            body_bytes=0,
            prompt_tokens_estimate=min(TYPICAL_PROMPT_TOKENS, deployment.context_window),
            prompt_tokens_max=TYPICAL_PROMPT_TOKENS,
            output_tokens_max=None,
            choice_count=1,
            needs=frozenset(),
        )
        learnt = state.get(deployment.id, NOTHING_LEARNT)
        reason = exclusion_reason(
            deployment, profile=profile, state=learnt, settings=settings, now_s=now_s, trusts_polls=False
        )
        late = lateness(deployment, profile=profile, state=learnt, settings=settings, now_s=now_s)
        if not reason and late <= 1.0:
            return True
    return False
