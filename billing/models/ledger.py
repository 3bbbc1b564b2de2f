"""The ledger's own tables, which may live in a database apart (billing.databases).

They copy names and rates instead of pointing at the inventory: the ledger outlives it.
"""

from typing import ClassVar

from django.db import models
from django.db.models import Q

from routing.types import TOKEN_BUCKETS, Usage

Statistic = models.FloatField  # noqa: TID251 -- sums of squares, logarithms and scores are no amounts


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
            # Refusals and balances ask what attempts in doubt hold; there are some only after a crash.
            models.Index(fields=["attempt_id"], name="reservation_in_doubt", condition=Q(state="in_doubt")),
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
    audio_tokens = models.BigIntegerField(default=0)  # of the answer
    input_audio_tokens = models.BigIntegerField(default=0)
    input_image_tokens = models.BigIntegerField(default=0)
    is_estimate = models.BooleanField()
    rate = models.JSONField()
    held_nanousd = models.BigIntegerField()
    cost_nanousd = models.BigIntegerField()
    variance_nanousd = models.BigIntegerField(default=0)
    # What the upstream itself said that it charges; null: it said nothing.
    reported_cost_nanousd = models.BigIntegerField(null=True)
    service_tier = models.CharField(max_length=16, blank=True, default="")
    ttft_ms = models.PositiveIntegerField(null=True)
    duration_ms = models.PositiveIntegerField()
    decision = models.JSONField()
    # The experiment on its route and the caller's arm; another served_model: it crossed over.
    experiment = models.CharField(max_length=64, blank=True, default="")
    arm = models.CharField(max_length=200, blank=True, default="")

    class Meta:
        indexes: ClassVar = [
            # The ledger's pages in the admin: newest first, of all, of a key, of one request.
            models.Index(fields=["-settled_at"], name="usage_latest"),
            models.Index(fields=["key_id", "-settled_at"], name="usage_of_key"),
            models.Index(fields=["request_id"], name="usage_of_request"),
        ]

    def __str__(self) -> str:
        return f"usage {self.attempt_id}"

    @property
    def usage(self) -> Usage:
        """Its tokens, as they were charged."""
        tokens = {name: getattr(self, name) for name in TOKEN_BUCKETS}
        return Usage(**tokens, is_estimate=self.is_estimate)


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
    provider = models.CharField(max_length=32, blank=True, default="")
    requests = models.BigIntegerField(default=0)
    failures = models.BigIntegerField(default=0)
    estimates = models.BigIntegerField(default=0)
    input_tokens = models.BigIntegerField(default=0)
    cache_read_tokens = models.BigIntegerField(default=0)
    output_tokens = models.BigIntegerField(default=0)
    cost_nanousd = models.BigIntegerField(default=0)
    # What upstreams reported as their own cost, and what the same attempts cost by our prices.
    reported_cost_nanousd = models.BigIntegerField(default=0)
    compared_cost_nanousd = models.BigIntegerField(default=0)
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
    # While the hour is open: the cost per hour that the rest of it is committed to.
    committed_nanousd_per_hour = models.BigIntegerField(default=0)
    # Each sample's replicas added up: divided by sample_count it is how many ran on average.
    replica_samples = models.PositiveBigIntegerField(default=0)
    # The router's overhead factor then, for the seed's formula; null: hours of before it was kept.
    overhead_permille = models.PositiveIntegerField(null=True)
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


class ClosingBalance(models.Model):
    """What pruned rows added to a sum that stays, of a budget window or an hour; proofs count on it."""

    class Kind(models.TextChoices):
        WINDOW = "window", "Budget window"
        HOUR = "hour", "Hour's rollup"

    id = models.CharField(primary_key=True, max_length=80)  # kind + id of the row whose sum it is
    kind = models.CharField(max_length=8, choices=Kind.choices)
    row_id = models.CharField(max_length=64)
    sums = models.JSONField()
    updated_at = models.DateTimeField()

    def __str__(self) -> str:
        return f"closing balance {self.id}"


class PrunedPeriod(models.Model):
    """One run of pruning: the attempts that were begun up to a moment are gone, and what they came to."""

    id = models.BigAutoField(primary_key=True)
    begun_before = models.DateTimeField()
    attempts = models.BigIntegerField()
    cost_nanousd = models.BigIntegerField()
    pruned_at = models.DateTimeField()

    def __str__(self) -> str:
        return f"pruned period {self.id}"


