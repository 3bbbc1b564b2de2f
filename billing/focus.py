"""The bill as lines of FOCUS 1.2, the FinOps open cost and usage specification (focus.finops.org).

Every line is a charge of ChargeCategory Usage. What providers bill by the token is one line for each
hour or day, key, model and cluster. An own cluster is capacity that is paid by the hour: the part that
requests used has the same lines with CapacityReservationStatus Used, and what nobody used has a line for
each cluster with Unused. A line of category Purchase would count the hour twice, since its use is there.
The sum of BilledCost over the file is the bill of `usage_report`, to the nano-USD.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from django.db.models import Max, QuerySet, Sum

from billing.amounts import plain_usd_text
from billing.cells import moment_text, neutral_text
from billing.models import CapacityHour, SpendRollup
from billing.settlements import ROLLUP_SUMS

HOUR, DAY = timedelta(hours=1), timedelta(days=1)
PROVIDER = "provider"
SELF_HOSTED = "self-hosted"
ROWS_AT_ONCE = 2_000

# Fixed for every line; None: a column that must be there and has no value here.
CONSTANTS: Mapping[str, str | None] = {
    "BillingAccountId": "tollgate",
    "BillingAccountName": "Tollgate",
    "BillingAccountType": "Installation",
    "BillingCurrency": "USD",
    "ChargeCategory": "Usage",
    "ChargeClass": None,
    "InvoiceId": None,
    "PricingCurrency": "USD",
    "PricingUnit": "Tokens",
    "RegionId": None,
    "RegionName": None,
    "ServiceCategory": "AI and Machine Learning",
    "ServiceName": "Large language models",
    "ServiceSubcategory": "Generative AI",
}
COLUMNS = (
    "BilledCost",
    "BillingAccountId",
    "BillingAccountName",
    "BillingAccountType",
    "BillingCurrency",
    "BillingPeriodEnd",
    "BillingPeriodStart",
    "CapacityReservationId",
    "CapacityReservationStatus",
    "ChargeCategory",
    "ChargeClass",
    "ChargeDescription",
    "ChargeFrequency",
    "ChargePeriodEnd",
    "ChargePeriodStart",
    "ConsumedQuantity",
    "ConsumedUnit",
    "ContractedCost",
    "EffectiveCost",
    "InvoiceId",
    "InvoiceIssuerName",
    "ListCost",
    "PricingCurrency",
    "PricingQuantity",
    "PricingUnit",
    "ProviderName",
    "PublisherName",
    "RegionId",
    "RegionName",
    "ResourceId",
    "ResourceName",
    "ResourceType",
    "ServiceCategory",
    "ServiceName",
    "ServiceSubcategory",
    "SkuId",
    "SkuMeter",
    "SubAccountId",
    "SubAccountName",
    "SubAccountType",
    "Tags",
    "x_CacheReadTokens",
    "x_ChargedCost",
    "x_EstimatedRequestCount",
    "x_FailedRequestCount",
    "x_InputTokens",
    "x_OutputTokens",
    "x_RequestCount",
)
COST_COLUMNS = ("BilledCost", "EffectiveCost", "ListCost", "ContractedCost")

_GROUP = ("organisation", "team", "key_id", "model", "cluster")
_LABELS = ("key_name", "cluster_kind", "provider")
_SUMS = (*ROLLUP_SUMS, "amortised_nanousd")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Span:
    """The charge period of some lines."""

    starts_at: datetime
    ends_at: datetime

    def columns(self) -> dict[str, str]:
        month = self.starts_at.replace(day=1, hour=0)
        return {
            "BillingPeriodStart": moment_text(month),
            "BillingPeriodEnd": moment_text((month + timedelta(days=31)).replace(day=1)),
            "ChargePeriodStart": moment_text(self.starts_at),
            "ChargePeriodEnd": moment_text(self.ends_at),
        }


def focus_lines(*, from_at: datetime, to_at: datetime, is_hourly: bool) -> Iterator[list[str]]:
    """The header, then the charges from the hour of `from_at` up to `to_at`, day by day, the idle ones last.

    Read day by day and in pieces, so that memory does not grow with the span. Of days whose hours were
    pruned only the sums of the day are left: they have lines of a day.
    """
    yield list(COLUMNS)
    start = _hour_of(from_at)
    owners = _owners(from_at=start, to_at=to_at)
    day = start.replace(hour=0)
    while day < to_at:
        first, last = max(day, start), min(day + DAY, to_at)
        for columns in _lines_of_day(first=first, last=last, is_hourly=is_hourly, owners=owners):
            filled = {**CONSTANTS, **columns}
            yield [filled[name] or "" for name in COLUMNS]
        day += DAY


def _lines_of_day(
    *, first: datetime, last: datetime, is_hourly: bool, owners: Mapping[str, str]
) -> Iterator[dict[str, str | None]]:
    whole = _Span(starts_at=first, ends_at=_ceiling_hour(last))
    hours = SpendRollup.objects.filter(
        period=SpendRollup.Period.HOUR, starts_at__gte=first, starts_at__lt=last
    )
    if last - first == DAY and not hours.exists():
        days = SpendRollup.objects.filter(period=SpendRollup.Period.DAY, starts_at=first)
        yield from _use_lines(days, whole=whole)
    else:
        yield from _use_lines(hours, whole=None if is_hourly else whole)
    idle = CapacityHour.objects.filter(is_closed=True, starts_at__gte=first, starts_at__lt=last)
    yield from _idle_lines(idle, whole=None if is_hourly else whole, owners=owners)


def _use_lines(rollups: QuerySet[SpendRollup], *, whole: _Span | None) -> Iterator[dict[str, str | None]]:
    """Lines of the whole span, or without one of each hour."""
    group = _GROUP if whole is not None else ("starts_at", *_GROUP)
    labels = {f"{name}_label": Max(name) for name in _LABELS}
    sums = {f"{name}_sum": Sum(name) for name in _SUMS}
    rows = rollups.values(*group).annotate(**labels, **sums).order_by(*group)
    for row in rows.iterator(chunk_size=ROWS_AT_ONCE):
        span = whole or _Span(starts_at=row["starts_at"], ends_at=row["starts_at"] + HOUR)
        yield {**span.columns(), **_use_columns(row)}


def _use_columns(row: Mapping[str, Any]) -> dict[str, str | None]:
    # PostgreSQL sums big integers as decimals.
    sums = {name: int(row[f"{name}_sum"]) for name in _SUMS}
    is_metered = row["cluster_kind_label"] == PROVIDER
    cost = sums["cost_nanousd"] if is_metered else sums["amortised_nanousd"]
    tokens = str(sums["input_tokens"] + sums["output_tokens"])
    cluster, model = row["cluster"], row["model"]
    return {
        **_costs(cost),
        **_seller(row["provider_label"] or (cluster if is_metered else SELF_HOSTED)),
        **_resource(cluster, kind="Provider" if is_metered else "Cluster"),
        "CapacityReservationId": None if is_metered else neutral_text(cluster),
        "CapacityReservationStatus": None if is_metered else "Used",
        "ChargeDescription": neutral_text(f"{model} on {cluster}"),
        "ChargeFrequency": "Usage-Based",
        "ConsumedQuantity": tokens,
        "ConsumedUnit": "Tokens",
        "PricingQuantity": tokens,
        "SkuId": neutral_text(f"{cluster}/{model}"),
        "SkuMeter": "Tokens",
        "SubAccountId": neutral_text(f"{row['organisation']}/{row['team']}"),
        "SubAccountName": neutral_text(row["team"]),
        "SubAccountType": "Team",
        "Tags": _tags(row),
        "x_CacheReadTokens": str(sums["cache_read_tokens"]),
        "x_ChargedCost": plain_usd_text(sums["cost_nanousd"]),
        "x_EstimatedRequestCount": str(sums["estimates"]),
        "x_FailedRequestCount": str(sums["failures"]),
        "x_InputTokens": str(sums["input_tokens"]),
        "x_OutputTokens": str(sums["output_tokens"]),
        "x_RequestCount": str(sums["requests"]),
    }


def _idle_lines(
    hours: QuerySet[CapacityHour], *, whole: _Span | None, owners: Mapping[str, str]
) -> Iterator[dict[str, str | None]]:
    group = ("cluster",) if whole is not None else ("starts_at", "cluster")
    rows = hours.values(*group).annotate(
        idle=Sum("idle_nanousd"), capacity=Sum("capacity_tokens"), used=Sum("used_tokens")
    )
    for row in rows.order_by(*group):
        if row["idle"] == 0:
            continue
        span = whole or _Span(starts_at=row["starts_at"], ends_at=row["starts_at"] + HOUR)
        cluster = row["cluster"]
        yield {
            **span.columns(),
            **dict.fromkeys(COLUMNS[-7:], "0"),
            **_costs(int(row["idle"])),
            **_seller(owners.get(cluster) or SELF_HOSTED),
            **_resource(cluster, kind="Cluster"),
            "CapacityReservationId": neutral_text(cluster),
            "CapacityReservationStatus": "Unused",
            "ChargeDescription": neutral_text(f"Idle capacity of {cluster}"),
            # It is paid whether the cluster is used or not.
            "ChargeFrequency": "Recurring",
            "ConsumedQuantity": None,
            "ConsumedUnit": None,
            "PricingQuantity": str(max(0, int(row["capacity"]) - int(row["used"]))),
            "SkuId": neutral_text(f"{cluster}/idle"),
            "SkuMeter": "Idle tokens",
            "SubAccountId": None,
            "SubAccountName": None,
            "SubAccountType": None,
            "Tags": json.dumps({"cluster": cluster, "cluster_kind": "own"}),
        }


def _costs(nanousd: int) -> dict[str, str | None]:
    # There are no list prices and discounts beside what is paid: the four costs are one.
    return dict.fromkeys(COST_COLUMNS, plain_usd_text(nanousd))


def _seller(name: str) -> dict[str, str | None]:
    return dict.fromkeys(("InvoiceIssuerName", "ProviderName", "PublisherName"), neutral_text(name))


def _resource(cluster: str, *, kind: str) -> dict[str, str | None]:
    name = neutral_text(cluster)
    return {"ResourceId": name, "ResourceName": name, "ResourceType": kind}


def _tags(row: Mapping[str, Any]) -> str:
    named = {name: str(row[name]) for name in _GROUP}
    return json.dumps({**named, "key_name": row["key_name_label"], "cluster_kind": row["cluster_kind_label"]})


def _owners(*, from_at: datetime, to_at: datetime) -> dict[str, str]:
    """Who runs each own cluster, as far as its use in the span tells; capacity hours do not know."""
    rollups = SpendRollup.objects.filter(starts_at__gte=from_at.replace(hour=0), starts_at__lt=to_at)
    rows = rollups.exclude(cluster_kind=PROVIDER).values_list("cluster").annotate(name=Max("provider"))
    return dict(rows.order_by("cluster"))


def _hour_of(moment: datetime) -> datetime:
    return moment.astimezone(UTC).replace(minute=0, second=0, microsecond=0)


def _ceiling_hour(moment: datetime) -> datetime:
    floor = _hour_of(moment)
    return floor if floor == moment else floor + HOUR
