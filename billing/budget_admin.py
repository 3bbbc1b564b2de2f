"""The admin's page of budgets, each with what is spent and held of it now."""

from datetime import datetime
from typing import Any

from django.contrib import admin, messages
from django.contrib.admin.views.main import ChangeList
from django.db.models import QuerySet
from django.http import HttpRequest
from django.utils.html import format_html
from django.utils.safestring import SafeString

from billing import budgets
from billing.amounts import usd_text
from billing.badges import badge
from billing.budget_forms import OWNERS, BudgetForm
from billing.charts import percent_text
from billing.door_admin import DoorAdmin, admin_now
from billing.models import Budget, BudgetWindow
from billing.windows import window_of

RULES = ("is_hard", "is_clamped", "is_crossed")


class BudgetAdmin(DoorAdmin):
    form = BudgetForm
    fieldsets = (
        (None, {"fields": (*OWNERS, "limit_nanousd", "window", "timezone", *RULES)}),
        ("Override", {"fields": ("override_limit_nanousd", "override_until", "override_reason")}),
        ("Warnings", {"fields": ("warning_percents", "warning_emails", "warning_webhook")}),
    )
    list_display = ("owner", "window", "kind", "limit", "spent", "held", "used", "timezone")
    list_select_related = ("organisation", "team", "key")
    list_filter = ("window", *RULES)
    raw_id_fields = ("key",)
    search_fields = ("organisation__name", "team__name", "key__name", "key__prefix__exact")
    ordering = ("-created_at",)
    actions = ("end_overrides",)

    def get_changelist_instance(self, request: HttpRequest) -> ChangeList:
        """The page's budgets, each with its current window from the ledger: one query for all of them."""
        changelist = super().get_changelist_instance(request)
        now = admin_now()
        ids = {budget.id: _window_id(budget=budget, now=now) for budget in changelist.result_list}
        windows = BudgetWindow.objects.in_bulk(list(ids.values()))
        for budget in changelist.result_list:
            budget.current = windows.get(ids[budget.id]) or BudgetWindow()
            budget.current_limit_nanousd = budgets.limit_at(budget, now=now)
            budget.current_override_until = budgets.override_at(budget, now=now)
        return changelist

    @admin.action(description="End the override of the selected budgets", permissions=["change"])
    def end_overrides(self, request: HttpRequest, queryset: QuerySet[Budget]) -> None:
        overridden = list(queryset.exclude(override_until=None))
        for record in overridden:
            budgets.end_override(budget_id=record.id)
            self.log_change(request, record, "Override ended.")
        self.message_user(request, f"{len(overridden)} ended.", messages.SUCCESS)

    @admin.display(description="owner")
    def owner(self, record: Budget) -> str:
        for kind in OWNERS:
            owner = getattr(record, kind)
            if owner is not None:
                return f"{kind} {owner.name}"
        return "nobody"

    @admin.display(description="limit", ordering="limit_nanousd")
    def limit(self, record: Any) -> str | SafeString:
        """The one that counts now."""
        limit, until = usd_text(record.current_limit_nanousd), record.current_override_until
        if until is None:
            return limit
        label = badge(kind="warn", text=f"override until {until:%Y-%m-%d %H:%M} UTC")
        return format_html("{} {}", limit, label)

    @admin.display(description="spent in this window")
    def spent(self, record: Any) -> str:
        return usd_text(record.current.spent_nanousd)

    @admin.display(description="held now")
    def held(self, record: Any) -> str:
        return usd_text(record.current.held_nanousd)

    @admin.display(description="used")
    def used(self, record: Any) -> SafeString:
        bound = record.current.spent_nanousd + record.current.held_nanousd
        limit = record.current_limit_nanousd
        is_full, is_close = bound >= limit, bound * 5 >= limit * 4
        kind = "bad" if is_full else "warn" if is_close else "ok"
        return badge(kind=kind, text=percent_text(part=bound, whole=limit))

    @admin.display(description="kind", ordering="is_hard")
    def kind(self, record: Budget) -> SafeString:
        if not record.is_hard:
            return badge(kind="muted", text="soft")
        hard = badge(kind="ok", text="hard")
        if record.is_crossed:
            return format_html("{} {}", hard, badge(kind="warn", text="may be crossed"))
        return format_html("{} {}", hard, badge(kind="ok", text="clamped")) if record.is_clamped else hard


def _window_id(*, budget: Budget, now: datetime) -> str:
    span = window_of(window=budget.window, timezone=budget.timezone, now=now)
    return f"{budget.id}:{span.key}"
