"""The tables of who spends: organisations, teams, API keys, their budgets and limits."""

import uuid
from typing import ClassVar

from django.core.validators import MaxValueValidator, MinValueValidator
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
    rpm_max = models.PositiveIntegerField("requests/min", null=True, blank=True)
    tpm_max = models.PositiveIntegerField("tokens/min", null=True, blank=True)
    concurrent_max = models.PositiveIntegerField("requests at once", null=True, blank=True)
    allowed_regions = models.JSONField(
        default=list, blank=True, help_text="Regions whose clusters may serve it; empty: every region."
    )
    required_tags = models.JSONField(
        default=list, blank=True, help_text="Tags that a cluster must have to serve it."
    )
    forbidden_tags = models.JSONField(
        default=list, blank=True, help_text="Tags that a cluster must not have to serve it."
    )
    weight = models.PositiveSmallIntegerField(
        "share of places",
        default=1,
        validators=[MinValueValidator(1), MaxValueValidator(1000)],
        help_text="Where requests wait for a place, a team of weight 3 gets three for each of a team of 1.",
    )
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
    concurrent_max = models.PositiveIntegerField("requests at once", null=True, blank=True)
    allowed_regions = models.JSONField(
        default=list, blank=True, help_text="Regions whose clusters may serve it; empty: every region."
    )
    required_tags = models.JSONField(
        default=list, blank=True, help_text="Tags that a cluster must have to serve it."
    )
    forbidden_tags = models.JSONField(
        default=list, blank=True, help_text="Tags that a cluster must not have to serve it."
    )
    priority = models.SmallIntegerField(
        default=0,
        validators=[MinValueValidator(-10), MaxValueValidator(10)],
        help_text="Where requests wait for a place, higher goes first; -10 to 10, and waiting raises it.",
    )
    # What a key's maker wants to find again: alias, user id, tags. Never read by the gateway.
    metadata = models.JSONField(default=dict, blank=True)
    created_at = models.DateTimeField(auto_now_add=True)
    updated_at = models.DateTimeField(auto_now=True)

    class Meta:
        verbose_name = "API key"

    def __str__(self) -> str:
        return f"{self.name} {self.prefix}… ({self.id})"


class ModelLimit(models.Model):
    """Limits of one model: of a key's or a team's use of it, or of everybody's together (neither given)."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    model = models.CharField(max_length=200)
    team = models.ForeignKey(Team, null=True, blank=True, on_delete=models.CASCADE)
    key = models.ForeignKey(ApiKey, null=True, blank=True, on_delete=models.CASCADE)
    rpm_max = models.PositiveIntegerField("requests/min", null=True, blank=True)
    tpm_max = models.PositiveIntegerField("tokens/min", null=True, blank=True)
    concurrent_max = models.PositiveIntegerField("requests at once", null=True, blank=True)
    updated_at = models.DateTimeField(auto_now=True)

    class Meta:
        constraints: ClassVar = [
            models.UniqueConstraint(
                fields=["model"],
                condition=Q(team__isnull=True, key__isnull=True),
                name="model_limit_of_all_once",
            ),
            models.UniqueConstraint(fields=["model", "team"], name="model_limit_of_team_once"),
            models.UniqueConstraint(fields=["model", "key"], name="model_limit_of_key_once"),
            models.CheckConstraint(
                condition=Q(team__isnull=True) | Q(key__isnull=True), name="model_limit_has_one_owner"
            ),
        ]

    def __str__(self) -> str:
        return f"limits of {self.model} ({self.id})"


def default_warning_percents() -> list[int]:
    return [80, 100]


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
    is_clamped = models.BooleanField(
        default=False,
        help_text="Hard only: where less is left than a request may cost, lower its max_tokens to what is.",
    )
    is_crossed = models.BooleanField(
        "may be crossed",
        default=False,
        help_text="Hard only, LiteLLM's rule: take requests while anything is left, so that the last one may "
        "cost more than that; refusals then have LiteLLM's words.",
    )
    override_limit_nanousd = models.BigIntegerField(
        "limit meanwhile (nano-USD)", null=True, blank=True, validators=[MinValueValidator(0)]
    )
    override_until = models.DateTimeField(null=True, blank=True)
    override_reason = models.CharField(max_length=200, blank=True)
    warning_percents = models.JSONField(
        default=default_warning_percents, blank=True, help_text="Of the limit; such as [80, 100]."
    )
    warning_emails = models.JSONField(default=list, blank=True)
    warning_webhook = models.URLField(max_length=300, blank=True)
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        constraints: ClassVar = [
            models.CheckConstraint(condition=Q(limit_nanousd__gte=0), name="budget_limit_not_negative"),
            models.CheckConstraint(
                condition=Q(override_limit_nanousd__isnull=True, override_until__isnull=True)
                | Q(override_limit_nanousd__gte=0, override_until__isnull=False),
                name="budget_override_expires",
            ),
            models.CheckConstraint(
                condition=Q(is_crossed=False) | Q(is_hard=True, is_clamped=False),
                name="budget_crossed_is_hard",
            ),
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


class BudgetWarning(models.Model):
    """One message that a budget's window passed a share of its limit, by one channel to one target."""

    class Channel(models.TextChoices):
        EMAIL = "email", "E-mail"
        WEBHOOK = "webhook", "Webhook"

    class State(models.TextChoices):
        DUE = "due", "Due"
        SENT = "sent", "Sent"
        FAILED = "failed", "Given up"

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    budget = models.ForeignKey(Budget, on_delete=models.CASCADE, related_name="warnings")
    window_id = models.CharField(max_length=64)
    percent = models.PositiveSmallIntegerField()
    channel = models.CharField(max_length=8, choices=Channel.choices)
    target = models.CharField(max_length=300)
    limit_nanousd = models.BigIntegerField()
    spent_nanousd = models.BigIntegerField()
    state = models.CharField(max_length=8, choices=State.choices, default=State.DUE)
    tries = models.PositiveSmallIntegerField(default=0)
    next_try_at = models.DateTimeField()
    error = models.CharField(max_length=200, blank=True)
    created_at = models.DateTimeField()
    sent_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        constraints: ClassVar = [
            # Whoever looks twice warns once.
            models.UniqueConstraint(
                fields=["window_id", "percent", "channel", "target", "limit_nanousd"],
                name="budget_warning_once",
            ),
        ]
        indexes: ClassVar = [
            # The sender asks for what is due.
            models.Index(fields=["next_try_at"], name="budget_warning_due", condition=Q(state="due")),
        ]

    def __str__(self) -> str:
        return f"{self.percent} % warning ({self.id})"


class Revision(models.Model):
    """Counts the changes of keys, budgets and prices; gateways reload when it moved. One row."""

    id = models.PositiveSmallIntegerField(primary_key=True, default=1, editable=False)
    number = models.BigIntegerField(default=0)

    def __str__(self) -> str:
        return f"revision {self.number} ({self.id})"
