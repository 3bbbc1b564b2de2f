"""What a row of the inventory may be: each check says what is wrong, with which field, and what to do."""

from collections.abc import Callable, Mapping
from typing import Any

from django.core.exceptions import ValidationError
from django.db import models

from clusters import endpoint, experiment_rules, route_weights
from clusters.models import Cluster, Deployment, Experiment, Route, RouterSettings
from clusters.paying import billing_fault
from routing import placement, policies

POLICIES = tuple(policies.POLICIES)
CAPABILITIES = ("chat", "completions", "embeddings", "tools", "vision", "json_schema", "reasoning")
MODEL_NAME_CHARACTERS_MAX = 200
ROUTE_MODELS_MAX = 50
ENDPOINT_CHARACTERS_MAX = 300
REPLICAS_MAX = 100_000
TAGS_MAX = 20
SINGLE_ROW_ID = 1


class InventoryError(ValueError):
    """A change is refused; the message says what was wrong and what to do, `field` which field it is."""

    def __init__(self, message: str, *, field: str | None = None) -> None:
        """`field` is None where the whole record is meant."""
        super().__init__(message)
        self.field = field


def check_record(*, record: models.Model) -> None:
    """Raise `InventoryError` if the cluster, deployment, route or settings may not be saved as it is.

    Puts a cluster's endpoint into the form in which it is kept.
    """
    check_values(record=record)
    try:
        record.full_clean(exclude={"endpoint"})
    except ValidationError as error:
        raise _as_inventory_error(error) from error


def check_values(*, record: models.Model) -> None:
    """As `check_record`, without what a ModelForm checks by itself (the fields' own limits, uniqueness)."""
    check = _CHECKS.get(type(record))
    if check is None:
        raise InventoryError(f"a {type(record).__name__} is not saved as a record")
    check(record)


def _check_cluster(cluster: Cluster) -> None:
    cluster.endpoint = endpoint.normal_endpoint(cluster.endpoint)
    if len(cluster.endpoint) > ENDPOINT_CHARACTERS_MAX:
        raise InventoryError(
            f"the endpoint is longer than {ENDPOINT_CHARACTERS_MAX} characters", field="endpoint"
        )
    try:
        endpoint.check_endpoint(url=cluster.endpoint, allow_private=cluster.allow_private_network)
    except endpoint.EndpointError as error:
        raise InventoryError(str(error), field="endpoint") from error
    if cluster.kind == Cluster.Kind.PROVIDER:
        _check_provider(cluster)
    if cluster.auth_type == Cluster.Auth.MTLS and not cluster.endpoint.startswith("https://"):
        raise InventoryError("mutual TLS needs an endpoint that begins with https://", field="endpoint")
    if cluster.auth_type == Cluster.Auth.SIGV4 and cluster.backend != Cluster.Backend.BEDROCK:
        raise InventoryError("AWS signatures are for the backend bedrock alone", field="auth_type")
    if fault := billing_fault(kind=cluster.kind, billing=cluster.billing):
        raise InventoryError(fault, field="billing")
    if cluster.replica_count > REPLICAS_MAX:
        raise InventoryError(f"at most {REPLICAS_MAX} replicas", field="replica_count")
    _check_waking(cluster)
    try:
        cluster.tags = placement.checked_tags(cluster.tags, most=TAGS_MAX)
    except placement.PlacementError as error:
        raise InventoryError(f"tags: {error}", field="tags") from error
    if cluster.default_model and (problem := name_problem(cluster.default_model)):
        raise InventoryError(f"default model: {problem}", field="default_model")


def _check_provider(cluster: Cluster) -> None:
    """What is for own clusters alone."""
    if cluster.discovery == Cluster.Discovery.ALWAYS:
        raise InventoryError(
            "a provider lists more models than you would pay for: enter those of its models that are used",
            field="discovery",
        )
    if cluster.expands_addresses:
        raise InventoryError(
            "a provider's addresses are those of its load balancers: expand those of own clusters alone",
            field="expands_addresses",
        )


def _check_waking(cluster: Cluster) -> None:
    cluster.wake_url = cluster.wake_url.strip()
    if cluster.replicas_max > REPLICAS_MAX:
        raise InventoryError(f"at most {REPLICAS_MAX} replicas", field="replicas_max")
    if not cluster.wake_url:
        return
    if cluster.billing != Cluster.Billing.AUTOSCALED:
        raise InventoryError(
            f"only an autoscaled cluster is woken, and this one is {cluster.billing}: leave the wake hook "
            f"empty, or set its billing to autoscaled",
            field="wake_url",
        )
    try:
        endpoint.check_endpoint(url=cluster.wake_url, allow_private=cluster.allow_private_network)
    except endpoint.EndpointError as error:
        raise InventoryError(f"wake hook: {error}", field="wake_url") from error


