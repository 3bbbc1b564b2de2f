"""The state at a glance, as plain values: what the console's first page and the overview show to staff."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from django.conf import settings
from django.core.handlers.asgi import ASGIRequest
from django.http import HttpRequest
from django.urls import reverse

from billing import charts, overview, reports
from billing.amounts import rounded_usd_text, usd_text
from billing.charts import percent_text
from clusters.report import certificate_problem
from clusters.snapshots import ClusterView, InventorySnapshot, load_inventory
from gateway.fleet import STALE_INTERVALS
from routing.cost import nanousd_per_1k_tokens
from routing.economics import CostFigures

if TYPE_CHECKING:
    from gateway.lifespan import Gateway

SPARK_SPAN = timedelta(hours=24)
NOTHING_SERVED = reports.ReportRow(name="")
UNKNOWN = "-"
NOTICES_MAX = 20
FAILED_PERMILLE_WARN, FAILED_PERMILLE_BAD = 10, 50
STATE_BADGES = {"active": "ok", "draining": "warn", "disabled": "muted"}
MARGINAL_NOTES = {
    "paid": "paid already",
    "running": "runs anyway",
    "provider_price": "full: a provider's price",
    "waking": "must be woken",
    "metered": "by the token",
}
HEALTH_BADGES = {"healthy": "ok", "unhealthy": "bad", "unknown": "muted"}
ASLEEP_BADGES = {"cold": "muted", "waking": "warn"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Tile:
    """One figure. `kind` is empty, warn or bad; `title` is the exact value."""

    label: str
    value: str
    note: str
    url: str
    kind: str = ""
    title: str = ""
    line: charts.Sparkline | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Notice:
    """Something that a person should look at, and where."""

    kind: str
    subject: str
    text: str
    url: str
    link: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SiteLine:
    """A cluster or provider in the table of the fleet."""

    name: str
    url: str
    place: str
    is_provider: bool
    models: str
    badge_kind: str
    badge_text: str
    reason: str
    queue: str
    tokens_per_s: str
    cost_per_hour: str
    cost_per_1k: str
    requests: str
    spend: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CapacityLine:
    """What an own cluster's tokens cost; `verdict` says where a provider would be cheaper than the hour."""

    name: str
    average_measured: str
    average_nameplate: str
    marginal: str
    marginal_note: str
    idle_per_hour: str
    served: str
    break_even: str
    verdict: str
    waking: str = UNKNOWN


@dataclass(frozen=True, slots=True, kw_only=True)
class Glance:
    tiles: tuple[Tile, ...]
    notices: tuple[Notice, ...]
    hidden_notice_count: int
    sites: tuple[SiteLine, ...]
    capacities: tuple[CapacityLine, ...] = ()


def gateway_of(request: HttpRequest) -> "Gateway | None":
    """The process's gateway; None where the request came by another way than gateway.asgi."""
    return request.scope.get("gateway") if isinstance(request, ASGIRequest) else None


def load_glance(*, gateway: "Gateway | None", now: datetime) -> Glance:
    """Read the inventory, today's sums and the budgets; the number of queries does not grow with them."""
    inventory = load_inventory(now=now)
    midnight = now.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    today = reports.spend_report(group="cluster", from_at=midnight, to_at=midnight + timedelta(days=1))
    served = {row.name: row for row in today.rows}
    stale_after = timedelta(seconds=inventory.settings.health_check_interval_s * STALE_INTERVALS)
    views = tuple(_as_known(view, since=now - stale_after) for view in inventory.clusters)
    notices = (
        *_gateway_notices(gateway),
        *_prober_notices(inventory.clusters, since=now - stale_after),
        *(notice for view in views for notice in _cluster_notices(view, now=now)),
        *_budget_notices(now=now),
        *_doubt_notices(),
    )
    return Glance(
        tiles=(
            *_usage_tiles(today.totals, line=_spend_line(now=now)),
            _fleet_tile(views),
            *_gateway_tiles(gateway),
        ),
        notices=notices[:NOTICES_MAX],
        hidden_notice_count=max(0, len(notices) - NOTICES_MAX),
        sites=tuple(_site_line(view, inventory=inventory, served=served) for view in views),
        capacities=_capacity_lines(gateway),
    )


def _is_stale(view: ClusterView, *, since: datetime) -> bool:
    return view.health_checked_at is None or view.health_checked_at <= since


def _as_known(view: ClusterView, *, since: datetime) -> ClusterView:
    """The cluster as routing sees it: what an old probe saw is not known any more."""
    return view.as_unknown() if _is_stale(view, since=since) else view


def _spend_line(*, now: datetime) -> charts.Sparkline | None:
    series = reports.spend_series(split="cluster", step="hour", from_at=now - SPARK_SPAN, to_at=now)
    return charts.sparkline([sum(amounts) for amounts in zip(*series.values_nanousd, strict=True)])


