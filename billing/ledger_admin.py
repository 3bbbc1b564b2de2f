"""The admin's view of the ledger: to read and to search, never to change."""

import json
from collections.abc import Iterator
from typing import Any
from uuid import UUID

from django.contrib import admin
from django.db.models import Model, QuerySet
from django.http import HttpRequest
from django.urls import reverse
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString

from billing.amounts import rate_text, usd_text
from billing.badges import badge
from billing.charts import percent_text
from billing.keyset import KeysetAdmin
from billing.models import CapacityHour, Reservation, SpendRollup, UsageRecord
from routing.decision_record import explained

# How far a filter without an index looks.
FILTERED_ROWS_MAX = 20_000
OPEN_ROWS_MAX = 1_000
OPEN_STATES = (Reservation.State.HELD.value, Reservation.State.IN_DOUBT.value)
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


class ReadOnlyAdmin(KeysetAdmin):
    actions = None

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        return False


class RecentOutcomeFilter(admin.SimpleListFilter):
    """How attempts ended, of the latest: no index knows outcomes, so that the look is bounded."""

    title = "outcome"
    parameter_name = "outcome"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [(str(value), str(label)) for value, label in UsageRecord.Outcome.choices]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        if self.value() not in UsageRecord.Outcome.values:
            return queryset
        latest = UsageRecord.objects.order_by("-settled_at").values_list("settled_at", flat=True)
        first = next(iter(latest[FILTERED_ROWS_MAX : FILTERED_ROWS_MAX + 1]), None)
        bounded = queryset if first is None else queryset.filter(settled_at__gt=first)
        return bounded.filter(outcome=self.value())


class StateFilter(admin.SimpleListFilter):
    """The open reservations, which have an index of their own, or the latest closed ones."""

    title = "state"
    parameter_name = "state"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [(str(value), str(label)) for value, label in Reservation.State.choices]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        state = self.value()
        if state not in Reservation.State.values:
            return queryset
        if state in OPEN_STATES:
            found = _open_reservations().filter(state=state).values_list("attempt_id", flat=True)
            # As a list: in one statement the planner would rather walk through all rows in their order.
            return queryset.filter(attempt_id__in=list(found[:OPEN_ROWS_MAX]))
        latest = Reservation.objects.order_by("-attempt_id").values_list("attempt_id", flat=True)
        first = next(iter(latest[FILTERED_ROWS_MAX : FILTERED_ROWS_MAX + 1]), None)
        bounded = queryset if first is None else queryset.filter(attempt_id__gt=first)
        return bounded.filter(state=state)


class PeriodFilter(admin.SimpleListFilter):
    """Hours or days, one of both: the index by time begins with it."""

    title = "period"
    parameter_name = "period"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [(str(value), str(label)) for value, label in SpendRollup.Period.choices]

    def choices(self, changelist: Any) -> Iterator[Any]:
        """Without "All"; hours where nothing was chosen."""
        for value, label in self.lookup_choices:
            yield {
                "selected": self._period() == value,
                "query_string": changelist.get_query_string({self.parameter_name: value}),
                "display": label,
            }

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        return queryset.filter(period=self._period())

    def _period(self) -> str:
        value = self.value()
        return value if value in SpendRollup.Period.values else SpendRollup.Period.HOUR.value


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
    search_help_text = (
        f"The whole id of a request, an attempt or a key. Outcomes are of the latest {FILTERED_ROWS_MAX:,}."
    )
    keyset = ("settled_at", "attempt_id")
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
                    "input_audio_tokens",
                    "input_image_tokens",
                    "output_text_tokens",
                    "reasoning_tokens",
                    "audio_tokens",
                    "estimate",
                )
            },
        ),
        ("Money", {"fields": ("cost", "held", "variance", "reported", "service_tier", "rates")}),
        ("Decision", {"fields": ("decision_text",)}),
    )

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[Any], search_term: str
    ) -> tuple[QuerySet[Any], bool]:
        """Each id has an index; a search for a part of one would read the whole table.

        One after the other: of several at once the planner may make a walk through all rows.
        """
        term = search_term.strip()
        if not term:
            return queryset, False
        uuid = _uuid(term)
        if uuid is None or UsageRecord.objects.filter(request_id=term).exists():
            return queryset.filter(request_id=term), False
        if UsageRecord.objects.filter(attempt_id=uuid).exists():
            return queryset.filter(attempt_id=uuid), False
        return queryset.filter(key_id=uuid), False

    @admin.display(description="in")
    def tokens_in(self, record: UsageRecord) -> str:
        return f"{record.usage.input_tokens:,}"

    @admin.display(description="out")
    def tokens_out(self, record: UsageRecord) -> str:
        return f"{record.usage.output_tokens:,}"

    @admin.display(description="cost")
    def cost(self, record: UsageRecord) -> str:
        return usd_text(record.cost_nanousd)

    @admin.display(description="held before sending")
    def held(self, record: UsageRecord) -> str:
        return usd_text(record.held_nanousd)

    @admin.display(description="variance (beyond what was held)")
    def variance(self, record: UsageRecord) -> str:
        return usd_text(record.variance_nanousd)

    @admin.display(description="reported by the upstream")
    def reported(self, record: UsageRecord) -> str:
        if record.reported_cost_nanousd is None:
            return "nothing"
        difference = record.reported_cost_nanousd - record.cost_nanousd
        return f"{usd_text(record.reported_cost_nanousd)} (difference {usd_text(difference)})"

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
        lines = explained(record.decision, usd_text=usd_text)
        return format_html(
            '<ul>{}</ul><p><a href="{}">The whole request</a></p><pre>{}</pre>',
            format_html_join("", "<li>{}</li>", ((line,) for line in lines)),
            reverse("billing:request", args=[record.request_id]),
            json.dumps(record.decision, indent=2, ensure_ascii=False),
        )


