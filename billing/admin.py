"""Registers the admin's pages of keys, budgets, prices and the ledger."""

from django.contrib import admin

from billing import budget_admin, key_admin, ledger_admin, price_admin, warning_admin
from billing.models import (
    ApiKey,
    Budget,
    BudgetWarning,
    BudgetWindow,
    CapacityHour,
    ModelLimit,
    Organisation,
    Price,
    Reservation,
    SpendRollup,
    Team,
    UsageRecord,
)

admin.site.register(Organisation, key_admin.OrganisationAdmin)
admin.site.register(Team, key_admin.TeamAdmin)
admin.site.register(ApiKey, key_admin.ApiKeyAdmin)
admin.site.register(ModelLimit, key_admin.ModelLimitAdmin)
admin.site.register(Budget, budget_admin.BudgetAdmin)
admin.site.register(BudgetWarning, warning_admin.BudgetWarningAdmin)
admin.site.register(Price, price_admin.PriceAdmin)
admin.site.register(UsageRecord, ledger_admin.UsageRecordAdmin)
admin.site.register(Reservation, ledger_admin.ReservationAdmin)
admin.site.register(SpendRollup, ledger_admin.SpendRollupAdmin)
admin.site.register(BudgetWindow, ledger_admin.BudgetWindowAdmin)
admin.site.register(CapacityHour, ledger_admin.CapacityHourAdmin)
