"""Says of each cluster how it is, what its tokens cost at the speed it has, and what to fix."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import NamedTuple
from uuid import UUID

from clusters.health import Observation
from clusters.models import Cluster
from clusters.monitor import probe_clusters
from clusters.snapshots import ClusterView, load_inventory
from clusters.verifying.signatures import SKEW_S
from routing.cost import nanousd_per_1k_tokens

CERTIFICATE_WARNING_DAYS = 14
CLOCK_SKEW_WARNING_S = 20


class CertificateWords(NamedTuple):
    """What a certificate is called, and what to do once it has expired and shortly before."""

    name: str
    now: str
    soon: str


CERTIFICATES = {
    "client": CertificateWords("the client certificate", "store a new one", "store the next one"),
    "server": CertificateWords(
        "the server certificate", "renew it on the cluster's side", "renew it on the cluster's side"
    ),
    "authority": CertificateWords(
        "the stored CA certificate",
        "store the new one and retire this one",
        "store the next one beside it, and retire this one once the cluster's certificate is of the next",
    ),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterReport:
    """One cluster; `nanousd_per_1k` is the seed's formula, None where speed or hourly price is unknown."""

    name: str
    state: str
    is_healthy: bool
    is_reachable: bool | None
    reason: str
    models: tuple[str, ...]
    queue_depth: int | None
    tokens_per_s: int | None
    cost_per_hour_nanousd: int
    nanousd_per_1k: int | None
    certificate_days: int | None  # of the certificate that ends first; below 0 when it has
    clock_skew_s: int | None
    advice: tuple[str, ...]
    address_count: int | None = None  # where each address of its name is a server of its own
    healthy_address_count: int | None = None
    temperature: str = ""  # of an autoscaled cluster: cold, waking or warm
    is_usable: bool = True  # False: it is down, and nobody can wake it


def report_clusters(*, now: datetime, is_probing: bool) -> list[ClusterReport]:
    """All clusters by name; with `is_probing` each that is not disabled is asked first."""
    observations: dict[str, Observation] = {}
    if is_probing:
        cluster_ids = [
            UUID(view.id) for view in load_inventory(now=now).clusters if view.state != Cluster.State.DISABLED
        ]
        results = probe_clusters(cluster_ids=cluster_ids, now=now)
        observations = {str(result.cluster_id): result.observation for result in results}
    snapshot = load_inventory(now=now)
    return [
        _report(
            view,
            observation=observations.get(view.id),
            overhead_permille=snapshot.settings.overhead_permille,
            now=now,
        )
        for view in snapshot.clusters
    ]


def certificate_problem(*, view: ClusterView, now: datetime, told: str = "") -> str:
    """Which certificates need attention and why; empty if none does, or it was `told` of already."""
    lines = []
    for kind, ends_at in view.certificate_ends:
        if CERTIFICATES[kind].name in f"{view.secret_problem} {told}":
            continue
        if ends_at <= now:
            lines.append(f"{CERTIFICATES[kind].name} expired on {ends_at:%Y-%m-%d}: {CERTIFICATES[kind].now}")
        elif ends_at - now <= timedelta(days=CERTIFICATE_WARNING_DAYS):
            lines.append(
                f"{CERTIFICATES[kind].name} expires on {ends_at:%Y-%m-%d}: {CERTIFICATES[kind].soon}"
            )
    return "; ".join(lines)


def clock_problem(*, view: ClusterView, clock_skew_s: int | None) -> str:
    """Why the cluster's clock needs attention; empty if it does not, or nothing depends on it."""
    if view.auth_type != Cluster.Auth.HMAC or abs(clock_skew_s or 0) <= CLOCK_SKEW_WARNING_S:
        return ""
    which = "ahead of" if (clock_skew_s or 0) > 0 else "behind"
    return (
        f"its clock is {abs(clock_skew_s or 0)} s {which} ours: set both by NTP, since signatures are "
        f"refused when they are {SKEW_S} s apart"
    )


def _report(
    view: ClusterView, *, observation: Observation | None, overhead_permille: int, now: datetime
) -> ClusterReport:
    is_healthy = view.health == Cluster.Health.HEALTHY if observation is None else observation.is_healthy
    is_used = view.state != Cluster.State.DISABLED
    reason = view.health_reason if observation is None else observation.reason
    if observation is None and not reason and view.health == Cluster.Health.UNKNOWN:
        reason = "not probed yet"
    clock_skew_s = view.clock_skew_s if observation is None else observation.clock_skew_s
    ends = [ends_at for _, ends_at in view.certificate_ends]
    tokens_per_s = view.measured_tokens_per_s or view.rated_tokens_per_s
    return ClusterReport(
        name=view.name,
        state=view.state,
        is_healthy=is_healthy and is_used and not view.secret_problem,
        is_reachable=_is_reachable(view, observation),
        reason=view.secret_problem or reason,
        models=tuple(deployment.model for deployment in view.deployments),
        queue_depth=view.queue_depth,
        tokens_per_s=tokens_per_s,
        cost_per_hour_nanousd=view.cost_per_hour_nanousd,
        nanousd_per_1k=nanousd_per_1k_tokens(
            cost_per_hour_nanousd=view.cost_per_hour_nanousd,
            tokens_per_s=tokens_per_s,
            overhead_permille=overhead_permille,
        ),
        address_count=view.address_count if view.expands_addresses else None,
        healthy_address_count=view.healthy_address_count if view.expands_addresses else None,
        temperature=view.temperature,
        is_usable=is_used and not view.secret_problem and (is_healthy or view.is_wakeable),
        certificate_days=(min(ends) - now) // timedelta(days=1) if ends else None,
        clock_skew_s=clock_skew_s,
        advice=_advice(view, is_healthy=is_healthy, reason=reason, clock_skew_s=clock_skew_s, now=now)
        if is_used
        else (),
    )


def _is_reachable(view: ClusterView, observation: Observation | None) -> bool | None:
    """None where nobody knows: it was not asked now, for want of a credential too, and was not healthy."""
    if observation is None or view.secret_problem:
        return True if observation is None and view.health == Cluster.Health.HEALTHY else None
    return not observation.is_absent


def _advice(
    view: ClusterView, *, is_healthy: bool, reason: str, clock_skew_s: int | None, now: datetime
) -> tuple[str, ...]:
    """What only an answering cluster can tell (models, speed) is missed only of a healthy one."""
    lines = []
    if view.secret_problem:
        lines.append(view.secret_problem)
    elif view.waking is not None and view.waking.failure_count:
        lines.append(f"waking it failed {view.waking.failure_count} times in a row: {view.waking.error}")
    elif not is_healthy and not view.is_wakeable:
        lines.append(f"{reason} ({view.endpoint}, backend {view.backend})")
    if is_healthy and not view.deployments:
        lines.append("it serves no model: add a deployment, or a default model for a provider")
    if gone := [each.model for each in view.deployments if each.is_vanished]:
        lines.append(f"it does not list {', '.join(gone)} any more, and gets no request for them")
    is_owned = view.kind == Cluster.Kind.OWN
    if is_healthy and is_owned and not view.measured_tokens_per_s and not view.rated_tokens_per_s:
        lines.append("its speed is unknown: enter the rated tokens/s, so that its tokens get a cost")
    if is_owned and not view.cost_per_hour_nanousd:
        lines.append("it has no cost per hour: its tokens count as free")
    lines.append(certificate_problem(view=view, now=now, told=reason))
    lines.append(clock_problem(view=view, clock_skew_s=clock_skew_s))
    return tuple(line for line in lines if line)
