"""The admin's pages of organisations, teams and API keys."""

from typing import Any
from urllib.parse import urlencode

from django.contrib import admin, messages
from django.db.models import Count, Model, QuerySet
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.template.response import TemplateResponse
from django.urls import reverse
from django.utils.html import format_html
from django.utils.safestring import SafeString

from billing import keys
from billing.badges import badge
from billing.door_admin import DoorAdmin, admin_now
from billing.forms import ApiKeyForm, TeamForm
from billing.limits import delete_model_limit, save_model_limit
from billing.models import ApiKey, ModelLimit, Organisation, Team
from billing.placements import PLACEMENT_FIELDS, PlacementWords, placement_text

MODELS_SHOWN_MAX = 3
KEY_FACTS = ("shown_prefix", "state", "revoked_at", "created_at", "updated_at")
# Where an issued key waits on its own request for the page that shows it.
ISSUED_ATTRIBUTE = "issued_api_key"


def limits_text(record: ApiKey | Team | ModelLimit) -> str:
    limits = (
        (record.rpm_max, "requests/min"),
        (record.tpm_max, "tokens/min"),
        (record.concurrent_max, "at once"),
    )
    return ", ".join(f"{limit:,} {unit}" for limit, unit in limits if limit is not None) or "none"


class OrganisationAdmin(DoorAdmin):
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


class TeamAdmin(DoorAdmin):
    form = TeamForm
    list_display = ("name", "organisation_name", "key_count", "limits", "served", "usage", "created_at")
    list_select_related = ("organisation",)
    search_fields = ("name", "organisation__name")
    ordering = ("name",)

    def get_queryset(self, request: HttpRequest) -> QuerySet[Team]:
        records: QuerySet[Team] = super().get_queryset(request)
        return records.annotate(key_count=Count("keys"))

    @admin.display(description="organisation", ordering="organisation__name")
    def organisation_name(self, record: Team) -> str:
        return record.organisation.name

    @admin.display(description="limits")
    def limits(self, record: Team) -> str:
        return limits_text(record)

    @admin.display(description="served")
    def served(self, record: Team) -> str:
        return placement_text(record)

    @admin.display(description="keys", ordering="key_count")
    def key_count(self, record: Any) -> int:
        return int(record.key_count)

    @admin.display(description="")
    def usage(self, record: Team) -> SafeString:
        return _usage_link(group="key", team=record.name)


class ApiKeyAdmin(DoorAdmin):
    form = ApiKeyForm
    list_display = (
        *("name", "shown_prefix", "team_name", "models", "limits", "served", "state", "usage"),
        "created_at",
    )
    list_select_related = ("team",)
    list_filter = (("revoked_at", admin.EmptyFieldListFilter),)
    search_fields = ("name", "prefix__exact", "team__name")
    ordering = ("-created_at",)
    actions = ("revoke_keys",)

    def get_fields(self, request: HttpRequest, obj: Model | None = None) -> tuple[str, ...]:
        limits = ("rpm_max", "tpm_max", "concurrent_max")
        entered = ("name", "allowed_models", "expires_at", *limits, "priority", *PLACEMENT_FIELDS)
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
            concurrent_max=obj.concurrent_max,
            priority=obj.priority,
            placement=PlacementWords(**{name: getattr(obj, name) for name in PLACEMENT_FIELDS}),
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
        records, now = list(queryset), admin_now()
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

    @admin.display(description="limits")
    def limits(self, record: ApiKey) -> str:
        return limits_text(record)

    @admin.display(description="served")
    def served(self, record: ApiKey) -> str:
        return placement_text(record)

    @admin.display(description="state")
    def state(self, record: ApiKey) -> SafeString:
        if record.revoked_at is not None:
            return badge(kind="bad", text="revoked")
        if record.expires_at is not None and record.expires_at <= admin_now():
            return badge(kind="warn", text="expired")
        return badge(kind="ok", text="active")

    @admin.display(description="")
    def usage(self, record: ApiKey) -> SafeString:
        return _usage_link(group="model", key=str(record.id))


def _usage_link(**parameters: str) -> SafeString:
    return format_html('<a href="{}?{}">Usage</a>', reverse("billing:usage"), urlencode(parameters))


class ModelLimitAdmin(DoorAdmin):
    list_display = ("model", "whose", "limits", "updated_at")
    list_select_related = ("team", "key")
    raw_id_fields = ("key",)
    search_fields = ("model", "team__name", "key__name", "key__prefix__exact")
    ordering = ("model", "id")
    fields = ("model", "team", "key", "rpm_max", "tpm_max", "concurrent_max")

    def save_model(self, request: HttpRequest, obj: ModelLimit, form: Any, change: bool) -> None:
        save_model_limit(record=obj)

    def delete_model(self, request: HttpRequest, obj: ModelLimit) -> None:
        delete_model_limit(record=obj)

    @admin.display(description="whose use")
    def whose(self, record: ModelLimit) -> str:
        if record.key is not None:
            return f"key {record.key.name}"
        return f"team {record.team.name}" if record.team is not None else "everybody's together"

    @admin.display(description="limits")
    def limits(self, record: ModelLimit) -> str:
        return limits_text(record)
