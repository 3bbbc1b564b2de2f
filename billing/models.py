"""The tables of keys, prices, budgets and money. The ledger's own tables may live in a database apart."""

import uuid
from typing import ClassVar

from django.core.validators import MinValueValidator
from django.db import models
from django.db.models import Q


class Organisation(models.Model):
    """Owns teams."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    name = models.CharField(max_length=100, unique=True)
    created_at = models.DateTimeField(auto_now_add=True)

    def __str__(self) -> str:
        return f"{self.name} ({self.id})"


class Team(models.Model):
    """Owns keys."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    organisation = models.ForeignKey(Organisation, on_delete=models.PROTECT, related_name="teams")
    name = models.CharField(max_length=100, unique=True)
    created_at = models.DateTimeField(auto_now_add=True)

    def __str__(self) -> str:
        return f"{self.name} ({self.id})"


class ApiKey(models.Model):
    """A caller's key. Only its SHA-256 is kept: the key itself is shown once, when it is issued."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    team = models.ForeignKey(Team, on_delete=models.PROTECT, related_name="keys")
    name = models.CharField(max_length=100)
    prefix = models.CharField(max_length=16, editable=False)
    digest = models.CharField(max_length=64, unique=True, editable=False)
    allowed_models = models.JSONField(
        default=list, blank=True, help_text="Models this key may use; empty: all of them."
    )
    expires_at = models.DateTimeField(null=True, blank=True)
    revoked_at = models.DateTimeField(null=True, blank=True)
    rpm_max = models.PositiveIntegerField("requests/min", null=True, blank=True)
    tpm_max = models.PositiveIntegerField("tokens/min", null=True, blank=True)
    created_at = models.DateTimeField(auto_now_add=True)
    updated_at = models.DateTimeField(auto_now=True)

    class Meta:
        verbose_name = "API key"

    def __str__(self) -> str:
        return f"{self.name} {self.prefix}… ({self.id})"


class Budget(models.Model):
    """A limit on spend in a window, for an organisation, a team or a key."""

    class Window(models.TextChoices):
        DAY = "day", "Day"
        WEEK = "week", "Week"
        MONTH = "month", "Month"
        TOTAL = "total", "Total"

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    organisation = models.ForeignKey(Organisation, null=True, blank=True, on_delete=models.CASCADE)
    team = models.ForeignKey(Team, null=True, blank=True, on_delete=models.CASCADE)
    key = models.ForeignKey(ApiKey, null=True, blank=True, on_delete=models.CASCADE)
    limit_nanousd = models.BigIntegerField("limit (nano-USD)", validators=[MinValueValidator(0)])
    window = models.CharField(max_length=8, choices=Window.choices, default=Window.MONTH)
    timezone = models.CharField(max_length=64, default="UTC")
    is_hard = models.BooleanField(default=True, help_text="Hard: refuse. Soft: only report.")
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        constraints: ClassVar = [
            models.CheckConstraint(condition=Q(limit_nanousd__gte=0), name="budget_limit_not_negative"),
            models.CheckConstraint(
                condition=(
                    Q(organisation__isnull=False, team__isnull=True, key__isnull=True)
                    | Q(organisation__isnull=True, team__isnull=False, key__isnull=True)
                    | Q(organisation__isnull=True, team__isnull=True, key__isnull=False)
                ),
                name="budget_has_one_owner",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.window} budget ({self.id})"


class Price(models.Model):
    """What a model costs from a day on, in micro-USD per million tokens. Never changed: a new row follows."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    model = models.CharField(max_length=200)
    cluster_name = models.CharField(max_length=64, blank=True, help_text="Empty: wherever it is served.")
    effective_at = models.DateTimeField()
    input_microusd_per_mtok = models.BigIntegerField(validators=[MinValueValidator(0)])
    output_microusd_per_mtok = models.BigIntegerField(validators=[MinValueValidator(0)])
    cache_read_microusd_per_mtok = models.BigIntegerField(
        null=True, blank=True, help_text="Empty: the input price.", validators=[MinValueValidator(0)]
    )
    cache_write_5m_microusd_per_mtok = models.BigIntegerField(
        null=True, blank=True, help_text="Empty: the input price.", validators=[MinValueValidator(0)]
    )
    cache_write_1h_microusd_per_mtok = models.BigIntegerField(
        null=True, blank=True, help_text="Empty: the input price.", validators=[MinValueValidator(0)]
    )
    reasoning_microusd_per_mtok = models.BigIntegerField(
        null=True, blank=True, help_text="Empty: the output price.", validators=[MinValueValidator(0)]
    )
    source = models.CharField(max_length=100, default="manual")
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        constraints: ClassVar = [
            models.UniqueConstraint(
                fields=["model", "cluster_name", "effective_at"], name="price_once_per_moment"
            ),
            models.CheckConstraint(
                condition=Q(input_microusd_per_mtok__gte=0, output_microusd_per_mtok__gte=0),
                name="price_not_negative",
            ),
        ]

    def __str__(self) -> str:
        return f"price of {self.model} ({self.id})"


