"""The admin's pages of the inventory: clusters with their secrets and models, routes, settings, checks."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from uuid import UUID

from django.contrib import admin, messages
from django.db.models import Case, QuerySet, Value, When
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.urls import reverse
from django.utils import timezone
from django.utils.html import format_html

from clusters import hourly_costs, inventory, monitor
from clusters.badges import STATE_BADGES, badge, health_words
from clusters.experiment_admin import ExperimentPages
from clusters.forms import (
    ClusterForm,
    DeploymentForm,
    HourlyCostForm,
    RetireForm,
    RouteForm,
    RouterSettingsForm,
    usd,
)
from clusters.health_admin import UNKNOWN, HealthCheckAdmin, ProbeHistory, known
from clusters.models import (
    Cluster,
    ClusterSecret,
    Deployment,
    Experiment,
    HealthCheck,
    HourlyCost,
    Route,
    RouterSettings,
)
from clusters.report import certificate_problem
from clusters.snapshots import load_clusters, with_cost_in_force
from clusters.vault import VaultError
from clusters.waking_admin import WAKING_FIELDSET, WAKING_READ_ONLY, WakingColumns
from routing.cost import nanousd_per_1k_tokens

HOURLY_COSTS_SHOWN = 12
STANDING_BADGES = {"scheduled": "badge-warn", "in force": "badge-ok", "past": "badge-muted"}
PROBES_PER_ACTION_MAX = 100


admin.site.register(HealthCheck, HealthCheckAdmin)


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
    readonly_fields = ("listed",)
    fields = (
        *("model", "listed", "upstream_name", "context_window", "output_tokens_max"),
        *("capabilities", "is_enabled"),
    )
    extra = 0
    ordering = ("model",)

    @admin.display(description="listed")
    def listed(self, obj: Deployment) -> str:
        """Whether the cluster lists it, where that is followed."""
        if obj.vanished_at is None:
            return UNKNOWN
        shown = badge(css_class="badge-bad", text="Vanished")
        return format_html("{} {}", shown, f"{obj.vanished_at:%Y-%m-%d %H:%M} UTC")


class HourlyCostInline(admin.TabularInline):  # type: ignore[type-arg]  # takes no argument at run time
    """What the cluster costs from when on: the latest rows; a file may have brought thousands."""

    model = HourlyCost
    form = HourlyCostForm
    fields = ("effective_at", "cost_per_hour_usd", "source", "standing")
    readonly_fields = ("source", "standing")
    extra = 0
    ordering = ("-effective_at",)
    verbose_name = "hourly cost"
    verbose_name_plural = (
        f"hourly costs (the latest {HOURLY_COSTS_SHOWN}; scheduled ones may be deleted, none is changed)"
    )

    def get_queryset(self, request: HttpRequest) -> QuerySet[HourlyCost]:
        """By their ids: a formset cannot take a slice."""
        match = request.resolver_match
        cluster_id = _uuid(match.kwargs.get("object_id") if match else None)
        rows = super().get_queryset(request)
        if cluster_id is None:
            return rows.none()
        now = timezone.now()  # noqa: TID251 -- an edge: a page is drawn
        latest = HourlyCost.objects.filter(cluster_id=cluster_id).order_by("-effective_at")
        in_force = latest.filter(effective_at__lte=now).values_list("id", flat=True).first()
        rows = rows.annotate(
            standing=Case(
                When(effective_at__gt=now, then=Value("scheduled")),
                When(id=in_force, then=Value("in force")),
                default=Value("past"),
            )
        )
        shown: QuerySet[HourlyCost] = rows.filter(
            id__in=list(latest.values_list("id", flat=True)[:HOURLY_COSTS_SHOWN])
        )
        return shown

    @admin.display(description="standing")
    def standing(self, obj: Any) -> str:
        """Scheduled, in force or past."""
        return badge(css_class=STANDING_BADGES[obj.standing], text=obj.standing)


class ClusterSecretInline(admin.TabularInline):  # type: ignore[type-arg]  # takes no argument at run time
    """What is stored, never what is in it."""

    model = ClusterSecret
    form = RetireForm
    fields = ("purpose", "label", "created_at", "is_active", "is_staged", "rpm_max", "tpm_max", "retire")
    readonly_fields = ("purpose", "label", "created_at", "is_active", "is_staged")
    extra = 0
    max_num = 0
    can_delete = False
    ordering = ("-is_active", "-created_at")
    verbose_name_plural = "stored secrets (write-only)"


@admin.register(Cluster)
class ClusterAdmin(WakingColumns, ProbeHistory, InventoryAdmin):
    """Clusters and providers: how each is, what it costs, what it serves."""

    form = ClusterForm
    list_display = (
        "name",
        "kind",
        "place",
        "state_badge",
        "health_badge",
        "temperature_badge",
        "queue",
        "speed",
        "cost_per_hour",
    )
    list_filter = ("state", "health", "kind", "backend", "provider")
    search_fields = ("name",)
    ordering = ("name",)
    actions = ("probe_now", "drain", "activate", "disable")
    inlines = (HourlyCostInline, DeploymentInline, ClusterSecretInline)
    readonly_fields = (
        "health_badge",
        *WAKING_READ_ONLY,
        "health_checked_at",
        "addresses",
        "load",
        "speed",
        "latency",
        "cost_per_hour",
        "cost_per_1k",
        "credentials",
        "recent_checks",
        "last_day",
    )
    fieldsets = (
        (None, {"fields": ("name", "preset", "kind", "provider", "region", "tags", "state")}),
        (
            "Connection",
            {
                "fields": (
                    "endpoint",
                    "backend",
                    "auth_type",
                    "allow_private_network",
                    "expands_addresses",
                    "discovery",
                )
            },
        ),
        (
            "Cost and capacity",
            {
                "fields": (
                    *("billing", "cost_per_hour_usd", "replica_count", "tokens_per_s", "in_flight_max"),
                    *("cost_per_hour", "cost_per_1k"),
                )
            },
        ),
        WAKING_FIELDSET,
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
            {
                "fields": (
                    *("health_badge", "health_checked_at", "addresses", "load", "speed", "latency"),
                    *("last_day", "recent_checks"),
                )
            },
        ),
    )

    def get_queryset(self, request: HttpRequest) -> QuerySet[Any]:
        """With what each costs now."""
        now = timezone.now()  # noqa: TID251 -- an edge: a page is drawn
        return with_cost_in_force(super().get_queryset(request), now=now).select_related("waking")

    def save_model(self, request: HttpRequest, obj: Any, form: Any, change: bool) -> None:
        """The cluster, then the secrets entered beside it."""
        # A scaler may have written the replicas since the page was opened: only what was entered is saved.
        left_alone = set() if "replica_count" in form.changed_data else {"replica_count"}
        with self.told(request):
            inventory.save_record(record=obj, left_alone=left_alone)
            for purpose, label, plaintext in form.entered_secrets():
                inventory.store_secret(cluster_id=obj.pk, purpose=purpose, plaintext=plaintext, label=label)

    def save_formset(self, request: HttpRequest, form: Any, formset: Any, change: bool) -> None:
        """Deployments and hourly costs go through their doors; of secrets the ticked ones are retired."""
        changed = formset.save(commit=False)
        with self.told(request):
            if formset.model is HourlyCost:
                _save_hourly_costs(added=formset.new_objects, deleted=formset.deleted_objects)
                return
            if formset.model is ClusterSecret:
                for row in formset.forms:
                    if row.cleaned_data.get("retire"):
                        inventory.retire_secret(secret_id=row.instance.pk)
                    elif row.has_changed():
                        limits = {name: row.cleaned_data[name] for name in ("rpm_max", "tpm_max")}
                        inventory.limit_secret(secret_id=row.instance.pk, **limits)
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
        """By the prober and by live traffic."""
        return health_words(obj, now=timezone.now())  # noqa: TID251 -- an edge: a page is drawn

    @admin.display(description="queue", ordering="queue_depth")
    def queue(self, obj: Cluster) -> str:
        """Waiting requests, as the cluster says."""
        return known(obj.queue_depth)

    @admin.display(description="waiting / running")
    def load(self, obj: Cluster) -> str:
        """As the cluster says."""
        return f"{known(obj.queue_depth)} / {known(obj.running_count)}"

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

    @admin.display(description="cost per hour now", ordering="cost_in_force")
    def cost_per_hour(self, obj: Any) -> str:
        """In dollars, with the replicas of an autoscaled cluster."""
        cost = getattr(obj, "cost_in_force", obj.cost_per_hour_nanousd)
        if not cost:
            return UNKNOWN
        if obj.billing == Cluster.Billing.AUTOSCALED and obj.replica_count != 1:
            return f"{obj.replica_count} x ${usd(cost):,.4f} = ${usd(cost * obj.replica_count):,.4f}"
        return f"${usd(cost):,.4f}"

    @admin.display(description="cost per 1K tokens")
    def cost_per_1k(self, obj: Any) -> str:
        """The seed's formula at the measured or rated speed."""
        cost = nanousd_per_1k_tokens(
            cost_per_hour_nanousd=getattr(obj, "cost_in_force", obj.cost_per_hour_nanousd),
            tokens_per_s=obj.measured_tokens_per_s or obj.tokens_per_s,
            overhead_permille=inventory.get_router_settings().overhead_permille,
        )
        return "needs a cost per hour and a speed" if cost is None else f"${usd(cost):,.6f}"

    @admin.display(description="credentials")
    def credentials(self, obj: Cluster) -> str:
        """Whether what is stored can be used; never what it is."""
        now = timezone.now()  # noqa: TID251 -- an edge: a page is drawn
        for view in load_clusters(cluster_ids=[obj.pk], now=now):
            if view.secret_problem:
                return format_html(
                    "{} {}", badge(css_class="badge-bad", text="Unusable"), view.secret_problem
                )
            problem = certificate_problem(view=view, now=now)
            if problem:
                return format_html("{} {}", badge(css_class="badge-warn", text="Expiring"), problem)
            return badge(css_class="badge-ok", text="Usable")
        return "stored with the cluster"

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


