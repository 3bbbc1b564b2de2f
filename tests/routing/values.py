"""Values that routing's tests are made of, and how many examples its properties try."""

from hypothesis import settings
from hypothesis import strategies as st

from routing.types import Deployment, Fleet, Rate, RequestProfile, RoutePlan, RoutingSettings, Usage
from routing.vitals import Mean, Vitals
from tests.changes import replace

# Few, so that the suite stays quick; no database, so that runs are alike.
LIGHT = settings(max_examples=60, deadline=None, database=None)

SETTINGS = RoutingSettings(
    policy="cost",
    latency_ms_max=5000,
    queue_depth_max=10,
    overhead_permille=1100,
    cluster_cost_threshold_nanousd=10_000_000,
    is_external_fallback_enabled=True,
)


def flat(input_rate=1000, output_rate=2000):
    return Rate.flat(input_microusd_per_mtok=input_rate, output_microusd_per_mtok=output_rate, source="test")


def deployment(name="a", **changed):
    values = {
        "id": name,
        "cluster": f"cluster-{name}",
        "cluster_kind": "own",
        "provider": "aws",
        "region": "us-east-1",
        "model": "m",
        "billing": "committed",
        "state": "active",
        "health": "healthy",
        "health_reason": "",
        "context_window": 8192,
        "output_tokens_max": None,
        "capabilities": frozenset(),
        "rate": flat(),
        "cost_per_hour_nanousd": 92_800_000,
        "rated_tokens_per_s": 900,
        "measured_tokens_per_s": None,
        "queue_depth": None,
        "latency_ms": None,
        "in_flight_max": 10,
    }
    return Deployment(**{**values, **changed})


def provider(name="p", **changed):
    return deployment(
        name, **{"cluster_kind": "provider", "billing": "metered", "cost_per_hour_nanousd": 0, **changed}
    )


def profile(**changed):
    values = {
        "model": "m",
        "surface": "chat",
        "body_bytes": 400,
        "prompt_tokens_estimate": 100,
        "prompt_tokens_max": 656,
        "output_tokens_max": None,
        "choice_count": 1,
        "needs": frozenset(),
    }
    return RequestProfile(**{**values, **changed})


def seen_after(ttft_s, *, samples=1, at_s=0.0):
    """What first tokens taught that came so late."""
    return Vitals(ttft_s=Mean(ttft_s, float(samples), at_s))


def fleet(*candidates, fallbacks=(), policy="", route=None, **changed):
    """`route`: more of the RoutePlan; `changed`: of the settings."""
    plan = RoutePlan(
        model="m",
        policy=policy,
        candidates=tuple(candidates),
        fallbacks=tuple(fallbacks),
        **(route or {}),
    )
    given = {name: getattr(SETTINGS, name) for name in RoutingSettings.__slots__}
    return Fleet(routes={"m": plan}, settings=RoutingSettings(**{**given, **changed}))


rates = st.integers(min_value=0, max_value=10**12)
all_rates = st.builds(
    Rate,
    input_microusd_per_mtok=rates,
    output_microusd_per_mtok=rates,
    cache_read_microusd_per_mtok=rates,
    cache_write_5m_microusd_per_mtok=rates,
    cache_write_1h_microusd_per_mtok=rates,
    reasoning_microusd_per_mtok=rates,
    audio_input_microusd_per_mtok=rates,
    audio_output_microusd_per_mtok=rates,
    image_input_microusd_per_mtok=rates,
    source=st.just("test"),
)
tokens = st.integers(min_value=0, max_value=10**7)


def _with_context_tiers(rate, tiers):
    ordered = sorted(tiers.items())
    return replace(rate, tiers=tuple(ordered))


# Thresholds within and beyond what usages have.
tiered_rates = st.builds(
    _with_context_tiers, all_rates, st.dictionaries(st.integers(1, 10**8), all_rates, max_size=3)
)
price_lists = st.builds(
    lambda rate, named: replace(rate, service_tiers=tuple(sorted(named.items()))),
    tiered_rates,
    st.dictionaries(st.sampled_from(["batch", "flex", "priority"]), tiered_rates, max_size=3),
)
usages = st.builds(
    Usage,
    input_fresh_tokens=tokens,
    cache_read_tokens=tokens,
    cache_write_5m_tokens=tokens,
    cache_write_1h_tokens=tokens,
    output_text_tokens=tokens,
    reasoning_tokens=tokens,
    audio_tokens=tokens,
    input_audio_tokens=tokens,
    input_image_tokens=tokens,
)