class ReservationAdmin(ReadOnlyAdmin):
    list_display = (
        "created_at",
        "attempt_id",
        "request_id",
        "state_badge",
        "held",
        "output_tokens_checkpoint",
    )
    list_filter = (StateFilter,)
    search_fields = ("request_id__exact", "attempt_id__exact")
    search_help_text = (
        f"The whole id of a request or an attempt. Closed states: of the latest {FILTERED_ROWS_MAX:,}."
    )
    # The key is time-ordered, and it is the index that this table has.
    keyset = ("attempt_id",)
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

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[Any], search_term: str
    ) -> tuple[QuerySet[Any], bool]:
        """A request's attempts are found by their usage rows, which have an index; open ones have none."""
        term = search_term.strip()
        if not term:
            return queryset, False
        recorded = UsageRecord.objects.filter(request_id=term).values_list("attempt_id", flat=True)
        still_open = _open_reservations().filter(request_id=term).values_list("attempt_id", flat=True)
        ids = [*recorded[:OPEN_ROWS_MAX], *still_open[:OPEN_ROWS_MAX]]
        if (uuid := _uuid(term)) is not None:
            ids.append(uuid)
        return queryset.filter(attempt_id__in=ids), False

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
    list_filter = (PeriodFilter,)
    keyset = ("starts_at", "id")

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
    keyset = ("starts_at", "id")

    @admin.display(description="spent", ordering="spent_nanousd")
    def spent(self, record: Any) -> str:
        return usd_text(record.spent_nanousd)

    @admin.display(description="held", ordering="held_nanousd")
    def held(self, record: Any) -> str:
        return usd_text(record.held_nanousd)


class CapacityHourAdmin(ReadOnlyAdmin):
    list_display = (
        *("starts_at", "cluster", "state", "cost", "used", "idle"),
        *("used_percent", "tokens_used", "tokens_possible", "replicas", "sample_count"),
    )
    list_filter = ("is_closed",)
    # Not the columns themselves: those of an open hour mean something else (billing.capacity).
    fields = list_display
    search_fields = ("cluster__exact",)
    search_help_text = "The whole name of a cluster."
    keyset = ("starts_at", "id")

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

    @admin.display(description="replicas")
    def replicas(self, record: CapacityHour) -> str:
        """On average over the samples; hours without any were filled."""
        if record.sample_count == 0:
            return "-"
        tenths = (10 * record.replica_samples + record.sample_count // 2) // record.sample_count
        return f"{tenths // 10}.{tenths % 10}"

    @admin.display(description="tokens possible")
    def tokens_possible(self, record: CapacityHour) -> str:
        return f"{record.capacity_tokens:,}"


def _open_reservations() -> QuerySet[Reservation]:
    # In the words of the index reservation_open: SQLite uses it for no others.
    return Reservation.objects.extra(where=["state IN ('held', 'in_doubt')"])


def _rate_cell(*, name: str, value: Any) -> str:
    return rate_text(value) if name.endswith(RATE_END) and isinstance(value, int) else str(value)


def _uuid(text: str) -> UUID | None:
    try:
        return UUID(text)
    except ValueError:
        return None
