"""The admin's pages of keys, budgets and prices; the ledger's read-only ones are registered here too."""

from collections.abc import Callable
from datetime import datetime
from operator import attrgetter
from typing import Any
from urllib.parse import urlencode

from django.contrib import admin, messages
from django.contrib.admin.views.main import ChangeList
from django.db.models import Count, Exists, Model, OuterRef, QuerySet
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.shortcuts import render
from django.template.response import TemplateResponse
from django.urls import reverse
from django.utils import timezone
from django.utils.html import format_html
from django.utils.safestring import SafeString

from billing import keys, ledger_admin, prices
from billing.amounts import rate_text, usd_text
from billing.badges import badge
from billing.charts import percent_text
from billing.forms import ApiKeyForm, BudgetForm, PriceForm
from billing.models import (
    ApiKey,
    Budget,
    BudgetWindow,
    CapacityHour,
    Organisation,
    Price,
    Reservation,
    SpendRollup,
    Team,
    UsageRecord,
)
from billing.records import RecordError
from billing.windows import window_of

admin.site.register(UsageRecord, ledger_admin.UsageRecordAdmin)
admin.site.register(Reservation, ledger_admin.ReservationAdmin)
admin.site.register(SpendRollup, ledger_admin.SpendRollupAdmin)
admin.site.register(BudgetWindow, ledger_admin.BudgetWindowAdmin)
admin.site.register(CapacityHour, ledger_admin.CapacityHourAdmin)

MODELS_SHOWN_MAX = 3
KEY_FACTS = ("shown_prefix", "state", "revoked_at", "created_at", "updated_at")
# Where an issued key waits on its own request for the page that shows it.
ISSUED_ATTRIBUTE = "issued_api_key"


def _now() -> datetime:
    return timezone.now()  # noqa: TID251 -- the admin is an edge


class _ThroughTheDoor(admin.ModelAdmin):  # type: ignore[type-arg]  # generic only for mypy
    """Writes through billing.keys and billing.prices; what they refuse becomes a message on the page."""

    show_facets = admin.ShowFacets.NEVER

    def formfield_for_foreignkey(self, *args: Any, **kwargs: Any) -> Any:
        field = super().formfield_for_foreignkey(*args, **kwargs)
        if field is not None:
            # Names are unique here; the id in a row's text is for logs.
            setattr(field, "label_from_instance", attrgetter("name"))  # noqa: B010 -- mypy: it is a method
        return field

    def save_model(self, request: HttpRequest, obj: Any, form: Any, change: bool) -> None:
        keys.save_record(record=obj)

    def delete_model(self, request: HttpRequest, obj: Any) -> None:
        keys.delete_records(records=[obj])

    def get_actions(self, request: HttpRequest) -> dict[str, Any]:
        # Rows that the ledger knows stay, so there is nothing to delete in bulk.
        actions = super().get_actions(request)
        return {name: action for name, action in actions.items() if name != "delete_selected"}

    def changeform_view(self, request: HttpRequest, *args: Any, **kwargs: Any) -> Any:
        return self._refusals_shown(request, super().changeform_view, *args, **kwargs)

    def delete_view(self, request: HttpRequest, *args: Any, **kwargs: Any) -> Any:
        return self._refusals_shown(request, super().delete_view, *args, **kwargs)

    def _refusals_shown(
        self, request: HttpRequest, view: Callable[..., Any], *args: Any, **kwargs: Any
    ) -> Any:
        try:
            return view(request, *args, **kwargs)
        except (RecordError, prices.PriceRecordError) as error:
            self.message_user(request, str(error), messages.ERROR)
            return HttpResponseRedirect(request.path)


@admin.register(Organisation)
class OrganisationAdmin(_ThroughTheDoor):
    list_display = ("name", "team_count", "usage", "created_at")
    search_fields = ("name",)
    ordering = ("name",)

    def get_queryset(self, request: HttpRequest) -> QuerySet[Organisation]:
        records: QuerySet[Organisation] = super().get_queryset(request)
        return records.annotate(team_count=Count("teams"))

    @admin.display(description="teams", ordering="team_count")
    def team_count(self, record: Any) -> int:
        return int(record.team_count)

    @admin.display(description="")
    def usage(self, record: Organisation) -> SafeString:
        return _usage_link(group="team", organisation=record.name)


@admin.register(Team)
class TeamAdmin(_ThroughTheDoor):
    list_display = ("name", "organisation_name", "key_count", "usage", "created_at")
    list_select_related = ("organisation",)
    search_fields = ("name", "organisation__name")
    ordering = ("name",)

    def get_queryset(self, request: HttpRequest) -> QuerySet[Team]:
        records: QuerySet[Team] = super().get_queryset(request)
        return records.annotate(key_count=Count("keys"))

    @admin.display(description="organisation", ordering="organisation__name")
    def organisation_name(self, record: Team) -> str:
        return record.organisation.name

    @admin.display(description="keys", ordering="key_count")
    def key_count(self, record: Any) -> int:
        return int(record.key_count)

    @admin.display(description="")
    def usage(self, record: Team) -> SafeString:
        return _usage_link(group="key", team=record.name)