def _usage_tiles(totals: reports.ReportRow, *, line: charts.Sparkline | None) -> tuple[Tile, ...]:
    usage_url = f"{reverse('billing:usage')}?period=today"
    failed_permille = totals.failures * 1000 // max(totals.requests, 1)
    is_bad, is_warn = failed_permille >= FAILED_PERMILLE_BAD, failed_permille >= FAILED_PERMILLE_WARN
    return (
        Tile(
            label="Spend today",
            value=rounded_usd_text(totals.cost_nanousd),
            title=usd_text(totals.cost_nanousd),
            note=f"{rounded_usd_text(totals.metered_nanousd)} to providers",
            url=f"{usage_url}&group=cluster",
            line=line,
        ),
        Tile(
            label="Requests today",
            value=f"{totals.requests:,}",
            note="attempts, reroutes included",
            url=f"{usage_url}&group=model",
        ),
        Tile(
            label="Tokens today",
            value=_compact(totals.input_tokens + totals.output_tokens),
            title=f"{totals.input_tokens + totals.output_tokens:,}",
            note=f"{_compact(totals.input_tokens)} in, {_compact(totals.output_tokens)} out",
            url=f"{usage_url}&group=key",
        ),
        Tile(
            label="Failed today",
            value=percent_text(part=totals.failures, whole=totals.requests),
            note=f"{totals.failures:,} before any content",
            url=f"{reverse('admin:billing_usagerecord_changelist')}?outcome=failed",
            kind="bad" if is_bad else "warn" if is_warn else "",
        ),
    )


def _fleet_tile(views: Iterable[ClusterView]) -> Tile:
    """What nobody probed lately is routed to as well: only what is known to be down is a warning."""
    used = [view for view in views if view.state == "active"]
    down = [
        view for view in used if (view.health == "unhealthy" and not view.is_asleep) or view.secret_problem
    ]
    asleep = [view for view in used if view.is_asleep and not view.secret_problem]
    healthy = [
        view for view in used if view.health == "healthy" and not view.secret_problem and not view.is_asleep
    ]
    unknown_count = len(used) - len(down) - len(healthy) - len(asleep)
    per_hour = f"{rounded_usd_text(sum(_hourly_nanousd(view) for view in used))} per hour"
    counts = [(unknown_count, "unknown"), (len(asleep), "asleep")]
    return Tile(
        label="Fleet",
        value=f"{len(healthy)} of {len(used)} healthy",
        note=", ".join([*(f"{count} {word}" for count, word in counts if count), per_hour]),
        url=reverse("admin:clusters_cluster_changelist"),
        kind="" if not down else "bad" if len(down) == len(used) else "warn",
    )


def _hourly_nanousd(view: ClusterView) -> int:
    """What it costs now, with the replicas of an autoscaled cluster."""
    replicas = 1 if view.waking is None else view.running_replica_count
    return view.cost_per_hour_nanousd * replicas


def _gateway_tiles(gateway: "Gateway | None") -> tuple[Tile, ...]:
    if gateway is None:
        return ()
    is_stale = gateway.keeper.age_s > settings.SNAPSHOT_STALE_S
    return (
        Tile(
            label="In flight here",
            value=f"{gateway.admission.in_flight:,}",
            note=f"control plane read {gateway.keeper.age_s:.0f} s ago",
            url=reverse("live"),
            kind="bad" if is_stale else "",
        ),
    )


def _gateway_notices(gateway: "Gateway | None") -> tuple[Notice, ...]:
    if gateway is None:
        return ()
    notices = []
    if gateway.admission.is_draining:
        notices.append(
            Notice(
                kind="warn",
                subject="Draining",
                text="This process finishes what it serves and takes nothing new.",
                url=reverse("live"),
                link="Live",
            )
        )
    if gateway.keeper.age_s > settings.SNAPSHOT_STALE_S:
        notices.append(
            Notice(
                kind="bad",
                subject="Control plane",
                text=f"It was last read {gateway.keeper.age_s:.0f} s ago: requests are served as it was "
                f"then, changes wait. See this process's log for the database's error.",
                url=reverse("health"),
                link="Health",
            )
        )
    unpriced = sorted(
        {
            f"{target.deployment.model} on {target.deployment.cluster}"
            for target in gateway.keeper.snapshot.targets.values()
            if target.deployment.rate is None
        }
    )
    return (
        *notices,
        *(
            Notice(
                kind="warn",
                subject="No price",
                text=f"{name}: what it serves is booked as free, and hard budgets do not use it.",
                url=reverse("admin:billing_price_add"),
                link="Add price",
            )
            for name in unpriced
        ),
    )


def _prober_notices(views: Iterable[ClusterView], *, since: datetime) -> Iterable[Notice]:
    probed = [view for view in views if view.state != "disabled"]
    if probed and all(_is_stale(view, since=since) for view in probed):
        yield Notice(
            kind="warn",
            subject="Prober",
            text="No cluster was probed lately: health and queues are unknown. Are worker and beat running?",
            url=reverse("admin:clusters_healthcheck_changelist"),
            link="Checks",
        )


