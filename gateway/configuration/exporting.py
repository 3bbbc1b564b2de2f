"""Writes the inventory and the prices as a configuration file; for secrets only the names of variables."""

import re
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime

from billing.prices import RateTable, load_rates
from clusters.catalogue import (
    WAKE_PURPOSE,
    ClusterEntry,
    DeploymentEntry,
    ExperimentEntry,
    KeyEntry,
    RouteEntry,
    load_catalogue,
)
from clusters.hourly_costs import load_changes
from clusters.presets import PRESETS, preset_of
from gateway.configuration.conversion import quoted
from gateway.configuration.experiments import experiment_text
from gateway.configuration.hourly_prices import hourly_price_lines
from gateway.configuration.members import Field, written_values
from gateway.configuration.schema import (
    MODEL,
    PRICES,
    RATE_LIMIT,
    ROUTE,
    ROUTER,
    SERVER,
    SITE,
)
from gateway.configuration.secret_entries import KEYS
from gateway.configuration.waking import waking_lines

_HEADER = (
    "# Tollgate's configuration: `manage.py import_config FILE` reads it.",
    "# Secrets are not in it: set the variables named ${...} before it is imported elsewhere.",
)
# Written only where they differ: what a new record has anyway.
_QUIET_SITE = {
    "state": "active",
    "allow_private_network": False,
    "expands_addresses": False,
    "discovery": "empty",
    "tokens_per_s": None,
    "replica_count": 1,
}
_QUIET_PROVIDER = {"cost_per_hour_nanousd": 0, "billing": "metered"}
_QUIET_MODEL = {"is_enabled": True}
_QUIET_ROUTE = {"is_enabled": True, "while_waking": "spill"}
_FILE_KEYS = {"client_certificate": "certFile", "client_key": "keyFile", "ca": "caFile"}
_VARIABLE_ENDINGS = {
    "apiKey": "API_KEY",
    "sharedSecret": "SECRET",
    "certFile": "CERT_FILE",
    "keyFile": "KEY_FILE",
    "caFile": "CA_FILE",
    "wake": "WAKE_SECRET",
}
_NOT_IN_NAMES = re.compile(r"[^A-Z0-9]+")


def export_text(*, now: datetime) -> str:
    """The whole file, with the prices in force at `now`; the same inventory gives the same text."""
    catalogue = load_catalogue()
    rates = load_rates(now=now)
    placeholders = _Placeholders()
    # As with prices: what is in force, and what will be.
    hourly_costs = load_changes(from_at=now, to_at=datetime.max.replace(tzinfo=UTC))
    experiments = {each.route: each for each in catalogue.experiments if each.state != "stopped"}
    own = [each for each in catalogue.clusters if each.values["kind"] != "provider"]
    providers = [each for each in catalogue.clusters if each.values["kind"] == "provider"]
    lines = [
        *_HEADER,
        *_section("server", written_values(catalogue.settings, fields=SERVER)),
        *_section("router", written_values(catalogue.settings, fields=ROUTER)),
        *_listing(
            "clusters",
            (
                [
                    *_site_lines(each, rates, placeholders),
                    *hourly_price_lines(hourly_costs.get(each.name, ())),
                ]
                for each in own
            ),
        ),
        *_listing("externalProviders", (_site_lines(each, rates, placeholders) for each in providers)),
        *_listing("routes", (_route_lines(each, experiments.get(each.model)) for each in catalogue.routes)),
    ]
    return "\n".join(lines) + "\n"


class _Placeholders:
    """Names of variables for secrets, each given once: AWS_US_EAST_1_SECRET."""

    def __init__(self) -> None:
        self._given: set[str] = set()

    def give(self, *, cluster_name: str, key: str) -> str:
        plain = _NOT_IN_NAMES.sub("_", cluster_name.upper()).strip("_")
        # A variable's name begins with a letter.
        start = plain if plain[:1].isalpha() else f"CLUSTER_{plain}".rstrip("_")
        name = f"{start}_{_VARIABLE_ENDINGS[key]}"
        number = 1
        while name in self._given:
            number += 1
            name = f"{start}_{number}_{_VARIABLE_ENDINGS[key]}"
        self._given.add(name)
        return f"${{{name}}}"


