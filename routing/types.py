"""The values that a routing decision is made of: requests, deployments, rates, usage, decisions."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from msgspec import Struct
from msgspec.structs import replace


@dataclass(frozen=True, slots=True, kw_only=True)
class Rate:
    """What tokens cost, in micro-USD per million tokens (= pico-USD per token), by bucket of usage."""

    input_microusd_per_mtok: int
    output_microusd_per_mtok: int
    cache_read_microusd_per_mtok: int
    cache_write_5m_microusd_per_mtok: int
    cache_write_1h_microusd_per_mtok: int
    reasoning_microusd_per_mtok: int
    audio_input_microusd_per_mtok: int
    audio_output_microusd_per_mtok: int
    image_input_microusd_per_mtok: int
    source: str
    # Prices of the whole request from so many prompt tokens on: (tokens, rate), ascending, without tiers.
    tiers: "tuple[tuple[int, Rate], ...]" = ()
    # Rates of other service tiers by name, such as batch or flex.
    service_tiers: "tuple[tuple[str, Rate], ...]" = ()

    @classmethod
    def flat(cls, *, input_microusd_per_mtok: int, output_microusd_per_mtok: int, source: str) -> "Rate":
        """A rate without own prices for caching, reasoning and media: they cost as input and output do."""
        return cls(
            input_microusd_per_mtok=input_microusd_per_mtok,
            output_microusd_per_mtok=output_microusd_per_mtok,
            cache_read_microusd_per_mtok=input_microusd_per_mtok,
            cache_write_5m_microusd_per_mtok=input_microusd_per_mtok,
            cache_write_1h_microusd_per_mtok=input_microusd_per_mtok,
            reasoning_microusd_per_mtok=output_microusd_per_mtok,
            audio_input_microusd_per_mtok=input_microusd_per_mtok,
            audio_output_microusd_per_mtok=output_microusd_per_mtok,
            image_input_microusd_per_mtok=input_microusd_per_mtok,
            source=source,
        )


class Usage(Struct, frozen=True, kw_only=True):
    """The tokens of one attempt in disjoint buckets; each token is in exactly one, none is negative."""

    input_fresh_tokens: int = 0
    cache_read_tokens: int = 0
    cache_write_5m_tokens: int = 0
    cache_write_1h_tokens: int = 0
    output_text_tokens: int = 0
    reasoning_tokens: int = 0
    audio_tokens: int = 0  # of the answer
    input_audio_tokens: int = 0
    input_image_tokens: int = 0
    is_estimate: bool = False

    @property
    def input_tokens(self) -> int:
        """All tokens of the prompt, cached or not: OpenAI's `prompt_tokens`."""
        return (
            self.input_fresh_tokens
            + self.cache_read_tokens
            + self.cache_write_5m_tokens
            + self.cache_write_1h_tokens
            + self.input_audio_tokens
            + self.input_image_tokens
        )

    @property
    def output_tokens(self) -> int:
        """All tokens that were generated, reasoning included: OpenAI's `completion_tokens`."""
        return self.output_text_tokens + self.reasoning_tokens + self.audio_tokens


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """Where a caller's requests may be served; regions None: anywhere. `*_by` name who says so."""

    regions: frozenset[str] | None = None
    required_tags: frozenset[str] = frozenset()
    forbidden_tags: frozenset[str] = frozenset()
    regions_by: str = ""
    tags_by: str = ""


class Affinity(Struct, frozen=True, kw_only=True):
    """Where a request's like was served before: deployments' ids, best first; and what it is known by.

    Hashes of its prompt's prefixes, shortest first, and its API key's id with its session's name. A tie-break
    and nothing more: see routing.affinity.
    """

    served_by: tuple[str, ...] = ()
    prefix_hashes: tuple[int, ...] = ()
    session: tuple[str, str] | None = None


# The buckets by name: rows of the ledger have a column of each.
TOKEN_BUCKETS = tuple(name for name in Usage.__struct_fields__ if name != "is_estimate")


