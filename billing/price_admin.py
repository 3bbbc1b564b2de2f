"""The admin's page of prices: added, ended and withdrawn, never changed."""

from typing import Any

from django.contrib import admin, messages
from django.db.models import Exists, Model, OuterRef, QuerySet
from django.http import HttpRequest
from django.utils.safestring import SafeString

from billing import prices
from billing.amounts import rate_text
from billing.badges import badge
from billing.door_admin import DoorAdmin, admin_now
from billing.forms import CONDITION_FIELDS, PriceForm
from billing.models import Price
from billing.price_book import FILLED_RATES, flat_rate_of
from billing.price_conditions import checked_condition


class PriceAdmin(DoorAdmin):
    form = PriceForm
    fieldsets = (
        (
            None,
            {
                "fields": (
                    "model",
                    "cluster_name",
                    "effective_at",
                    "input_microusd_per_mtok",
                    "output_microusd_per_mtok",
                    "source",
                )
            },
        ),
        ("Prices of their own (USD per million tokens)", {"fields": tuple(FILLED_RATES)}),
        (
            "Only for some requests",
            {
                "fields": CONDITION_FIELDS,
                "description": "Such a price needs one for all requests of the model before it.",
            },
        ),
    )
    list_display = (
        "model",
        "cluster",
        "holds_for",
        "state",
        "effective_at",
        "input_usd",
        "cache_read_usd",
        "output_usd",
        "origin",
    )
    search_fields = ("model", "cluster_name__exact", "service_tier__exact")
    ordering = (
        "model",
        "cluster_name",
        "service_tier",
        "context_tokens_min",
        "daily_from_minute",
        "-effective_at",
    )
    actions = ("end_prices",)
    show_full_result_count = False

    def get_queryset(self, request: HttpRequest) -> QuerySet[Price]:
        newer = Price.objects.filter(
            model=OuterRef("model"),
            cluster_name=OuterRef("cluster_name"),
            service_tier=OuterRef("service_tier"),
            context_tokens_min=OuterRef("context_tokens_min"),
            daily_from_minute=OuterRef("daily_from_minute"),
            effective_at__gt=OuterRef("effective_at"),
            effective_at__lte=admin_now(),
        )
        records: QuerySet[Price] = super().get_queryset(request)
        return records.annotate(is_replaced=Exists(newer))

    def has_change_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        is_scheduled = isinstance(obj, Price) and obj.effective_at > admin_now()
        return (obj is None or is_scheduled) and super().has_delete_permission(request, obj)

    def get_changeform_initial_data(self, request: HttpRequest) -> dict[str, Any]:
        given: dict[str, Any] = dict(super().get_changeform_initial_data(request))
        return {"effective_at": admin_now(), **given}

    def save_model(self, request: HttpRequest, obj: Price, form: Any, change: bool) -> None:
        values = {name: form.cleaned_data[name] for name in PriceForm.Meta.fields}
        if not prices.put_price(**values):
            raise prices.PriceRecordError("this price is in force at that moment already: nothing was added")
        condition = checked_condition(**{name: values[name] for name in CONDITION_FIELDS})
        obj.id = Price.objects.get(
            model=obj.model,
            cluster_name=obj.cluster_name,
            effective_at=obj.effective_at,
            **{name: getattr(condition, name) for name in CONDITION_FIELDS},
        ).id

    def delete_model(self, request: HttpRequest, obj: Price) -> None:
        prices.withdraw_price(price_id=obj.id, now=admin_now())

    @admin.action(description="End the selected tiers and times of day now", permissions=["add"])
    def end_prices(self, request: HttpRequest, queryset: QuerySet[Price]) -> None:
        ended_count, now = 0, admin_now()
        for record in queryset:
            try:
                ended_count += prices.end_price(price_id=record.id, now=now)
            except prices.PriceRecordError as error:
                self.message_user(request, str(error), messages.ERROR)
        if ended_count:
            self.message_user(request, f"{ended_count} ended.", messages.SUCCESS)

    @admin.display(description="cluster", ordering="cluster_name")
    def cluster(self, record: Price) -> str:
        return record.cluster_name or "any"

    @admin.display(description="holds for")
    def holds_for(self, record: Price) -> str:
        return str(prices.entry_of(record).condition) or "all requests"

    @admin.display(description="state")
    def state(self, record: Any) -> SafeString:
        if record.effective_at > admin_now():
            return badge(kind="warn", text="scheduled")
        if record.is_replaced:
            return badge(kind="muted", text="replaced")
        is_ended = prices.entry_of(record).condition.is_ended
        return badge(kind="muted", text="ended") if is_ended else badge(kind="ok", text="in force")

    @admin.display(description="source", ordering="source")
    def origin(self, record: Price) -> str:
        return f"{record.source} {record.source_version}".rstrip()

    @admin.display(description="input, per million", ordering="input_microusd_per_mtok")
    def input_usd(self, record: Price) -> str:
        return rate_text(record.input_microusd_per_mtok)

    @admin.display(description="cached")
    def cache_read_usd(self, record: Price) -> str:
        return rate_text(flat_rate_of(prices.entry_of(record)).cache_read_microusd_per_mtok)

    @admin.display(description="output, per million", ordering="output_microusd_per_mtok")
    def output_usd(self, record: Price) -> str:
        return rate_text(record.output_microusd_per_mtok)
