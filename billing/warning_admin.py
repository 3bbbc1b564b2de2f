"""The admin's page of budget warnings: what was sent to whom, and what failed and why."""

from django.contrib import admin
from django.db.models import Model
from django.http import HttpRequest
from django.utils.safestring import SafeString

from billing.amounts import usd_text
from billing.badges import badge
from billing.models import BudgetWarning

KINDS = {"sent": "ok", "due": "warn", "failed": "bad"}


class BudgetWarningAdmin(admin.ModelAdmin):  # type: ignore[type-arg]  # generic only for mypy
    list_display = ("created_at", "of_budget", "percent", "spent", "outcome", "channel", "target", "error")
    list_select_related = ("budget__organisation", "budget__team", "budget__key")
    list_filter = ("state", "channel")
    search_fields = ("target", "window_id")
    ordering = ("-created_at",)
    show_full_result_count = False

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        return False

    @admin.display(description="budget", ordering="budget")
    def of_budget(self, record: BudgetWarning) -> str:
        """Whose it is, by name: the id says nothing to who reads the list."""
        budget = record.budget
        owner = budget.organisation or budget.team or budget.key
        return f"{owner.name if owner else 'nobody'}, {budget.window}"

    @admin.display(description="spent, of the limit")
    def spent(self, record: BudgetWarning) -> str:
        return f"{usd_text(record.spent_nanousd)} of {usd_text(record.limit_nanousd)}"

    @admin.display(description="outcome", ordering="state")
    def outcome(self, record: BudgetWarning) -> SafeString:
        return badge(kind=KINDS[record.state], text=record.get_state_display())
