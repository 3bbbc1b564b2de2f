"""The tables of keys, prices, budgets and money."""

from billing.models.accounts import (
    ApiKey,
    Budget,
    BudgetWarning,
    ModelLimit,
    Organisation,
    Revision,
    Team,
)
from billing.models.ledger import (
    BudgetWindow,
    CapacityHour,
    ClosingBalance,
    ExperimentHour,
    ExperimentLatency,
    Feedback,
    IdempotentRequest,
    PrunedPeriod,
    Reservation,
    SpendRollup,
    UsageRecord,
)
from billing.models.prices import (
    Price,
)

__all__ = [
    "ApiKey",
    "Budget",
    "BudgetWarning",
    "BudgetWindow",
    "CapacityHour",
    "ClosingBalance",
    "ExperimentHour",
    "ExperimentLatency",
    "Feedback",
    "IdempotentRequest",
    "ModelLimit",
    "Organisation",
    "Price",
    "PrunedPeriod",
    "Reservation",
    "Revision",
    "SpendRollup",
    "Team",
    "UsageRecord",
]