class Revision(models.Model):
    """Counts the changes of keys, budgets and prices; gateways reload when it moved. One row."""

    id = models.PositiveSmallIntegerField(primary_key=True, default=1, editable=False)
    number = models.BigIntegerField(default=0)

    def __str__(self) -> str:
        return f"revision {self.number} ({self.id})"


# --- The ledger's tables (billing.databases places them). They copy names and rates instead of
# pointing at the inventory: the ledger outlives it.


class BudgetWindow(models.Model):
    """What one budget has spent and holds in one window. A hard budget's invariant is guarded here."""

    id = models.CharField(primary_key=True, max_length=64)  # budget id + start of the window
    budget_id = models.UUIDField()
    starts_at = models.DateTimeField()
    ends_at = models.DateTimeField(null=True)
    spent_nanousd = models.BigIntegerField(default=0)
    held_nanousd = models.BigIntegerField(default=0)

    class Meta:
        constraints: ClassVar = [
            models.CheckConstraint(
                condition=Q(spent_nanousd__gte=0, held_nanousd__gte=0), name="budget_window_not_negative"
            ),
        ]

    def __str__(self) -> str:
        return f"budget window {self.id}"


class Reservation(models.Model):
    """Money held for one attempt, from before it is sent until it is settled."""

    class State(models.TextChoices):
        HELD = "held", "Held"
        SETTLED = "settled", "Settled"
        VOID = "void", "Void"
        IN_DOUBT = "in_doubt", "In doubt"

    attempt_id = models.UUIDField(primary_key=True)
    request_id = models.CharField(max_length=64)
    owner = models.UUIDField()
    state = models.CharField(max_length=8, choices=State.choices, default=State.HELD)
    held_nanousd = models.BigIntegerField()
    windows = models.JSONField(default=list)
    attribution = models.JSONField(default=dict)
    output_tokens_checkpoint = models.BigIntegerField(default=0)
    created_at = models.DateTimeField()
    updated_at = models.DateTimeField()

    class Meta:
        indexes: ClassVar = [
            # Recovery asks for the open reservations of dead owners; closed ones stay out of the index.
            models.Index(
                fields=["owner"], name="reservation_open", condition=Q(state__in=["held", "in_doubt"])
            ),
        ]

    def __str__(self) -> str:
        return f"reservation {self.attempt_id}"


