"""The admin's pages of the inventory: clusters with their secrets and models, routes, settings, checks."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from typing import Any

from django.contrib import admin, messages
from django.core.paginator import Paginator
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.urls import reverse
from django.utils import timezone
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString

from clusters import inventory, monitor
from clusters.forms import ClusterForm, DeploymentForm, RetireForm, RouteForm, RouterSettingsForm, usd
from clusters.models import Cluster, ClusterSecret, Deployment, HealthCheck, Route, RouterSettings
from clusters.report import certificate_problem, nanousd_per_1k_tokens
from clusters.snapshots import load_clusters
from clusters.vault import VaultError

RECENT_CHECKS = 20
HEALTH_CHECK_ROWS_MAX = 10_000
PROBES_PER_ACTION_MAX = 100
UNKNOWN = "-"
STATE_BADGES = {
    Cluster.State.ACTIVE.value: "badge-ok",
    Cluster.State.DRAINING.value: "badge-warn",
    Cluster.State.DISABLED.value: "badge-muted",
}
HEALTH_BADGES = {
    Cluster.Health.HEALTHY.value: "badge-ok",
    Cluster.Health.UNHEALTHY.value: "badge-bad",
    Cluster.Health.UNKNOWN.value: "badge-muted",
}


def badge(*, css_class: str, text: str) -> SafeString:
    """A coloured word; the colours are in the stylesheet."""
    return format_html('<span class="badge {}">{}</span>', css_class, text)


class BoundedPaginator(Paginator):  # type: ignore[type-arg]  # takes no argument at run time
    """Counts no further than the rows that anybody would page through."""

    @cached_property
    def count(self) -> int:
        """At most `HEALTH_CHECK_ROWS_MAX`."""
        rows: Any = self.object_list
        return int(rows[:HEALTH_CHECK_ROWS_MAX].count())


class InventoryAdmin(admin.ModelAdmin):  # type: ignore[type-arg]  # takes no argument at run time
    """Sends each write through the inventory, so that it is checked and reaches every gateway."""

    def save_model(self, request: HttpRequest, obj: Any, form: Any, change: bool) -> None:
        """One record."""
        with self.told(request):
            inventory.save_record(record=obj)

    def delete_model(self, request: HttpRequest, obj: Any) -> None:
        """One record, with what hangs on it."""
        with self.told(request):
            inventory.delete_records(records=[obj])

    def delete_queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> None:
        """Those ticked in the list."""
        with self.told(request):
            inventory.delete_records(records=queryset)

    @contextmanager
    def told(self, request: HttpRequest) -> Iterator[None]:
        """What the inventory refuses is told to the user instead of ending in an error page."""
        try:
            yield
        except (inventory.InventoryError, VaultError) as error:
            self.message_user(request, str(error), messages.ERROR)


class DeploymentInline(admin.TabularInline):  # type: ignore[type-arg]  # takes no argument at run time
    """The models that a cluster serves."""

    model = Deployment
    form = DeploymentForm
    extra = 0
    ordering = ("model",)


class ClusterSecretInline(admin.TabularInline):  # type: ignore[type-arg]  # takes no argument at run time
    """What is stored, never what is in it."""

    model = ClusterSecret
    form = RetireForm
    fields = ("purpose", "label", "created_at", "is_active", "retire")
    readonly_fields = ("purpose", "label", "created_at", "is_active")
    extra = 0
    max_num = 0
    can_delete = False
    ordering = ("-is_active", "-created_at")
    verbose_name_plural = "stored secrets (write-only)"


@admin.register(Cluster)
class ClusterAdmin(InventoryAdmin):
    """Clusters and providers: how each is, what it costs, what it serves."""

    form = ClusterForm
    list_display = (
        "name",
        "kind",
        "place",
        "state_badge",
        "health_badge",
        "queue",
        "speed",
        "cost_per_hour",
    )
    list_filter = ("state", "health", "kind", "backend", "provider")
    search_fields = ("name",)
    ordering = ("name",)
    actions = ("probe_now", "drain", "activate", "disable")
    inlines = (DeploymentInline, ClusterSecretInline)
    readonly_fields = (
        "health_badge",
        "health_checked_at",
        "load",
        "speed",
        "latency",
        "cost_per_1k",
        "credentials",
        "recent_checks",
    )
    fieldsets = (
        (None, {"fields": ("name", "kind", "provider", "region", "state")}),
        ("Connection", {"fields": ("endpoint", "backend", "auth_type", "allow_private_network")}),
        (
            "Cost and capacity",
            {"fields": ("billing", "cost_per_hour_usd", "tokens_per_s", "in_flight_max", "cost_per_1k")},
        ),
        ("Provider limits", {"fields": ("default_model", "rpm_max", "tpm_max", "burst_percent")}),
        (
            "Secrets (write-only)",
            {
                "fields": (
                    "credentials",
                    "secret",
                    "secret_label",
                    "client_certificate",
                    "client_key",
                    "ca",
                )
            },
        ),
        (
            "Health",
            {"fields": ("health_badge", "health_checked_at", "load", "speed", "latency", "recent_checks")},
        ),
    )

    def save_model(self, request: HttpRequest, obj: Any, form: Any, change: bool) -> None:
        """The cluster, then the secrets entered beside it."""
        with self.told(request):
            inventory.save_record(record=obj)
            for purpose, label, plaintext in form.entered_secrets():
                inventory.store_secret(cluster_id=obj.pk, purpose=purpose, plaintext=plaintext, label=label)

    def save_formset(self, request: HttpRequest, form: Any, formset: Any, change: bool) -> None:
        """Deployments are saved and deleted; of secrets the ticked ones are retired."""
        changed = formset.save(commit=False)
        with self.told(request):
            if formset.model is ClusterSecret:
                for row in formset.forms:
                    if row.cleaned_data.get("retire"):
                        inventory.retire_secret(secret_id=row.instance.pk)
                return
            if formset.deleted_objects:
                inventory.delete_records(records=formset.deleted_objects)
            for record in changed:
                inventory.save_record(record=record)

    @admin.display(description="provider / region", ordering="provider")
    def place(self, obj: Cluster) -> str:
        """Who runs it, and where."""
        return " / ".join(filter(None, (obj.provider, obj.region))) or UNKNOWN

    @admin.display(description="state", ordering="state")
    def state_badge(self, obj: Cluster) -> str:
        """Active, draining or disabled."""
        label = Cluster.State(obj.state).name.title()
        return badge(css_class=STATE_BADGES.get(obj.state, "badge-muted"), text=label)

    @admin.display(description="health", ordering="health")
    def health_badge(self, obj: Cluster) -> str:
        """With the reason, where there is one."""
        shown = badge(css_class=HEALTH_BADGES.get(obj.health, "badge-muted"), text=obj.get_health_display())
        return format_html("{} {}", shown, obj.health_reason) if obj.health_reason else shown

    @admin.display(description="queue", ordering="queue_depth")
    def queue(self, obj: Cluster) -> str:
        """Waiting requests, as the cluster says."""
        return _known(obj.queue_depth)

    @admin.display(description="waiting / running")
    def load(self, obj: Cluster) -> str:
        """As the cluster says."""
        return f"{_known(obj.queue_depth)} / {_known(obj.running_count)}"

    @admin.display(description="tokens/s")
    def speed(self, obj: Cluster) -> str:
        """Measured, else rated."""
        if obj.measured_tokens_per_s is not None:
            return f"{obj.measured_tokens_per_s} measured"
        return UNKNOWN if obj.tokens_per_s is None else f"{obj.tokens_per_s} rated"

    @admin.display(description="latency")
    def latency(self, obj: Cluster) -> str:
        """Time to first token where the cluster says it, else the health request's."""
        return UNKNOWN if obj.latency_ms is None else f"{obj.latency_ms} ms"

    @admin.display(description="cost per hour", ordering="cost_per_hour_nanousd")
    def cost_per_hour(self, obj: Cluster) -> str:
        """In dollars."""
        return f"${usd(obj.cost_per_hour_nanousd):,.4f}" if obj.cost_per_hour_nanousd else UNKNOWN

    @admin.display(description="cost per 1K tokens")
    def cost_per_1k(self, obj: Cluster) -> str:
        """The seed's formula at the measured or rated speed."""
        cost = nanousd_per_1k_tokens(
            cost_per_hour_nanousd=obj.cost_per_hour_nanousd,
            tokens_per_s=obj.measured_tokens_per_s or obj.tokens_per_s,
            overhead_permille=inventory.get_router_settings().overhead_permille,
        )
        return "needs a cost per hour and a speed" if cost is None else f"${usd(cost):,.6f}"

    @admin.display(description="credentials")
    def credentials(self, obj: Cluster) -> str:
        """Whether what is stored can be used; never what it is."""
        for view in load_clusters(cluster_ids=[obj.pk]):
            if view.secret_problem:
                return format_html(
                    "{} {}", badge(css_class="badge-bad", text="Unusable"), view.secret_problem
                )
            problem = certificate_problem(view=view, now=timezone.now())  # noqa: TID251 -- an edge: a page is drawn
            if problem:
                return format_html("{} {}", badge(css_class="badge-warn", text="Expiring"), problem)
            return badge(css_class="badge-ok", text="Usable")
        return "stored with the cluster"

    @admin.display(description=f"latest {RECENT_CHECKS} checks")
    def recent_checks(self, obj: Cluster) -> str:
        """A table, not an inline: new checks arrive while the page is open, and a form would trip on them."""
        checks = HealthCheck.objects.filter(cluster_id=obj.pk).order_by("-checked_at")[:RECENT_CHECKS]
        rows = format_html_join(
            "",
            "<tr><td>{}</td><td>{}</td><td>{}</td><td>{} ms</td><td>{}</td><td>{}</td></tr>",
            (
                (
                    f"{check.checked_at:%Y-%m-%d %H:%M:%S}",
                    _check_badge(check),
                    check.reason or UNKNOWN,
                    check.duration_ms,
                    f"{_known(check.queue_depth)} / {_known(check.running_count)}",
                    _known(check.tokens_per_s),
                )
                for check in checks
            ),
        )
        if not rows:
            return "not probed yet"
        return format_html(
            '<table class="recent-checks"><thead><tr><th>At (UTC)</th><th>Health</th><th>Reason</th>'
            "<th>Took</th><th>Waiting / running</th><th>Tokens/s</th></tr></thead><tbody>{}</tbody></table>",
            rows,
        )

    @admin.action(description="Probe now", permissions=["change"])
    def probe_now(self, request: HttpRequest, queryset: QuerySet[Cluster]) -> None:
        """Ask each, and say what it answered."""
        cluster_ids = list(queryset.values_list("id", flat=True)[:PROBES_PER_ACTION_MAX])
        now = timezone.now()  # noqa: TID251 -- an edge: the administrator asks now
        for result in monitor.probe_clusters(cluster_ids=cluster_ids, now=now):
            if result.observation.is_healthy:
                self.message_user(request, f"{result.name} is healthy.", messages.SUCCESS)
            else:
                text = f"{result.name} is not healthy: {result.observation.reason}"
                self.message_user(request, text, messages.WARNING)

    @admin.action(description="Drain (finish, take nothing new)", permissions=["change"])
    def drain(self, request: HttpRequest, queryset: QuerySet[Cluster]) -> None:
        """Requests under way finish."""
        self._set_state(request, queryset, Cluster.State.DRAINING)

    @admin.action(description="Activate", permissions=["change"])
    def activate(self, request: HttpRequest, queryset: QuerySet[Cluster]) -> None:
        """Takes requests again."""
        self._set_state(request, queryset, Cluster.State.ACTIVE)

    @admin.action(description="Disable", permissions=["change"])
    def disable(self, request: HttpRequest, queryset: QuerySet[Cluster]) -> None:
        """Neither used nor probed."""
        self._set_state(request, queryset, Cluster.State.DISABLED)

    def _set_state(self, request: HttpRequest, queryset: QuerySet[Cluster], state: str) -> None:
        for cluster in queryset:
            with self.told(request):
                inventory.set_cluster_state(cluster_id=cluster.pk, state=state)
                self.log_change(request, cluster, f"Set state to {state}.")
                self.message_user(request, f"{cluster.name} is {state} now.", messages.SUCCESS)