@admin.register(Experiment)
class ExperimentAdmin(ExperimentPages, InventoryAdmin):
    """Experiments on routes; writes go through the inventory."""


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
        (
            "Latency objective",
            {
                "fields": (
                    ("ttft_objective_ms", "ttft_objective_us_per_prompt_token"),
                    "tpot_objective_ms",
                    ("miss_input_usd_per_mtok", "miss_output_usd_per_mtok"),
                ),
                "description": (
                    "Policy marginal fills own clusters as long as the objective is met; a provider's price "
                    "is weighed against its share of missed answers at the cost of a miss."
                ),
            },
        ),
        ("Queue", {"fields": (("queue_places_max", "queue_wait_ms_max"),)}),
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


def _save_hourly_costs(*, added: list[HourlyCost], deleted: list[HourlyCost]) -> None:
    now = timezone.now()  # noqa: TID251 -- an edge: the administrator saves now
    for row in deleted:
        hourly_costs.withdraw_hourly_cost(hourly_cost_id=row.pk, now=now)
    for row in added:
        hourly_costs.put_hourly_cost(
            cluster_name=row.cluster.name,
            effective_at=row.effective_at,
            cost_per_hour_nanousd=row.cost_per_hour_nanousd,
        )


def _uuid(text: Any) -> UUID | None:
    try:
        return UUID(str(text))
    except ValueError:
        return None
