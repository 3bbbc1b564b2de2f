"""What a configuration file may say: its keys, their values, and what they mean to the inventory."""

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

from clusters.catalogue import (
    AUTH_TYPES,
    BACKENDS,
    BILLINGS,
    CAPABILITIES,
    DISCOVERIES,
    POLICIES,
    REPLICAS_MAX,
    STATES,
    WEIGHT_MAX,
    WHILE_WAKING,
)
from clusters.hourly_costs import CostChange
from clusters.presets import PRESETS
from gateway.configuration import conversion, hourly_prices, waking
from gateway.configuration.document import Document, Entry, Item, Place, Scalar, Section
from gateway.configuration.experiments import FileExperiment, read_experiment
from gateway.configuration.members import Field, Members, Notes
from gateway.configuration.secret_entries import (
    KEYS,
    PEM_PURPOSES,
    SECRET_FILE_KEYS,
    VALUE_KEYS,
    SecretEntry,
    read_secrets,
)

MODEL_NAME = conversion.text(length_max=200)
MODEL_NAMES = conversion.names(kind=MODEL_NAME)
CLUSTER_NAME = conversion.name(length_max=64)
_COUNT_MAX = 2_147_483_647
_COUNT = conversion.whole_number(least=1, most=_COUNT_MAX)
_POLICY = conversion.choice(*POLICIES)
_RATE = conversion.usd(digits=6)

SERVER = (
    Field(key="port", target="server_port", kind=conversion.whole_number(least=1, most=65535)),
    Field(key="readTimeout", target="read_timeout_s", kind=conversion.seconds(least=0)),
    Field(key="writeTimeout", target="write_timeout_s", kind=conversion.seconds(least=0)),
    Field(key="idleTimeout", target="idle_timeout_s", kind=conversion.seconds(least=0)),
)
_NATURAL = conversion.whole_number(least=0, most=_COUNT_MAX)
QUEUE = (
    Field(key="maxWaiting", target="queue_places_max", kind=_NATURAL),
    Field(key="maxWaitMs", target="queue_wait_ms_max", kind=_NATURAL),
)
ROUTER = (
    Field(key="stickinessWindow", target="stickiness_window_s", kind=conversion.seconds(least=0)),
    Field(key="healthCheckInterval", target="health_check_interval_s", kind=conversion.seconds(least=1)),
    Field(key="maxLatencyMs", target="latency_ms_max", kind=_COUNT),
    Field(
        key="maxQueueDepth",
        target="queue_depth_max",
        kind=conversion.whole_number(least=0, most=_COUNT_MAX),
    ),
    Field(
        key="overheadFactor",
        target="overhead_permille",
        kind=conversion.scaled_number(digits=3, least=Decimal("0.001"), most=1000, unit="a factor"),
    ),
    Field(key="routingStrategy", target="policy", kind=_POLICY),
    Field(key="ttftObjectiveMs", target="ttft_objective_ms", kind=_COUNT),
    Field(
        key="ttftObjectiveUsPerPromptToken",
        target="ttft_objective_us_per_prompt_token",
        kind=conversion.whole_number(least=0, most=_COUNT_MAX),
    ),
    Field(key="tpotObjectiveMs", target="tpot_objective_ms", kind=_COUNT),
    Field(key="missInputPerMTok", target="miss_input_microusd_per_mtok", kind=_RATE),
    Field(key="missOutputPerMTok", target="miss_output_microusd_per_mtok", kind=_RATE),
    *QUEUE,
    Field(
        key="clusterCostThreshold",
        target="cluster_cost_threshold_nanousd",
        kind=conversion.usd(digits=9),
    ),
    Field(key="enableExternalFallback", target="is_external_fallback_enabled", kind=conversion.flag()),
)
SITE = (
    Field(key="endpoint", target="endpoint", kind=conversion.endpoint()),
    Field(key="provider", target="provider", kind=conversion.text(length_max=32)),
    Field(key="region", target="region", kind=conversion.text(length_max=64)),
    Field(key="costPerHour", target="cost_per_hour_nanousd", kind=conversion.usd(digits=9)),
    Field(key="replicas", target="replica_count", kind=conversion.whole_number(least=0, most=REPLICAS_MAX)),
    Field(key="authType", target="auth_type", kind=conversion.choice(*AUTH_TYPES)),
    Field(key="backend", target="backend", kind=conversion.choice(*BACKENDS)),
    Field(key="billing", target="billing", kind=conversion.choice(*BILLINGS)),
    Field(key="tokensPerSecond", target="tokens_per_s", kind=_COUNT),
    Field(key="maxInFlight", target="in_flight_max", kind=_COUNT),
    Field(key="allowPrivateNetwork", target="allow_private_network", kind=conversion.flag()),
    Field(key="expandAddresses", target="expands_addresses", kind=conversion.flag()),
    Field(key="defaultModel", target="default_model", kind=MODEL_NAME),
    Field(key="discoverModels", target="discovery", kind=conversion.choice(*DISCOVERIES)),
    Field(key="tags", target="tags", kind=conversion.names(kind=conversion.text(length_max=32))),
    Field(key="state", target="state", kind=conversion.choice(*STATES)),
)
RATE_LIMIT = (
    Field(key="requestsPerMinute", target="rpm_max", kind=_COUNT),
    Field(key="tokensPerMinute", target="tpm_max", kind=_COUNT),
    Field(
        key="burstMultiplier",
        target="burst_percent",
        kind=conversion.scaled_number(digits=2, least=1, most=10, unit="a factor"),
    ),
)
MODEL = (
    Field(key="upstreamName", target="upstream_name", kind=MODEL_NAME),
    Field(key="contextWindow", target="context_window", kind=_COUNT),
    Field(key="maxOutputTokens", target="output_tokens_max", kind=_COUNT),
    Field(
        key="capabilities",
        target="capabilities",
        kind=conversion.names(kind=conversion.choice(*CAPABILITIES)),
    ),
    Field(key="enabled", target="is_enabled", kind=conversion.flag()),
)
PRICES = (
    Field(key="inputPerMTok", target="input_microusd_per_mtok", kind=_RATE),
    Field(key="outputPerMTok", target="output_microusd_per_mtok", kind=_RATE),
    Field(key="cachedInputPerMTok", target="cache_read_microusd_per_mtok", kind=_RATE),
    Field(key="cacheWrite5mPerMTok", target="cache_write_5m_microusd_per_mtok", kind=_RATE),
    Field(key="cacheWrite1hPerMTok", target="cache_write_1h_microusd_per_mtok", kind=_RATE),
    Field(key="reasoningPerMTok", target="reasoning_microusd_per_mtok", kind=_RATE),
)
ROUTE = (
    Field(key="candidates", target="candidates", kind=MODEL_NAMES),
    Field(key="fallbacks", target="fallbacks", kind=MODEL_NAMES),
    Field(key="contextFallbacks", target="context_fallbacks", kind=MODEL_NAMES),
    Field(key="contentFilterFallbacks", target="content_filter_fallbacks", kind=MODEL_NAMES),
    Field(key="routingStrategy", target="policy", kind=_POLICY),
    Field(
        key="weights",
        target="weights",
        kind=conversion.numbers(key=CLUSTER_NAME, number=conversion.whole_number(least=0, most=WEIGHT_MAX)),
    ),
    *QUEUE,
    Field(key="whileWaking", target="while_waking", kind=conversion.choice(*WHILE_WAKING)),
    Field(key="enabled", target="is_enabled", kind=conversion.flag()),
)