def _site_lines(cluster: ClusterEntry, rates: RateTable, placeholders: _Placeholders) -> list[str]:
    is_provider = cluster.values["kind"] == "provider"
    quiet = {**_QUIET_SITE, **(_QUIET_PROVIDER if is_provider else {})}
    written = {"name": quoted(cluster.name)}
    if is_provider:
        backend, provider = str(cluster.values["backend"]), str(cluster.values["provider"])
        preset = preset_of(provider=provider, backend=backend) or PRESETS["openai"]
        quiet.update(backend=preset.backend, provider=preset.name, auth_type=preset.auth_type)
        written["type"] = preset.name
        written["enabled"] = "false" if cluster.values["state"] == "disabled" else "true"
        quiet["state"] = "disabled" if cluster.values["state"] == "disabled" else "active"
    written.update(_loud_values(cluster.values, quiet=quiet, fields=SITE))
    lines = [f"{key}: {value}" for key, value in written.items()]
    lines += _secret_lines(cluster, placeholders=placeholders)
    limits = _loud_values(cluster.values, quiet={"burst_percent": 100}, fields=RATE_LIMIT)
    if limits:
        lines.append(f"rateLimit: {_flow(limits)}")
    if not is_provider:
        is_kept = WAKE_PURPOSE in cluster.secret_purposes and cluster.values["wake_auth"] != "none"
        placeholder = placeholders.give(cluster_name=cluster.name, key="wake") if is_kept else ""
        lines += waking_lines(cluster.values, placeholder=placeholder)
    if cluster.deployments:
        lines.append("models:")
        lines += [
            f"  - {_model_text(each, rates=rates, cluster_name=cluster.name)}" for each in cluster.deployments
        ]
    return lines


def _secret_lines(cluster: ClusterEntry, *, placeholders: _Placeholders) -> list[str]:
    """The live secrets that the cluster's authType uses."""
    auth_type = str(cluster.values["auth_type"])
    is_provider = cluster.values["kind"] == "provider"
    listed = [key for key in cluster.secrets if key.purpose == auth_type]
    if is_provider and (len(listed) > 1 or any(key.rpm_max or key.tpm_max for key in listed)):
        return [
            f"{KEYS}:",
            *(_key_line(cluster, key, number, placeholders) for number, key in enumerate(listed)),
        ]
    if auth_type in {"hmac", "bearer", "sigv4"} and auth_type in cluster.secret_purposes:
        keys = ["apiKey" if is_provider else "sharedSecret"]
    elif auth_type == "mtls":
        keys = [key for purpose, key in _FILE_KEYS.items() if purpose in cluster.secret_purposes]
    else:
        keys = []
    return [
        f"{key}: {placeholders.give(cluster_name=cluster.name, key=key)}  # the stored value is not exported"
        for key in keys
    ]


def _key_line(cluster: ClusterEntry, key: KeyEntry, number: int, placeholders: _Placeholders) -> str:
    """One of several keys of a provider, with its own limits."""
    written = {"name": quoted(key.label or f"key-{number + 1}")}
    written["apiKey"] = f'"{placeholders.give(cluster_name=cluster.name, key="apiKey")}"'
    limits = {"rpm_max": key.rpm_max, "tpm_max": key.tpm_max}
    written.update(written_values(limits, fields=RATE_LIMIT[:2]))
    return f"  - {_flow(written)}  # the stored value is not exported"


def _model_text(deployment: DeploymentEntry, *, rates: RateTable, cluster_name: str) -> str:
    written = {"name": quoted(deployment.model)}
    rate = rates.rate_of(model=deployment.model, cluster_name=cluster_name)
    if rate is not None:
        quiet = {
            "cache_read_microusd_per_mtok": rate.input_microusd_per_mtok,
            "cache_write_5m_microusd_per_mtok": rate.input_microusd_per_mtok,
            "cache_write_1h_microusd_per_mtok": rate.input_microusd_per_mtok,
            "reasoning_microusd_per_mtok": rate.output_microusd_per_mtok,
        }
        prices = {each.target: getattr(rate, each.target) for each in PRICES}
        written.update(_loud_values(prices, quiet=quiet, fields=PRICES))
    written.update(_loud_values(deployment.values, quiet=_QUIET_MODEL, fields=MODEL))
    return _flow(written)


def _route_lines(route: RouteEntry, experiment: ExperimentEntry | None) -> list[str]:
    written = {"model": quoted(route.model), **_loud_values(route.values, quiet=_QUIET_ROUTE, fields=ROUTE)}
    if experiment is not None:
        written["experiment"] = experiment_text(experiment)
    return [f"{key}: {value}" for key, value in written.items()]


def _loud_values(
    values: Mapping[str, object], *, quiet: Mapping[str, object], fields: Iterable[Field]
) -> dict[str, str]:
    """All but the empty ones and those that a new record has anyway."""
    loud = {
        target: value
        for target, value in values.items()
        if value not in (None, "", [], {}) and not (target in quiet and quiet[target] == value)
    }
    return written_values(loud, fields=tuple(fields))


def _section(name: str, written: Mapping[str, str]) -> list[str]:
    return ["", f"{name}:", *(f"  {key}: {value}" for key, value in written.items())] if written else []


def _listing(name: str, entries: Iterable[list[str]]) -> list[str]:
    lines = [
        f"  {'-' if index == 0 else ' '} {line}" for entry in entries for index, line in enumerate(entry)
    ]
    return ["", f"{name}:", *lines] if lines else []


def _flow(written: Mapping[str, str]) -> str:
    return "{" + ", ".join(f"{key}: {value}" for key, value in written.items()) + "}"