class RequestProfile(Struct, frozen=True, kw_only=True):
    """What routing may know of a request: sizes and needs, never its words."""

    model: str
    surface: str  # chat | completions | embeddings
    body_bytes: int
    prompt_tokens_estimate: int
    prompt_tokens_max: int  # true upper bound
    output_tokens_max: int | None  # what the client allowed, per choice; None: it did not say
    choice_count: int
    needs: frozenset[str]
    output_tokens_expected: float | None = None  # per choice, learnt by who asks; None: nothing is known
    waited_s: float = 0.0  # spent on this request already, before this choice
    tried: frozenset[str] = frozenset()  # clusters that failed it, and ids of deployments that refused it
    is_priced_only: bool = False  # a hard budget watches: an unpriced deployment may not serve it
    placement: Placement | None = None  # None: anywhere
    affinity: Affinity | None = None
    context_tokens_min: int = 0  # above the windows of those that refused it as too long
    is_content_filtered: bool = False  # an upstream's content filter refused it
    experiment: str = ""  # the one that runs on the route, and the caller's arm of it: a model's name
    arm: str = ""


# States of an autoscaled cluster that nobody told to stop: nothing of it runs, or it is starting.
COLD, WAKING = "cold", "waking"
ASLEEP = frozenset({COLD, WAKING})
# After so many failures in a row another cluster is woken first.
HOOK_FAILURES_MAX = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Wakeable:
    """How an autoscaled cluster gets one replica more; the gateway may ask for it where `can_grow`."""

    warm_up_s: float  # from the asking to the first answer
    is_warm_up_known: bool = True  # False: nobody said, nothing was measured, it is assumed
    window_s: int = 0  # once it is warm a replica is paid for at least so long
    warm_at_s: float | None = None  # of one that is waking: when it should be warm, on the monotonic clock
    can_grow: bool = True
    failure_count: int = 0  # calls of its hook that failed in a row


@dataclass(frozen=True, slots=True, kw_only=True)
class Deployment:
    """A model on a cluster, as routing sees it. `None` means unknown, never zero."""

    id: str
    cluster: str
    cluster_kind: str  # own | provider
    provider: str
    region: str
    model: str
    billing: str  # committed | autoscaled | metered
    state: str  # active | draining | disabled | secret_unreadable | vanished | cold | waking
    health: str  # healthy | unhealthy | unknown
    health_reason: str
    context_window: int
    output_tokens_max: int | None
    capabilities: frozenset[str]
    rate: Rate | None
    cost_per_hour_nanousd: int
    rated_tokens_per_s: int | None
    measured_tokens_per_s: int | None
    queue_depth: int | None
    latency_ms: int | None
    in_flight_max: int
    polled_at_s: float = 0.0  # when the three above were seen, on the monotonic clock
    rtt_s: float = 0.0  # what the network adds to each answer
    rpm_max: int | None = None  # the provider's own limits
    tpm_max: int | None = None
    tags: frozenset[str] = frozenset()
    wakeable: Wakeable | None = None  # None: not autoscaled


@dataclass(frozen=True, slots=True, kw_only=True)
class Objective:
    """The latency objective, and what missing it is worth: the list price of whoever would buy us out."""

    ttft_s: float = 1.5
    ttft_s_per_prompt_token: float = 0.0005
    tpot_s: float = 0.1
    miss_input_microusd_per_mtok: int = 2_500_000
    miss_output_microusd_per_mtok: int = 10_000_000

    def ttft_allowed_s(self, prompt_tokens: int) -> float:
        """When the first token of an answer to so long a prompt shall be there."""
        return self.ttft_s + self.ttft_s_per_prompt_token * prompt_tokens