def _check_deployment(deployment: Deployment) -> None:
    if problem := name_problem(deployment.model):
        raise InventoryError(f"model: {problem}", field="model")
    if deployment.upstream_name and (problem := name_problem(deployment.upstream_name)):
        raise InventoryError(f"upstream name: {problem}", field="upstream_name")
    if not isinstance(deployment.capabilities, list):
        raise InventoryError("capabilities must be a list", field="capabilities")
    unknown = [repr(name) for name in deployment.capabilities if name not in CAPABILITIES]
    if unknown:
        raise InventoryError(
            f"capabilities {', '.join(unknown)} are unknown: use {', '.join(CAPABILITIES)}",
            field="capabilities",
        )


def _check_route(route: Route) -> None:
    if problem := name_problem(route.model):
        raise InventoryError(f"model: {problem}", field="model")
    if route.policy and route.policy not in POLICIES:
        raise InventoryError(
            f"policy {route.policy!r} is unknown: use one of {', '.join(POLICIES)}, or leave it empty",
            field="policy",
        )
    if not route.candidates:
        raise InventoryError("name at least one model that may answer", field="candidates")
    _check_route_models(names=route.candidates, field="candidates")
    for field in ("fallbacks", "context_fallbacks", "content_filter_fallbacks"):
        _check_route_models(names=getattr(route, field), field=field)
    if problem := route_weights.problem_of(route.weights):
        raise InventoryError(problem, field="weights")


def _check_route_models(*, names: object, field: str) -> None:
    if not isinstance(names, list) or len(names) > ROUTE_MODELS_MAX:
        raise InventoryError(f"{field} must be a list of at most {ROUTE_MODELS_MAX} model names", field=field)
    for name in names:
        if not isinstance(name, str):
            raise InventoryError(f"{field} must be model names, not {name!r}", field=field)
        if problem := name_problem(name):
            raise InventoryError(f"{field}: {problem}", field=field)
    if len(set(names)) < len(names):
        raise InventoryError(f"{field} name a model twice: leave it once", field=field)


def _check_experiment(experiment: Experiment) -> None:
    started = Experiment.objects.filter(id=experiment.id).exclude(state=Experiment.State.DRAFT).first()
    if problem := experiment_rules.find_problem(experiment, started=started):
        raise InventoryError(problem.text, field=problem.field)


def _check_settings(settings: RouterSettings) -> None:
    if settings.id != SINGLE_ROW_ID:
        raise InventoryError("there is one row of router settings: change that one")
    if settings.policy not in POLICIES:
        raise InventoryError(
            f"policy {settings.policy!r} is unknown: use one of {', '.join(POLICIES)}", field="policy"
        )
    if settings.cluster_cost_threshold_nanousd < 0:
        raise InventoryError(
            "the cost threshold must not be negative", field="cluster_cost_threshold_nanousd"
        )
    if settings.server_port is not None and not 1 <= settings.server_port <= 65_535:
        raise InventoryError("the port must be between 1 and 65535", field="server_port")


_CHECKS: Mapping[type[models.Model], Callable[[Any], None]] = {
    Cluster: _check_cluster,
    Deployment: _check_deployment,
    Route: _check_route,
    Experiment: _check_experiment,
    RouterSettings: _check_settings,
}


def name_problem(name: str) -> str:
    """Why it can be no model's name; empty where it can."""
    if not name:
        return "a model name must not be empty"
    if len(name) > MODEL_NAME_CHARACTERS_MAX:
        return f"a model name has at most {MODEL_NAME_CHARACTERS_MAX} characters"
    if not name.isprintable() or name != name.strip() or "," in name:
        return f"{name!r} is no model name: no commas, line breaks or spaces around it"
    return ""


def _as_inventory_error(error: ValidationError) -> InventoryError:
    for field, messages in error.message_dict.items():
        is_whole = field == "__all__"
        text = messages[0] if is_whole else f"{field}: {messages[0]}"
        return InventoryError(text, field=None if is_whole else field)
    return InventoryError("; ".join(error.messages))