def _cluster_notices(view: ClusterView, *, now: datetime) -> Iterable[Notice]:
    if view.state == "disabled":
        return
    is_down = view.health == "unhealthy" and not view.is_asleep
    unhealthy = (view.health_reason or "the prober says no more") if is_down else ""
    unwoken = ""
    if view.waking is not None and view.waking.failure_count:
        unwoken = f"waking it failed {view.waking.failure_count} times in a row: {view.waking.error}"
    unserving = "" if view.deployments else "it serves no model: add a deployment"
    for kind, text in (
        ("bad", view.secret_problem),
        ("bad", unhealthy),
        ("bad", unwoken),
        ("warn", certificate_problem(view=view, now=now, told=unhealthy)),
        ("warn", unserving),
    ):
        if text:
            url = reverse("admin:clusters_cluster_change", args=[view.id])
            yield Notice(kind=kind, subject=view.name, text=text, url=url, link="Open")


def _budget_notices(*, now: datetime) -> Iterable[Notice]:
    for use in overview.load_close_budgets(now=now):
        percent = percent_text(part=use.bound_nanousd, whole=use.limit_nanousd)
        effect = "requests are refused" if use.is_hard and use.is_full else "spent or held"
        yield Notice(
            kind="bad" if use.is_full else "warn",
            subject="Budget",
            text=f"{use.owner}, {use.window}: {percent} of {usd_text(use.limit_nanousd)}, {effect}",
            url=reverse("admin:billing_budget_change", args=[use.id]),
            link="Open",
        )


def _doubt_notices() -> Iterable[Notice]:
    if count := overview.count_in_doubt():
        yield Notice(
            kind="warn",
            subject="In doubt",
            text=f"{count:,} attempts of dead processes hold money; manage.py reconcile_ledger ends them.",
            url=reverse("admin:billing_reservation_changelist"),
            link="Open",
        )


def _site_line(
    view: ClusterView, *, inventory: InventorySnapshot, served: Mapping[str, reports.ReportRow]
) -> SiteLine:
    tokens_per_s = view.measured_tokens_per_s or view.rated_tokens_per_s
    per_1k = nanousd_per_1k_tokens(
        cost_per_hour_nanousd=view.cost_per_hour_nanousd,
        tokens_per_s=tokens_per_s,
        overhead_permille=inventory.settings.overhead_permille,
    )
    is_active = view.state == "active"
    health = view.temperature if view.is_asleep else view.health
    badge_kind = (ASLEEP_BADGES | HEALTH_BADGES)[health] if is_active else STATE_BADGES[view.state]
    row = served.get(view.name, NOTHING_SERVED)
    return SiteLine(
        name=view.name,
        url=reverse("admin:clusters_cluster_change", args=[view.id]),
        place=" / ".join(filter(None, (view.provider, view.region))),
        is_provider=view.kind == "provider",
        models=", ".join(deployment.model for deployment in view.deployments) or UNKNOWN,
        badge_kind="bad" if view.secret_problem and is_active else badge_kind,
        badge_text=health if is_active else view.state,
        reason=view.secret_problem or view.health_reason,
        queue=_known(view.queue_depth),
        tokens_per_s=_known(tokens_per_s),
        cost_per_hour=usd_text(view.cost_per_hour_nanousd) if view.cost_per_hour_nanousd else UNKNOWN,
        cost_per_1k=_usd_or_unknown(per_1k),
        requests=f"{row.requests:,}",
        spend=rounded_usd_text(row.cost_nanousd),
    )


def _capacity_lines(gateway: "Gateway | None") -> tuple[CapacityLine, ...]:
    """Of own clusters, by name; without a gateway in this process nothing is known of now."""
    if gateway is None:
        return ()
    figures = gateway.figures.figures()
    return tuple(
        _capacity_line(each) for _, each in sorted(figures.items()) if each.marginal_kind != "metered"
    )


def _capacity_line(each: CostFigures) -> CapacityLine:
    served, break_even = each.served_tokens_per_s, each.break_even_tokens_per_s
    is_below = served is not None and break_even is not None and served < break_even
    return CapacityLine(
        name=each.cluster,
        average_measured=_usd_or_unknown(each.average_measured_nanousd),
        average_nameplate=_usd_or_unknown(each.average_nameplate_nanousd),
        marginal=_usd_or_unknown(each.marginal_nanousd),
        marginal_note=MARGINAL_NOTES[each.marginal_kind],
        idle_per_hour=_usd_or_unknown(each.idle_nanousd_per_hour),
        served=UNKNOWN if served is None else f"{served:,.1f}",
        break_even=_known(break_even),
        verdict="a provider would be cheaper" if is_below else "",
        waking=_usd_or_unknown(each.waking_nanousd),
    )


def _usd_or_unknown(nanousd: int | None) -> str:
    return UNKNOWN if nanousd is None else rounded_usd_text(nanousd)


def _known(value: int | None) -> str:
    return UNKNOWN if value is None else f"{value:,}"


def _compact(count: int) -> str:
    """For headlines: 12,345 up to a hundred thousand, then 1.2 M."""
    if count < 100_000:
        return f"{count:,}"
    for size, unit in ((1_000_000_000, "B"), (1_000_000, "M")):
        if count >= size:
            return f"{count / size:.2f} {unit}"
    return f"{count // 1000} k"