class UsageRecord(models.Model):
    """One attempt: what it used, what it cost, at which rate, and why it went there. Append-only."""

    class Outcome(models.TextChoices):
        OK = "ok", "Completed"
        CANCELLED = "cancelled", "Client went away"
        TRUNCATED = "truncated", "Cut by the upstream"
        FAILED = "failed", "Failed before any content"
        IN_DOUBT = "in_doubt", "Gateway died"

    attempt_id = models.UUIDField(primary_key=True)
    request_id = models.CharField(max_length=64)
    attempt_number = models.PositiveSmallIntegerField()
    started_at = models.DateTimeField()
    settled_at = models.DateTimeField()
    organisation = models.CharField(max_length=100)
    team = models.CharField(max_length=100)
    key_id = models.UUIDField()
    key_name = models.CharField(max_length=120)
    model = models.CharField(max_length=200)
    served_model = models.CharField(max_length=200)
    cluster = models.CharField(max_length=64)
    cluster_kind = models.CharField(max_length=16)
    provider = models.CharField(max_length=32)
    surface = models.CharField(max_length=16)
    is_stream = models.BooleanField()
    outcome = models.CharField(max_length=12, choices=Outcome.choices)
    error_code = models.CharField(max_length=64, blank=True)
    input_fresh_tokens = models.BigIntegerField(default=0)
    cache_read_tokens = models.BigIntegerField(default=0)
    cache_write_5m_tokens = models.BigIntegerField(default=0)
    cache_write_1h_tokens = models.BigIntegerField(default=0)
    output_text_tokens = models.BigIntegerField(default=0)
    reasoning_tokens = models.BigIntegerField(default=0)
    audio_tokens = models.BigIntegerField(default=0)
    is_estimate = models.BooleanField()
    rate = models.JSONField()
    held_nanousd = models.BigIntegerField()
    cost_nanousd = models.BigIntegerField()
    variance_nanousd = models.BigIntegerField(default=0)
    ttft_ms = models.PositiveIntegerField(null=True)
    duration_ms = models.PositiveIntegerField()
    decision = models.JSONField()

    class Meta:
        indexes: ClassVar = [
            # The ledger's pages in the admin: newest first, of all, of a key, of one request.
            models.Index(fields=["-settled_at"], name="usage_latest"),
            models.Index(fields=["key_id", "-settled_at"], name="usage_of_key"),
            models.Index(fields=["request_id"], name="usage_of_request"),
        ]

    def __str__(self) -> str:
        return f"usage {self.attempt_id}"


class SpendRollup(models.Model):
    """Sums of the ledger by hour or day and by key, model and cluster. Reports read only these."""

    class Period(models.TextChoices):
        HOUR = "hour", "Hour"
        DAY = "day", "Day"

    id = models.CharField(primary_key=True, max_length=64)  # a digest of all that is grouped by
    period = models.CharField(max_length=4, choices=Period.choices)
    starts_at = models.DateTimeField()
    organisation = models.CharField(max_length=100)
    team = models.CharField(max_length=100)
    key_id = models.UUIDField()
    key_name = models.CharField(max_length=120)
    model = models.CharField(max_length=200)
    cluster = models.CharField(max_length=64)
    cluster_kind = models.CharField(max_length=16)
    requests = models.BigIntegerField(default=0)
    failures = models.BigIntegerField(default=0)
    estimates = models.BigIntegerField(default=0)
    input_tokens = models.BigIntegerField(default=0)
    cache_read_tokens = models.BigIntegerField(default=0)
    output_tokens = models.BigIntegerField(default=0)
    cost_nanousd = models.BigIntegerField(default=0)
    # The part of the own cluster's bill for the hour that these rows used; filled when the hour is over.
    amortised_nanousd = models.BigIntegerField(default=0)
    updated_at = models.DateTimeField()

    class Meta:
        indexes: ClassVar = [
            # Every report asks for one period's rows between two moments.
            models.Index(fields=["period", "starts_at"], name="rollup_by_time"),
        ]

    def __str__(self) -> str:
        return f"rollup {self.id}"


class CapacityHour(models.Model):
    """What one hourly-paid cluster cost in one hour, and how much of it was used. Used + idle = cost."""

    id = models.CharField(primary_key=True, max_length=100)  # cluster + start of the hour
    cluster = models.CharField(max_length=64)
    starts_at = models.DateTimeField()
    cost_nanousd = models.BigIntegerField()
    capacity_tokens = models.BigIntegerField()  # output tokens it could have made
    used_tokens = models.BigIntegerField()
    used_nanousd = models.BigIntegerField()
    idle_nanousd = models.BigIntegerField()
    sample_count = models.PositiveIntegerField(default=0)
    is_closed = models.BooleanField(default=False)
    updated_at = models.DateTimeField()

    class Meta:
        indexes: ClassVar = [
            # Reports ask for all clusters' hours between two moments.
            models.Index(fields=["starts_at"], name="capacity_by_time"),
        ]
        constraints: ClassVar = [
            models.CheckConstraint(
                condition=Q(cost_nanousd=models.F("used_nanousd") + models.F("idle_nanousd")),
                name="capacity_adds_up",
            ),
        ]

    def __str__(self) -> str:
        return f"capacity {self.id}"