@dataclass(frozen=True, slots=True, kw_only=True)
class RoutingSettings:
    """The installation's routing settings: the configuration file's `router` section."""

    policy: str
    latency_ms_max: int
    queue_depth_max: int
    overhead_permille: int
    cluster_cost_threshold_nanousd: int  # USD per 1K tokens, in nano-USD
    is_external_fallback_enabled: bool
    stickiness_window_s: int = 60
    objective: Objective = field(default_factory=Objective)
    queue_places_max: int = 0  # of each route
    queue_wait_s_max: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class RoutePlan:
    """One public model name: who may answer, and who is tried when none of them can.

    Fallbacks are in the order of their models. `context_fallbacks` come before the others where the windows
    of the candidates are too small, `content_filter_fallbacks` alone once a content filter refused.
    `weights` are by cluster, for the policy `weighted`; who is not named weighs 1.
    """

    model: str
    policy: str
    candidates: tuple[Deployment, ...]
    fallbacks: tuple[Deployment, ...]
    context_fallbacks: tuple[Deployment, ...] = ()
    content_filter_fallbacks: tuple[Deployment, ...] = ()
    weights: Mapping[str, int] = field(default_factory=dict)
    # How many may wait for a place, and how long at most; None: as in the settings.
    queue_places_max: int | None = None
    queue_wait_s_max: float | None = None
    while_waking: str = "spill"  # or wait: for own candidates that are asleep, instead of going elsewhere
    # Own candidates by the kind of their price, committed before autoscaled, and providers; made here, by id.
    own_levels: tuple[tuple[Deployment, ...], ...] = field(init=False)
    providers: tuple[Deployment, ...] = field(init=False)
    # Whether there is a choice between equally dear own clusters, so that affinity can matter.
    has_like_clusters: bool = field(init=False)
    # Own candidates that may get one replica more, the cheapest hour first; and those that are asleep.
    growable: tuple[Deployment, ...] = field(init=False)
    sleepers: tuple[Deployment, ...] = field(init=False)

    def __post_init__(self) -> None:
        own = sorted((d for d in self.candidates if d.cluster_kind == "own"), key=lambda d: d.id)
        committed = tuple(d for d in own if d.billing == "committed")
        others = tuple(d for d in own if d.billing != "committed")
        object.__setattr__(self, "own_levels", (committed, others))
        object.__setattr__(self, "has_like_clusters", max(len(committed), len(others)) > 1)
        providers = sorted((d for d in self.candidates if d.cluster_kind != "own"), key=_list_price)
        object.__setattr__(self, "providers", tuple(providers))
        growable = [d for d in others if d.wakeable is not None and d.wakeable.can_grow]
        object.__setattr__(self, "growable", tuple(sorted(growable, key=_waking_order)))
        object.__setattr__(self, "sleepers", tuple(d for d in others if d.state in ASLEEP))


def _waking_order(deployment: Deployment) -> tuple[bool, int, str]:
    """Whose hook does not work comes last: else nobody would be woken in its place."""
    assert deployment.wakeable is not None
    is_failing = deployment.wakeable.failure_count >= HOOK_FAILURES_MAX
    return is_failing, deployment.cost_per_hour_nanousd, deployment.id


def _list_price(deployment: Deployment) -> tuple[float, str]:
    rate = deployment.rate
    if rate is None:
        return float("inf"), deployment.id
    return float(rate.input_microusd_per_mtok + rate.output_microusd_per_mtok), deployment.id


@dataclass(frozen=True, slots=True, kw_only=True)
class Fleet:
    """All that `choose` looks at besides the request and what was learnt."""

    routes: Mapping[str, RoutePlan]
    settings: RoutingSettings
    # Of routes with a running experiment: who answers for (route, arm).
    arms: Mapping[tuple[str, str], RoutePlan] = field(default_factory=dict)


class Candidate(Struct, frozen=True, kw_only=True):
    """An eligible deployment, its score (lower is better) and this request's estimated cost.

    (Values that are made for each request are Structs: a frozen dataclass takes ten times as long.)
    """

    deployment: Deployment
    score: float
    cost_nanousd: int
    is_fallback: bool = False

    def as_fallback(self) -> "Candidate":
        """The same, ranked because no candidate of the route was left."""
        return replace(self, is_fallback=True)


class Exclusion(Struct, frozen=True, kw_only=True):
    """A deployment that may not serve this request, and why."""

    deployment: Deployment
    reason: str


class Decision(Struct, frozen=True, kw_only=True):
    """Where a request may go, best first; `ranked` may be empty, and `exclusions` say why."""

    model: str
    policy: str
    reason: str
    ranked: tuple[Candidate, ...]
    exclusions: tuple[Exclusion, ...] = ()
    is_complete: bool = True  # False: only some of the route's deployments were looked at

    def also_excluding(self, exclusions: tuple[Exclusion, ...]) -> "Decision":
        """The same with more that were left out."""
        return replace(self, exclusions=self.exclusions + exclusions)

    def passing_over(self, exclusions: tuple[Exclusion, ...]) -> "Decision":
        """The same with nobody ranked, for these reasons."""
        return replace(
            self, reason="none_eligible", ranked=(), exclusions=self.exclusions + exclusions, is_complete=True
        )
