"""The admin's view of the ledger: to read and to search, never to change."""

import json
from datetime import timedelta
from typing import Any
from uuid import UUID

from django.contrib import admin
from django.core.paginator import Paginator
from django.db.models import Model, Q, QuerySet
from django.http import HttpRequest
from django.utils import timezone
from django.utils.functional import cached_property
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString

from billing.amounts import rate_text, usd_text
from billing.badges import badge
from billing.charts import percent_text
from billing.models import CapacityHour, Reservation, UsageRecord

ROWS_LISTED_MAX = 10_000
OUTCOME_FILTER_DAYS = 7
OUTCOME_BADGES = {
    UsageRecord.Outcome.OK: "ok",
    UsageRecord.Outcome.CANCELLED: "muted",
    UsageRecord.Outcome.TRUNCATED: "warn",
    UsageRecord.Outcome.FAILED: "bad",
    UsageRecord.Outcome.IN_DOUBT: "warn",
}
STATE_BADGES = {
    Reservation.State.HELD: "ok",
    Reservation.State.SETTLED: "muted",
    Reservation.State.VOID: "muted",
    Reservation.State.IN_DOUBT: "warn",
}
RATE_END = "_microusd_per_mtok"


class LatestRowsPaginator(Paginator):  # type: ignore[type-arg]  # generic only for mypy
    """Pages through the first ten thousand rows only: counting ten million takes longer than any page may."""

    @cached_property
    def count(self) -> int:
        rows: Any = self.object_list
        return int(rows[:ROWS_LISTED_MAX].count())


class ReadOnlyAdmin(admin.ModelAdmin):  # type: ignore[type-arg]  # generic only for mypy
    actions = None
    # A count for each filter would read the whole table.
    show_facets = admin.ShowFacets.NEVER
    show_full_result_count = False
    paginator = LatestRowsPaginator
    list_per_page = 50
    list_max_show_all = 50

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        return False


class RecentOutcomeFilter(admin.SimpleListFilter):
    """How attempts ended, of the last days: the index by time bounds what is looked through."""

    title = f"outcome (last {OUTCOME_FILTER_DAYS} days)"
    parameter_name = "outcome"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [(str(value), str(label)) for value, label in UsageRecord.Outcome.choices]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        if self.value() not in UsageRecord.Outcome.values:
            return queryset
        now = timezone.now()  # noqa: TID251 -- the admin is an edge
        since = now - timedelta(days=OUTCOME_FILTER_DAYS)
        return queryset.filter(outcome=self.value(), settled_at__gte=since)


class UsageRecordAdmin(ReadOnlyAdmin):
    list_display = (
        "settled_at",
        "request_id",
        "key_name",
        "model",
        "cluster",
        "tokens_in",
        "tokens_out",
        "cost",
        "outcome_badge",
        "estimate",
    )
    list_filter = (RecentOutcomeFilter,)
    search_fields = ("request_id__exact", "attempt_id__exact", "key_id__exact")
    search_help_text = "The whole id of a request, an attempt or a key."
    ordering = ("-settled_at",)
    fieldsets = (
        (
            None,
            {
                "fields": (
                    "outcome_badge",
                    "error_code",
                    "request_id",
                    "attempt_id",
                    "attempt_number",
                    "started_at",
                    "settled_at",
                    "ttft_ms",
                    "duration_ms",
                )
            },
        ),
        ("Who", {"fields": ("organisation", "team", "key_name", "key_id")}),
        (
            "Where",
            {
                "fields": (
                    "model",
                    "served_model",
                    "cluster",
                    "cluster_kind",
                    "provider",
                    "surface",
                    "is_stream",
                )
            },
        ),
        (
            "Tokens",
            {
                "fields": (
                    "input_fresh_tokens",
                    "cache_read_tokens",
                    "cache_write_5m_tokens",
                    "cache_write_1h_tokens",
                    "output_text_tokens",
                    "reasoning_tokens",
                    "audio_tokens",
                    "estimate",
                )
            },
        ),
        ("Money", {"fields": ("cost", "held", "variance", "rates")}),
        ("Decision", {"fields": ("decision_text",)}),
    )

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[Any], search_term: str
    ) -> tuple[QuerySet[Any], bool]:
        """Each id has an index; a search for a part of one would read the whole table."""
        term = search_term.strip()
        if not term:
            return queryset, False
        found = Q(request_id=term)
        if (uuid := _uuid(term)) is not None:
            found |= Q(attempt_id=uuid) | Q(key_id=uuid)
        return queryset.filter(found), False

    @admin.display(description="in")
    def tokens_in(self, record: UsageRecord) -> str:
        tokens = (
            record.input_fresh_tokens
            + record.cache_read_tokens
            + record.cache_write_5m_tokens
            + record.cache_write_1h_tokens
        )
        return f"{tokens:,}"

    @admin.display(description="out")
    def tokens_out(self, record: UsageRecord) -> str:
        return f"{record.output_text_tokens + record.reasoning_tokens + record.audio_tokens:,}"

    @admin.display(description="cost")
    def cost(self, record: UsageRecord) -> str:
        return usd_text(record.cost_nanousd)

    @admin.display(description="held before sending")
    def held(self, record: UsageRecord) -> str:
        return usd_text(record.held_nanousd)

    @admin.display(description="variance (beyond what was held)")
    def variance(self, record: UsageRecord) -> str:
        return usd_text(record.variance_nanousd)

    @admin.display(description="outcome")
    def outcome_badge(self, record: UsageRecord) -> SafeString:
        outcome = UsageRecord.Outcome(record.outcome)
        return badge(kind=OUTCOME_BADGES[outcome], text=outcome.value.replace("_", " "))

    @admin.display(description="tokens are")
    def estimate(self, record: UsageRecord) -> SafeString:
        if record.is_estimate:
            return badge(kind="warn", text="estimated")
        return badge(kind="muted", text="counted")

    @admin.display(description="rates (USD per million tokens)")
    def rates(self, record: UsageRecord) -> SafeString:
        rows = [
            (name.removesuffix(RATE_END).replace("_", " "), _rate_cell(name=name, value=value))
            for name, value in record.rate.items()
        ]
        cells = format_html_join("", '<tr><th scope="row">{}</th><td class="num">{}</td></tr>', rows)
        return format_html('<table class="data-table"><tbody>{}</tbody></table>', cells)

    @admin.display(description="why it went there")
    def decision_text(self, record: UsageRecord) -> SafeString:
        return format_html("<pre>{}</pre>", json.dumps(record.decision, indent=2, ensure_ascii=False))