class ExperimentHour(models.Model):
    """What one arm of an experiment came to in one hour: sums, and sums of squares for their intervals.

    Of attempts that the arm's own model took; those that crossed over are only counted. Sums of squares
    and logarithms are statistics, not amounts: they are floats.
    """

    id = models.CharField(primary_key=True, max_length=40)  # a digest of experiment, arm and hour
    experiment = models.CharField(max_length=64)
    arm = models.CharField(max_length=200)
    starts_at = models.DateTimeField()
    attempts = models.BigIntegerField(default=0)
    errors = models.BigIntegerField(default=0)
    crossed_over = models.BigIntegerField(default=0)
    cost_nanousd = models.BigIntegerField(default=0)
    cost_squares = Statistic(default=0.0)
    tokens = models.BigIntegerField(default=0)
    tokens_squares = Statistic(default=0.0)
    cost_times_tokens = Statistic(default=0.0)
    ttft_count = models.BigIntegerField(default=0)
    ttft_ms = models.BigIntegerField(default=0)
    ttft_ms_squares = Statistic(default=0.0)
    ttft_log = Statistic(default=0.0)
    ttft_log_squares = Statistic(default=0.0)
    feedback_count = models.BigIntegerField(default=0)
    feedback_score = Statistic(default=0.0)
    feedback_squares = Statistic(default=0.0)
    updated_at = models.DateTimeField()

    class Meta:
        indexes: ClassVar = [
            # The report and the guard ask for all hours of one experiment.
            models.Index(fields=["experiment"], name="experiment_hours"),
        ]

    def __str__(self) -> str:
        return f"experiment hour {self.id}"


class ExperimentLatency(models.Model):
    """How many of one arm's first tokens in one day came within one bucket of time: for its quantiles."""

    id = models.CharField(primary_key=True, max_length=40)  # a digest of experiment, arm, day and bucket
    experiment = models.CharField(max_length=64)
    arm = models.CharField(max_length=200)
    starts_at = models.DateTimeField()
    bucket = models.PositiveSmallIntegerField()  # billing.latency_buckets
    count = models.BigIntegerField(default=0)

    class Meta:
        indexes: ClassVar = [
            # The report adds up one experiment's buckets.
            models.Index(fields=["experiment"], name="experiment_latencies"),
        ]

    def __str__(self) -> str:
        return f"experiment latency {self.id}"


class Feedback(models.Model):
    """What one key says of one request's answer; saying it again replaces what was said."""

    id = models.CharField(primary_key=True, max_length=40)  # a digest of request and key
    request_id = models.CharField(max_length=64)
    attempt_id = models.UUIDField()
    key_id = models.UUIDField()
    organisation = models.CharField(max_length=100)
    team = models.CharField(max_length=100)
    model = models.CharField(max_length=200)
    served_model = models.CharField(max_length=200)
    experiment = models.CharField(max_length=64, blank=True, default="")
    arm = models.CharField(max_length=200, blank=True, default="")
    score = Statistic()  # 0 bad to 1 good
    comment = models.CharField(max_length=1000, blank=True, default="")
    created_at = models.DateTimeField()
    updated_at = models.DateTimeField()

    class Meta:
        indexes: ClassVar = [
            # Pruning takes what belongs to attempts that go.
            models.Index(fields=["attempt_id"], name="feedback_of_attempt"),
            # The admin's page: newest first.
            models.Index(fields=["-created_at"], name="feedback_latest"),
        ]
        constraints: ClassVar = [
            models.CheckConstraint(condition=Q(score__gte=0, score__lte=1), name="feedback_score_0_to_1"),
        ]

    def __str__(self) -> str:
        return f"feedback {self.id}"


class IdempotentRequest(models.Model):
    """A request that named an Idempotency-Key: which attempt answers it, and the sealed answer for a day."""

    class State(models.TextChoices):
        RUNNING = "running", "Running"
        DONE = "done", "Done"

    id = models.CharField(primary_key=True, max_length=64)  # SHA-256 of the API key's id and the header
    key_id = models.UUIDField()
    request_id = models.CharField(max_length=64)
    owner = models.UUIDField()
    body_digest = models.CharField(max_length=64)
    state = models.CharField(max_length=8, choices=State.choices, default=State.RUNNING)
    # Sealed by gateway.idempotency; null: still running, or too long to be kept.
    answer = models.BinaryField(null=True)
    created_at = models.DateTimeField()
    expires_at = models.DateTimeField()

    class Meta:
        indexes: ClassVar = [
            models.Index(fields=["expires_at"], name="idempotent_expiry"),
        ]

    def __str__(self) -> str:
        return f"idempotent request {self.id}"