_SECTIONS = ("server", "router", "clusters", "externalProviders", "routes")
_PROVIDER_ONLY = ("type", "enabled", "baseURL", "apiKey", "apiKeyFile", KEYS)
_SECRETS = (*VALUE_KEYS, *SECRET_FILE_KEYS, *PEM_PURPOSES)
_EVERY_SITE_KEY = ("name", *(each.key for each in SITE), "rateLimit", "models", *_SECRETS, *_PROVIDER_ONLY)
CLUSTER_KEYS = (
    *(key for key in _EVERY_SITE_KEY if key not in _PROVIDER_ONLY),
    hourly_prices.KEY,
    waking.KEY,
)
PROVIDER_KEYS = tuple(dict.fromkeys(_EVERY_SITE_KEY))


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelEntry:
    """A model of a cluster; `rate` holds its price by the words of billing, or nothing."""

    model: str
    place: Place
    values: Mapping[str, Any]
    rate: Mapping[str, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class SiteEntry:
    """A cluster or a provider: what the file says of it, and what a new one has besides."""

    name: str
    place: Place
    endpoint_place: Place
    values: Mapping[str, Any]
    defaults: Mapping[str, Any]
    provider_type: str  # empty: a cluster of our own
    secrets: tuple[SecretEntry, ...]
    models: tuple[ModelEntry, ...]
    hourly_costs: tuple[CostChange, ...]
    hourly_costs_place: Place


@dataclass(frozen=True, slots=True, kw_only=True)
class RouteEntry:
    model: str
    place: Place
    values: Mapping[str, Any]
    experiment: FileExperiment | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Configuration:
    """The whole file, by the inventory's words."""

    settings: Mapping[str, Any]
    sites: tuple[SiteEntry, ...]
    routes: tuple[RouteEntry, ...]


def read_configuration(document: Document, *, folder: Path, notes: Notes) -> Configuration:
    """Convert every section; whatever is wrong is noted, and what is right around it is still read."""
    top = Members(document.root, known=_SECTIONS, notes=notes)
    clusters = [_cluster(item, folder=folder, notes=notes) for item in top.listing("clusters")]
    providers = [_provider(item, folder=folder, notes=notes) for item in top.listing("externalProviders")]
    routes = [_route(item, notes=notes) for item in top.listing("routes")]
    sites = [site for site in (*clusters, *providers) if site is not None]
    known_routes = [route for route in routes if route is not None]
    _refuse_twice([(site.name, site.place) for site in sites], noun="name", notes=notes)
    _refuse_twice([(route.model, route.place) for route in known_routes], noun="model", notes=notes)
    tried = [route.experiment for route in known_routes if route.experiment is not None]
    _refuse_twice([(each.name, each.place) for each in tried], noun="name", notes=notes)
    return Configuration(
        settings={**_server(top, notes=notes), **_router(top, notes=notes)},
        sites=tuple(sites),
        routes=tuple(known_routes),
    )


def _server(top: Members, *, notes: Notes) -> dict[str, Any]:
    item = top.item("server")
    if item is None:
        return {}
    return Members(item, known=[each.key for each in SERVER], notes=notes).values(SERVER)


def _router(top: Members, *, notes: Notes) -> dict[str, Any]:
    item = top.item("router")
    if item is None:
        return {}
    known = [*(each.key for each in ROUTER), "metricsUpdateInterval"]
    members = Members(item, known=known, notes=notes)
    values = members.values(ROUTER)
    interval_s = members.read("metricsUpdateInterval", conversion.seconds(least=1))
    if interval_s is not None and interval_s != values.get("health_check_interval_s"):
        text = "not in force: metrics are read with each health check; healthCheckInterval says how often"
        notes.warn(members.place_of("metricsUpdateInterval"), text)
    return values


def _cluster(item: Item, *, folder: Path, notes: Notes) -> SiteEntry | None:
    members = Members(item, known=CLUSTER_KEYS, notes=notes)
    values = _site_values(members, notes=notes)
    return _site(
        members,
        values={"kind": "own", **values},
        defaults={},
        provider_type="",
        required=("name", "endpoint"),
        auth_type=values.get("auth_type"),
        folder=folder,
        notes=notes,
    )


def _provider(item: Item, *, folder: Path, notes: Notes) -> SiteEntry | None:
    members = Members(item, known=PROVIDER_KEYS, notes=notes, is_lenient=_is_off(item))
    provider_type = members.read("type", conversion.choice(*PRESETS)) or ""
    values = _site_values(members, notes=notes)
    base_url = members.read("baseURL", conversion.endpoint())
    if base_url is not None:
        if "endpoint" in members:
            notes.refuse(members.place_of("baseURL"), "endpoint says it already; write one of the two")
        values["endpoint"] = base_url
    state = _enabled_state(members, values=values, notes=notes)
    preset = PRESETS.get(provider_type, PRESETS["openai"])
    defaults = {
        "provider": provider_type,
        "endpoint": preset.endpoint_in(values.get("region", "")),
        "backend": preset.backend,
        "auth_type": preset.auth_type,
        "billing": "metered",
    }
    if not defaults["endpoint"] and "endpoint" not in values:
        notes.refuse(members.place, f"{provider_type} has no address of its own; write endpoint")
    return _site(
        members,
        values={"kind": "provider", **values, **state},
        defaults=defaults,
        provider_type=provider_type,
        required=("name", "type"),
        auth_type=values.get("auth_type", preset.auth_type),
        folder=folder,
        notes=notes,
    )


def _site(
    members: Members,
    *,
    values: dict[str, Any],
    defaults: dict[str, Any],
    provider_type: str,
    required: tuple[str, ...],
    auth_type: str | None,
    folder: Path,
    notes: Notes,
) -> SiteEntry | None:
    _require(members, keys=required, notes=notes)
    models = _models(members, default_model=values.get("default_model"), notes=notes)
    secrets = read_secrets(members, auth_type=auth_type, folder=folder, notes=notes)
    wake_values, wake_secrets = waking.read_waking(members, folder=folder, notes=notes)
    name = members.read("name", CLUSTER_NAME)
    if name is None:
        return None
    return SiteEntry(
        name=name,
        place=members.place_of("name"),
        endpoint_place=members.place_of("baseURL" if "baseURL" in members else "endpoint"),
        values={**values, **wake_values},
        defaults=defaults,
        provider_type=provider_type,
        secrets=(*secrets, *wake_secrets),
        models=models,
        hourly_costs=hourly_prices.read_hourly_prices(members, notes=notes),
        hourly_costs_place=members.place_of(hourly_prices.KEY),
    )


def _site_values(members: Members, *, notes: Notes) -> dict[str, Any]:
    values = members.values(SITE)
    item = members.item("rateLimit")
    if item is not None:
        known = [each.key for each in RATE_LIMIT]
        values.update(Members(item, known=known, notes=notes).values(RATE_LIMIT))
    return values


def _enabled_state(members: Members, *, values: Mapping[str, Any], notes: Notes) -> dict[str, str]:
    """`enabled` is the seed's word; `state: draining` is ours and may stand beside `enabled: true`."""
    is_enabled = members.read("enabled", conversion.flag())
    if is_enabled is None:
        return {}
    state = values.get("state", "active" if is_enabled else "disabled")
    if (state == "disabled") == is_enabled:
        notes.refuse(members.place_of("enabled"), f"state is {state} beside it; remove one of the two")
    return {"state": state}


def _is_off(item: Item) -> bool:
    """A disabled provider may name variables that are not set: the seed's example has two."""
    if not isinstance(item, Section):
        return False
    entries = item.entries
    words = {key: entries[key].value for key in ("enabled", "state") if key in entries}
    texts = {key: value.text.lower() for key, value in words.items() if isinstance(value, Scalar)}
    return texts.get("enabled") == "false" or texts.get("state") == "disabled"


def _models(members: Members, *, default_model: str | None, notes: Notes) -> tuple[ModelEntry, ...]:
    """The models listed, and the default model where it is not among them."""
    entries = [_model(item, notes=notes) for item in members.listing("models")]
    models = [entry for entry in entries if entry is not None]
    _refuse_twice([(entry.model, entry.place) for entry in models], noun="name", notes=notes)
    if default_model is not None and all(entry.model != default_model for entry in models):
        place = members.place_of("defaultModel")
        models.append(ModelEntry(model=default_model, place=place, values={}, rate={}))
    return tuple(models)


def _model(item: Item, *, notes: Notes) -> ModelEntry | None:
    if isinstance(item, Scalar) and not item.is_null:
        item = Section(place=item.place, entries={"name": Entry(place=item.place, value=item)})
    known = ["name", *(each.key for each in (*MODEL, *PRICES))]
    members = Members(item, known=known, notes=notes)
    _require(members, keys=("name",), notes=notes)
    rate = members.values(PRICES)
    priced = [each.key for each in PRICES if each.key in members]
    if priced and not {"inputPerMTok", "outputPerMTok"} <= set(priced):
        text = "a price needs both inputPerMTok and outputPerMTok; write the other one too"
        notes.refuse(members.place_of(priced[0]), text)
    model = members.read("name", MODEL_NAME)
    if model is None:
        return None
    return ModelEntry(model=model, place=members.place_of("name"), values=members.values(MODEL), rate=rate)


def _route(item: Item, *, notes: Notes) -> RouteEntry | None:
    known = ["model", *(each.key for each in ROUTE), "experiment"]
    members = Members(item, known=known, notes=notes)
    _require(members, keys=("model", "candidates"), notes=notes)
    values = members.values(ROUTE)
    if values.get("candidates") == []:
        notes.refuse(members.place_of("candidates"), "found no model; write at least one")
    experiment = read_experiment(members, notes=notes)
    model = members.read("model", MODEL_NAME)
    if model is None:
        return None
    place = members.place_of("model")
    return RouteEntry(model=model, place=place, values=values, experiment=experiment)


def _require(members: Members, *, keys: tuple[str, ...], notes: Notes) -> None:
    for key in keys:
        if key not in members:
            notes.refuse(members.place, f"{key} is missing; write it")


def _refuse_twice(named: list[tuple[str, Place]], *, noun: str, notes: Notes) -> None:
    first_lines: dict[str, int] = {}
    for name, place in named:
        if name in first_lines:
            text = f'the {noun} "{name}" stands on line {first_lines[name]} already; write each once'
            notes.refuse(place, text)
        first_lines.setdefault(name, place.line)
