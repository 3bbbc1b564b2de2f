"""Brings a configuration file into the inventory and the prices: all of it or nothing."""

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from django.db import transaction

from billing.price_library import find_context_window, find_price
from billing.prices import PriceRecordError, RateTable, load_rates, put_price, put_prices
from clusters import catalogue
from clusters.endpoint import EndpointError, check_endpoint
from clusters.experiments import start_experiment, stop_experiment
from clusters.hourly_costs import put_hourly_costs
from clusters.inventory import InventoryError
from gateway.configuration import difference
from gateway.configuration.document import FILE_BYTES_MAX, ConfigurationError, Place, read_document
from gateway.configuration.experiments import FileExperiment
from gateway.configuration.members import Notes
from gateway.configuration.schema import (
    PRICES,
    Configuration,
    ModelEntry,
    RouteEntry,
    SiteEntry,
    read_configuration,
)
from gateway.configuration.secret_entries import SecretEntry, needed_purposes

# Marks the secrets and prices that came from a file.
ORIGIN = "configuration file"
ROUTED_MODELS = ("candidates", "fallbacks", "context_fallbacks", "content_filter_fallbacks")
STOPPED_BY_FILE = "stopped by the configuration file"


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportReport:
    """What an import changed (or, dry, would change), a line each; and what it has to say besides."""

    changes: tuple[str, ...]
    warnings: tuple[str, ...]


def import_file(
    *, path: Path, environment: Mapping[str, str], now: datetime, is_dry_run: bool = False
) -> ImportReport:
    """Import the file, in one transaction; raises ConfigurationError, with nothing written, if any is wrong.

    What the database has and the file does not mention stays as it is. A dry run does the same and
    takes it back, so what it shows is what an import does.
    """
    try:
        with path.open("rb") as file:
            content = file.read(FILE_BYTES_MAX + 1)
    except OSError as error:
        notes = Notes()
        text = f"cannot read it ({error.strerror}); name a configuration file"
        notes.refuse(Place(line=1, column=1, path=""), text)
        raise ConfigurationError(file_name=str(path), problems=notes.problems) from error
    document = read_document(content=content, file_name=str(path), environment=environment)
    notes = Notes(problems=list(document.problems))
    configuration = read_configuration(document, folder=path.parent, notes=notes)
    with transaction.atomic():
        # Even a file with problems is tried, so that all there are to find are shown at once.
        importing = _Importing(notes=notes, now=now)
        importing.run(configuration)
        if notes.problems:
            raise ConfigurationError(file_name=str(path), problems=notes.problems)
        if is_dry_run:
            transaction.set_rollback(True)
    return ImportReport(
        changes=tuple(importing.changes),
        warnings=tuple(warning.render(file_name=str(path)) for warning in notes.warnings),
    )