@admin.register(ApiKey)
class ApiKeyAdmin(_ThroughTheDoor):
    form = ApiKeyForm
    list_display = ("name", "shown_prefix", "team_name", "models", "limits", "state", "usage", "created_at")
    list_select_related = ("team",)
    list_filter = (("revoked_at", admin.EmptyFieldListFilter),)
    search_fields = ("name", "prefix__exact", "team__name")
    ordering = ("-created_at",)
    actions = ("revoke_keys",)

    def get_fields(self, request: HttpRequest, obj: Model | None = None) -> tuple[str, ...]:
        entered = ("name", "allowed_models", "expires_at", "rpm_max", "tpm_max")
        return ("team", *entered) if obj is None else ("team_name", *entered, *KEY_FACTS)

    def get_readonly_fields(self, request: HttpRequest, obj: Model | None = None) -> tuple[str, ...]:
        # A key stays in its team: its spend is booked there.
        return () if obj is None else ("team_name", *KEY_FACTS)

    def add_view(
        self, request: HttpRequest, form_url: str = "", extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        # The new key is on the next page: there is no going on from here.
        buttons = {"show_save_and_add_another": False, "show_save_and_continue": False}
        return super().add_view(request, form_url, {**(extra_context or {}), **buttons})

    def save_model(self, request: HttpRequest, obj: ApiKey, form: Any, change: bool) -> None:
        if change:
            super().save_model(request, obj, form, change)
            return
        issued = keys.issue_key(
            team_id=obj.team_id,
            name=obj.name,
            allowed_models=obj.allowed_models,
            expires_at=obj.expires_at,
            rpm_max=obj.rpm_max,
            tpm_max=obj.tpm_max,
        )
        obj.id, obj.prefix = issued.id, issued.prefix
        # Only this request sees the key: response_add puts it on the page that answers it.
        setattr(request, ISSUED_ATTRIBUTE, issued)

    def response_add(
        self, request: HttpRequest, obj: ApiKey, post_url_continue: str | None = None
    ) -> HttpResponse:
        context = {
            **self.admin_site.each_context(request),
            "title": "Key issued",
            "opts": self.opts,
            "record": obj,
            "issued": getattr(request, ISSUED_ATTRIBUTE),
        }
        # The admin marks all its answers no-store.
        return render(request, "admin/billing/apikey/issued.html", context)

    @admin.action(description="Revoke the selected keys", permissions=["change"])
    def revoke_keys(self, request: HttpRequest, queryset: QuerySet[ApiKey]) -> HttpResponse | None:
        if "is_confirmed" not in request.POST:
            context = {
                **self.admin_site.each_context(request),
                "title": "Revoke these keys?",
                "opts": self.opts,
                "records": list(queryset.select_related("team")),
            }
            return TemplateResponse(request, "admin/billing/apikey/revoke.html", context)
        records, now = list(queryset), _now()
        for record in records:
            keys.revoke_key(key_id=record.id, now=now)
            self.log_change(request, record, "Revoked.")
        self.message_user(request, f"{len(records)} revoked.", messages.SUCCESS)
        return None

    @admin.display(description="team", ordering="team__name")
    def team_name(self, record: ApiKey) -> str:
        return record.team.name

    @admin.display(description="key", ordering="prefix")
    def shown_prefix(self, record: ApiKey) -> str:
        return f"{record.prefix}…"

    @admin.display(description="models")
    def models(self, record: ApiKey) -> str:
        names = record.allowed_models
        rest = f" and {len(names) - MODELS_SHOWN_MAX} more" if len(names) > MODELS_SHOWN_MAX else ""
        return ", ".join(names[:MODELS_SHOWN_MAX]) + rest if names else "all"

    @admin.display(description="limits/min")
    def limits(self, record: ApiKey) -> str:
        limits = ((record.rpm_max, "requests"), (record.tpm_max, "tokens"))
        return ", ".join(f"{limit:,} {unit}" for limit, unit in limits if limit is not None) or "none"

    @admin.display(description="state")
    def state(self, record: ApiKey) -> SafeString:
        if record.revoked_at is not None:
            return badge(kind="bad", text="revoked")
        if record.expires_at is not None and record.expires_at <= _now():
            return badge(kind="warn", text="expired")
        return badge(kind="ok", text="active")

    @admin.display(description="")
    def usage(self, record: ApiKey) -> SafeString:
        return _usage_link(group="model", key=str(record.id))


@admin.register(Budget)
class BudgetAdmin(_ThroughTheDoor):
    form = BudgetForm
    list_display = ("owner", "window", "limit", "spent", "held", "used", "kind", "timezone")
    list_select_related = ("organisation", "team", "key")
    list_filter = ("window", "is_hard")
    raw_id_fields = ("key",)
    search_fields = ("organisation__name", "team__name", "key__name", "key__prefix__exact")
    ordering = ("-created_at",)

    def get_changelist_instance(self, request: HttpRequest) -> ChangeList:
        """The page's budgets, each with its current window from the ledger: one query for all of them."""
        changelist = super().get_changelist_instance(request)
        now = _now()
        ids = {budget.id: _window_id(budget=budget, now=now) for budget in changelist.result_list}
        windows = BudgetWindow.objects.in_bulk(list(ids.values()))
        for budget in changelist.result_list:
            budget.current = windows.get(ids[budget.id]) or BudgetWindow()
        return changelist

    @admin.display(description="owner")
    def owner(self, record: Budget) -> str:
        for kind, owner in (
            ("organisation", record.organisation),
            ("team", record.team),
            ("key", record.key),
        ):
            if owner is not None:
                return f"{kind} {owner.name}"
        return "nobody"

    @admin.display(description="limit", ordering="limit_nanousd")
    def limit(self, record: Budget) -> str:
        return usd_text(record.limit_nanousd)

    @admin.display(description="spent in this window")
    def spent(self, record: Any) -> str:
        return usd_text(record.current.spent_nanousd)

    @admin.display(description="held now")
    def held(self, record: Any) -> str:
        return usd_text(record.current.held_nanousd)

    @admin.display(description="used")
    def used(self, record: Any) -> SafeString:
        bound = record.current.spent_nanousd + record.current.held_nanousd
        is_full, is_close = bound >= record.limit_nanousd, bound * 5 >= record.limit_nanousd * 4
        kind = "bad" if is_full else "warn" if is_close else "ok"
        return badge(kind=kind, text=percent_text(part=bound, whole=record.limit_nanousd))

    @admin.display(description="kind", ordering="is_hard")
    def kind(self, record: Budget) -> SafeString:
        return badge(kind="ok", text="hard") if record.is_hard else badge(kind="muted", text="soft")


@admin.register(Price)
class PriceAdmin(_ThroughTheDoor):
    form = PriceForm
    list_display = (
        "model",
        "cluster",
        "state",
        "effective_at",
        "input_usd",
        "cache_read_usd",
        "output_usd",
        "source",
    )
    search_fields = ("model", "cluster_name__exact")
    ordering = ("model", "cluster_name", "-effective_at")
    show_full_result_count = False

    def get_queryset(self, request: HttpRequest) -> QuerySet[Price]:
        newer = Price.objects.filter(
            model=OuterRef("model"),
            cluster_name=OuterRef("cluster_name"),
            effective_at__gt=OuterRef("effective_at"),
            effective_at__lte=_now(),
        )
        records: QuerySet[Price] = super().get_queryset(request)
        return records.annotate(is_replaced=Exists(newer))

    def has_change_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        is_scheduled = isinstance(obj, Price) and obj.effective_at > _now()
        return (obj is None or is_scheduled) and super().has_delete_permission(request, obj)

    def get_changeform_initial_data(self, request: HttpRequest) -> dict[str, Any]:
        given: dict[str, Any] = dict(super().get_changeform_initial_data(request))
        return {"effective_at": _now(), **given}

    def save_model(self, request: HttpRequest, obj: Price, form: Any, change: bool) -> None:
        values = {name: form.cleaned_data[name] for name in PriceForm.Meta.fields}
        if not prices.put_price(**values):
            raise prices.PriceRecordError("this price is in force at that moment already: nothing was added")
        obj.id = Price.objects.get(
            model=obj.model, cluster_name=obj.cluster_name, effective_at=obj.effective_at
        ).id

    def delete_model(self, request: HttpRequest, obj: Price) -> None:
        prices.withdraw_price(price_id=obj.id, now=_now())

    @admin.display(description="cluster", ordering="cluster_name")
    def cluster(self, record: Price) -> str:
        return record.cluster_name or "any"

    @admin.display(description="state")
    def state(self, record: Any) -> SafeString:
        if record.effective_at > _now():
            return badge(kind="warn", text="scheduled")
        return (
            badge(kind="muted", text="replaced") if record.is_replaced else badge(kind="ok", text="in force")
        )

    @admin.display(description="input, per million", ordering="input_microusd_per_mtok")
    def input_usd(self, record: Price) -> str:
        return rate_text(record.input_microusd_per_mtok)

    @admin.display(description="cached")
    def cache_read_usd(self, record: Price) -> str:
        return rate_text(prices.rate_from_price(record).cache_read_microusd_per_mtok)

    @admin.display(description="output, per million", ordering="output_microusd_per_mtok")
    def output_usd(self, record: Price) -> str:
        return rate_text(record.output_microusd_per_mtok)


def _window_id(*, budget: Budget, now: datetime) -> str:
    span = window_of(window=budget.window, timezone=budget.timezone, now=now)
    return f"{budget.id}:{span.key}"


def _usage_link(**parameters: str) -> SafeString:
    return format_html('<a href="{}?{}">Usage</a>', reverse("billing:usage"), urlencode(parameters))