class ReservationAdmin(ReadOnlyAdmin):
    list_display = (
        "created_at",
        "attempt_id",
        "request_id",
        "state_badge",
        "held",
        "output_tokens_checkpoint",
    )
    list_filter = ("state",)
    search_fields = ("request_id__exact",)
    # The key is time-ordered, and it is the index that this table has.
    ordering = ("-attempt_id",)
    fields = (
        "attempt_id",
        "request_id",
        "state_badge",
        "held",
        "output_tokens_checkpoint",
        "owner",
        "windows",
        "attribution",
        "created_at",
        "updated_at",
    )

    @admin.display(description="state", ordering="state")
    def state_badge(self, record: Reservation) -> SafeString:
        state = Reservation.State(record.state)
        return badge(kind=STATE_BADGES[state], text=str(state.label))

    @admin.display(description="held")
    def held(self, record: Reservation) -> str:
        return usd_text(record.held_nanousd)


class SpendRollupAdmin(ReadOnlyAdmin):
    list_display = (
        "starts_at",
        "period",
        "team",
        "key_name",
        "model",
        "cluster",
        "requests",
        "tokens_in",
        "tokens_out",
        "cost",
    )
    list_filter = ("period",)
    ordering = ("-starts_at",)

    @admin.display(description="in")
    def tokens_in(self, record: Any) -> str:
        return f"{record.input_tokens:,}"

    @admin.display(description="out")
    def tokens_out(self, record: Any) -> str:
        return f"{record.output_tokens:,}"

    @admin.display(description="cost")
    def cost(self, record: Any) -> str:
        return usd_text(record.cost_nanousd)


class BudgetWindowAdmin(ReadOnlyAdmin):
    list_display = ("id", "starts_at", "ends_at", "spent", "held")
    search_fields = ("budget_id__exact",)
    ordering = ("-starts_at",)

    @admin.display(description="spent", ordering="spent_nanousd")
    def spent(self, record: Any) -> str:
        return usd_text(record.spent_nanousd)

    @admin.display(description="held", ordering="held_nanousd")
    def held(self, record: Any) -> str:
        return usd_text(record.held_nanousd)


class CapacityHourAdmin(ReadOnlyAdmin):
    list_display = (
        *("starts_at", "cluster", "state", "cost", "used", "idle"),
        *("used_percent", "tokens_used", "tokens_possible", "sample_count"),
    )
    list_filter = ("is_closed",)
    # Not the columns themselves: those of an open hour mean something else (billing.capacity).
    fields = list_display
    search_fields = ("cluster__exact",)
    search_help_text = "The whole name of a cluster."
    ordering = ("-starts_at",)

    @admin.display(description="state", ordering="is_closed")
    def state(self, record: CapacityHour) -> SafeString:
        if record.is_closed:
            return badge(kind="ok", text="closed")
        return badge(kind="muted", text="open")

    @admin.display(description="cost")
    def cost(self, record: CapacityHour) -> str:
        return usd_text(record.cost_nanousd)

    @admin.display(description="used")
    def used(self, record: CapacityHour) -> str:
        return usd_text(record.used_nanousd) if record.is_closed else "not known yet"

    @admin.display(description="idle")
    def idle(self, record: CapacityHour) -> str:
        return usd_text(record.idle_nanousd) if record.is_closed else "not known yet"

    @admin.display(description="of the cost")
    def used_percent(self, record: CapacityHour) -> str:
        if not record.is_closed:
            return ""
        return percent_text(part=record.used_nanousd, whole=record.cost_nanousd)

    @admin.display(description="tokens made")
    def tokens_used(self, record: CapacityHour) -> str:
        return f"{record.used_tokens:,}"

    @admin.display(description="tokens possible")
    def tokens_possible(self, record: CapacityHour) -> str:
        return f"{record.capacity_tokens:,}"


def _rate_cell(*, name: str, value: Any) -> str:
    return rate_text(value) if name.endswith(RATE_END) and isinstance(value, int) else str(value)


def _uuid(text: str) -> UUID | None:
    try:
        return UUID(text)
    except ValueError:
        return None