class _Importing:
    """One import under way: what the database had, what was changed, what is to be said."""

    def __init__(self, *, notes: Notes, now: datetime) -> None:
        self._notes = notes
        self._now = now
        self._before = {cluster.name: cluster for cluster in catalogue.load_catalogue().clusters}
        self._rates: RateTable = load_rates(now=now)
        self.changes: list[str] = []

    def run(self, configuration: Configuration) -> None:
        settings = self._put(
            Place(line=1, column=1, path="router"),
            lambda: catalogue.put_router_settings(values=configuration.settings),
        )
        self._say(settings, difference.settings_line)
        wrong_entries = {_entry_path(problem.place) for problem in self._notes.problems}
        for site in configuration.sites:
            if _entry_path(site.place) not in wrong_entries:
                self._import_site(site)
        for route in configuration.routes:
            if _entry_path(route.place) not in wrong_entries:
                self._import_route(route)
        self._warn_of_unserved_models(configuration.routes)

    def _import_site(self, site: SiteEntry) -> None:
        before = self._before.get(site.name)
        live_purposes = before.secret_purposes if before else frozenset()
        values = dict(site.values) if before else {**site.defaults, **site.values}
        kept = {**(before.values if before else {}), **values}
        values.update(self._state_without_key(site, kept=kept, live_purposes=live_purposes))
        if not self._is_endpoint_allowed(site, kept=kept):
            return
        change = self._put(site.place, lambda: catalogue.put_cluster(name=site.name, values=values))
        if change is None:
            return
        self._say(change, difference.cluster_line)
        self._import_hourly_costs(site)
        for entry in site.secrets:
            self._import_secret(site, entry=entry, live_purposes=live_purposes)
        self._require_secrets(site, kept={**kept, **values}, live_purposes=live_purposes)
        for model in site.models:
            self._import_model(site, model=model)

    def _import_hourly_costs(self, site: SiteEntry) -> None:
        costs = {site.name: site.hourly_costs}
        written_count = self._put(
            site.hourly_costs_place, lambda: put_hourly_costs(changes=costs, source=ORIGIN)
        )
        if written_count:
            self.changes.append(difference.hourly_costs_line(cluster_name=site.name, count=written_count))

    def _state_without_key(
        self, site: SiteEntry, *, kept: Mapping[str, Any], live_purposes: frozenset[str]
    ) -> dict[str, str]:
        """A provider whose key is in a variable that is not set is kept, disabled: nobody could ask it."""
        keys = [entry for entry in site.secrets if entry.key == "apiKey"]
        if not site.provider_type or not keys or keys[0].purpose in live_purposes:
            return {}
        if any(entry.plaintext is not None for entry in keys):
            return {}
        entry = keys[0]
        variables = " and ".join(entry.missing)
        if kept.get("state", "active") == "disabled":
            self._notes.warn(
                entry.place, f"no key stored, because {variables} is not set (or empty) in the environment"
            )
            return {}
        text = (
            f'the provider "{site.name}" is disabled, because {variables} is not set (or empty) in the '
            f"environment; set it and import again with enabled: true"
        )
        self._notes.warn(entry.place, text)
        return {"state": "disabled"}

    def _is_endpoint_allowed(self, site: SiteEntry, *, kept: Mapping[str, Any]) -> bool:
        try:
            check_endpoint(url=kept["endpoint"], allow_private=kept.get("allow_private_network", False))
        except EndpointError:
            text = (
                "found a private or loopback address, or this machine's name; "
                "write allowPrivateNetwork: true beside it if that is meant"
            )
            self._notes.refuse(site.endpoint_place, text)
            return False
        return True

    def _import_secret(self, site: SiteEntry, *, entry: SecretEntry, live_purposes: frozenset[str]) -> None:
        plaintext = entry.plaintext
        if plaintext is None:
            self._note_missing_secret(site, entry=entry, live_purposes=live_purposes)
            return
        is_stored = self._put(
            entry.place,
            lambda: catalogue.put_secret(
                cluster_name=site.name,
                purpose=entry.purpose,
                plaintext=plaintext,
                label=entry.name or ORIGIN,
                rpm_max=entry.rpm_max,
                tpm_max=entry.tpm_max,
            ),
        )
        if is_stored:
            is_new = entry.purpose not in live_purposes
            line = difference.secret_line(cluster_name=site.name, purpose=entry.purpose, is_new=is_new)
            self.changes.append(line)

    def _note_missing_secret(
        self, site: SiteEntry, *, entry: SecretEntry, live_purposes: frozenset[str]
    ) -> None:
        variables = " and ".join(entry.missing)
        if entry.purpose in live_purposes:
            text = f"{variables} is not set (or empty) in the environment; the stored secret stays"
            self._notes.warn(entry.place, text)
        elif any(each.purpose == entry.purpose and each.plaintext is not None for each in site.secrets):
            text = f"{variables} is not set (or empty) in the environment; this key is left out"
            self._notes.warn(entry.place, text)
        elif not (site.provider_type and entry.key == "apiKey"):
            text = f"{variables} is not set (or empty) in the environment; set it, or write the value here"
            self._notes.refuse(entry.place, text)

    def _require_secrets(
        self, site: SiteEntry, *, kept: Mapping[str, Any], live_purposes: frozenset[str]
    ) -> None:
        auth_type = kept.get("auth_type", "none")
        there = live_purposes | {entry.purpose for entry in site.secrets}
        absent = [purpose for purpose in needed_purposes(auth_type) if purpose not in there]
        if absent and kept.get("state") != "disabled":
            keys = _secret_keys(auth_type=auth_type, is_provider=bool(site.provider_type))
            text = f"authType {auth_type} needs {keys}; write it, or authType: none"
            self._notes.refuse(site.place, text)
        is_signed = bool(kept.get("wake_url")) and kept.get("wake_auth", "none") != "none"
        if is_signed and catalogue.WAKE_PURPOSE not in there:
            text = f"waking.authType {kept['wake_auth']} needs waking.secret; write it, or authType: none"
            self._notes.refuse(site.place, text)

    def _import_model(self, site: SiteEntry, *, model: ModelEntry) -> None:
        values = {**self._new_model_defaults(site, model=model), **model.values}
        change = self._put(
            model.place,
            lambda: catalogue.put_deployment(cluster_name=site.name, model=model.model, values=values),
        )
        if change is None:
            return
        self._say(change, lambda each: difference.model_line(each, cluster_name=site.name))
        if model.rate:
            self._import_price(site, model=model, rate=model.rate, source=ORIGIN)
        elif site.provider_type:
            self._import_library_price(site, model=model)

    def _new_model_defaults(self, site: SiteEntry, *, model: ModelEntry) -> dict[str, int]:
        """A provider's model takes what the library knows of its context; one that exists keeps its own."""
        before = self._before.get(site.name)
        is_known = before is not None and any(each.model == model.model for each in before.deployments)
        if is_known or not site.provider_type or "context_window" in model.values:
            return {}
        upstream_name = model.values.get("upstream_name", model.model)
        context_window = find_context_window(provider=site.provider_type, model=upstream_name)
        return {} if context_window is None else {"context_window": context_window}

    def _import_library_price(self, site: SiteEntry, *, model: ModelEntry) -> None:
        """Only where no price is in force: what an administrator entered is not replaced by a list price."""
        if self._rates.rate_of(model=model.model, cluster_name=site.name) is not None:
            return
        upstream_name = model.values.get("upstream_name", model.model)
        found = find_price(provider=site.provider_type, model=upstream_name, now=self._now)
        if found is None:
            text = (
                f'the price of "{model.model}" is unknown, so its requests are not counted in USD; '
                f"write inputPerMTok and outputPerMTok"
            )
            self._notes.warn(model.place, text)
            return
        entries = [replace(each, model=model.model, cluster_name=site.name) for each in found.entries]
        if self._put(model.place, lambda: put_prices(entries) > 0):
            rates = {each.target: getattr(found.base, each.target) for each in PRICES}
            new = {target: value for target, value in rates.items() if value is not None}
            line = difference.price_line(model=model.model, cluster_name=site.name, old=None, new=new)
            self.changes.append(line)
        if found.note:
            self._notes.warn(model.place, f'the price of "{model.model}" is a list price; {found.note}')

    def _import_price(
        self, site: SiteEntry, *, model: ModelEntry, rate: Mapping[str, Any], source: str
    ) -> None:
        old = self._rates.rate_of(model=model.model, cluster_name=site.name)
        new = _filled_rate(rate)
        if old is not None and all(getattr(old, target) == value for target, value in new.items()):
            return
        is_written = self._put(
            model.place,
            lambda: put_price(
                model=model.model,
                cluster_name=site.name,
                effective_at=self._now,
                source=source,
                **rate,
            ),
        )
        if is_written:
            shown = rate if old is None else new
            line = difference.price_line(model=model.model, cluster_name=site.name, old=old, new=shown)
            self.changes.append(line)

    def _import_route(self, route: RouteEntry) -> None:
        change = self._put(route.place, lambda: catalogue.put_route(model=route.model, values=route.values))
        self._say(change, difference.route_line)
        if change is not None and route.experiment is not None:
            self._import_experiment(route.experiment, route_model=route.model)

    def _import_experiment(self, experiment: FileExperiment, *, route_model: str) -> None:
        """A new one runs, unless the file says otherwise; one that was stopped is not started again."""
        change = self._put(
            experiment.place,
            lambda: catalogue.put_experiment(
                name=experiment.name, route=route_model, values=experiment.values
            ),
        )
        self._say(change, difference.experiment_line)
        if change is None:
            return
        state = experiment.state or ("running" if change.is_new else "")
        is_changed = False
        if state == "running":
            is_changed = self._put(
                experiment.place, lambda: start_experiment(name=experiment.name, now=self._now)
            )
        elif state == "stopped":
            is_changed = self._put(
                experiment.place,
                lambda: stop_experiment(name=experiment.name, reason=STOPPED_BY_FILE, now=self._now),
            )
        if is_changed:
            self.changes.append(difference.experiment_state_line(name=experiment.name, state=state))

    def _warn_of_unserved_models(self, routes: tuple[RouteEntry, ...]) -> None:
        served = {
            deployment.model
            for cluster in catalogue.load_catalogue().clusters
            for deployment in cluster.deployments
        }
        for route in routes:
            named = [model for field in ROUTED_MODELS for model in route.values.get(field, ())]
            if route.experiment is not None:
                named += [arm["model"] for arm in route.experiment.values["arms"]]
            for model in dict.fromkeys(named):
                if model not in served:
                    text = f'no cluster serves "{model}" yet; it is left out until one does'
                    self._notes.warn(route.place, text)

    def _put(self, place: Place, write: Callable[[], Any]) -> Any:
        """Run one write; what it refuses is noted at its place, and the import goes on to find the rest."""
        with suppress(_RefusedError), transaction.atomic():
            try:
                return write()
            except (InventoryError, PriceRecordError) as error:
                self._notes.refuse(place, str(error))
                raise _RefusedError from error
        return None

    def _say(self, change: catalogue.Change | None, line: Callable[[catalogue.Change], str]) -> None:
        if change is not None and change.is_change:
            self.changes.append(line(change))


class _RefusedError(Exception):
    """Rolls one refused write back."""


def _filled_rate(rate: Mapping[str, int]) -> dict[str, int]:
    """The rate as billing fills it: caching costs as input does, reasoning as output."""
    per_input = rate["input_microusd_per_mtok"]
    per_output = rate["output_microusd_per_mtok"]
    filled = {each.target: rate.get(each.target, per_input) for each in PRICES}
    return (
        filled
        | {"reasoning_microusd_per_mtok": rate.get("reasoning_microusd_per_mtok", per_output)}
        | {"output_microusd_per_mtok": per_output}
    )


def _entry_path(place: Place) -> str:
    """`clusters[1]` of `clusters[1].models[0].name`."""
    return place.path.partition(".")[0]


def _secret_keys(*, auth_type: str, is_provider: bool) -> str:
    if auth_type == "mtls":
        return "certFile and keyFile"
    return "apiKey" if is_provider else "sharedSecret or sharedSecretFile"