@admin.register(Route)
class RouteAdmin(InventoryAdmin):
    """Public model names."""

    form = RouteForm
    list_display = ("model", "answered_by", "falls_back_to", "policy_shown", "is_enabled")
    list_filter = ("is_enabled",)
    search_fields = ("model",)
    ordering = ("model",)

    @admin.display(description="candidates")
    def answered_by(self, obj: Route) -> str:
        """In the order entered."""
        return ", ".join(obj.candidates)

    @admin.display(description="fallbacks")
    def falls_back_to(self, obj: Route) -> str:
        """In the order they are tried."""
        return ", ".join(obj.fallbacks) or UNKNOWN

    @admin.display(description="policy", ordering="policy")
    def policy_shown(self, obj: Route) -> str:
        """Its own, or the installation's."""
        return obj.policy or "as in the router settings"


@admin.register(RouterSettings)
class RouterSettingsAdmin(InventoryAdmin):
    """One row, made with its defaults when first looked at."""

    form = RouterSettingsForm
    fieldsets = (
        (
            "Routing",
            {
                "fields": (
                    "policy",
                    "stickiness_window_s",
                    "latency_ms_max",
                    "queue_depth_max",
                    "overhead_factor",
                    "cluster_cost_threshold_usd",
                    "is_external_fallback_enabled",
                )
            },
        ),
        ("Health", {"fields": ("health_check_interval_s",)}),
        ("Server", {"fields": ("server_port", "read_timeout_s", "write_timeout_s", "idle_timeout_s")}),
    )

    def has_add_permission(self, request: HttpRequest) -> bool:
        """There is one row."""
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """There is one row."""
        return False

    def changelist_view(
        self, request: HttpRequest, extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        """Straight to the row."""
        row = inventory.get_router_settings()
        return HttpResponseRedirect(reverse("admin:clusters_routersettings_change", args=[row.pk]))


@admin.register(HealthCheck)
class HealthCheckAdmin(admin.ModelAdmin):  # type: ignore[type-arg]  # takes no argument at run time
    """What the probes saw, read-only."""

    list_display = (
        "checked_at",
        "cluster_name",
        "health",
        "reason",
        "duration_ms",
        "queue_depth",
        "tokens_per_s",
    )
    list_filter = ("is_healthy", "cluster")
    list_select_related = ("cluster",)
    ordering = ("-checked_at",)
    show_full_result_count = False
    paginator = BoundedPaginator

    @admin.display(description="cluster")
    def cluster_name(self, obj: HealthCheck) -> str:
        """Without its id."""
        return obj.cluster.name

    @admin.display(description="health", ordering="is_healthy")
    def health(self, obj: HealthCheck) -> str:
        """Of this one check."""
        return _check_badge(obj)

    def has_add_permission(self, request: HttpRequest) -> bool:
        """Only the prober writes."""
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Only the prober writes."""
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Pruned by age."""
        return False


def _check_badge(check: HealthCheck) -> SafeString:
    if check.is_healthy:
        return badge(css_class="badge-ok", text="Healthy")
    return badge(css_class="badge-bad", text="Unhealthy")


def _known(value: int | None) -> str:
    return UNKNOWN if value is None else str(value)
