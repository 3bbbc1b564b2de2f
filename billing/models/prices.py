"""The table of prices: what a model costs, where, from when on and under which conditions."""

import uuid
from typing import ClassVar

from django.core.validators import MaxValueValidator, MinValueValidator
from django.db import models
from django.db.models import Q

MINUTES_PER_DAY = 1440


class Price(models.Model):
    """What a model costs from a day on, in micro-USD per million tokens. Never changed: a new row follows.

    A price may hold only for prompts from a size on, for one service tier, or between two times of the day.
    """

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
    audio_input_microusd_per_mtok = models.BigIntegerField(
        null=True, blank=True, help_text="Empty: the input price.", validators=[MinValueValidator(0)]
    )
    audio_output_microusd_per_mtok = models.BigIntegerField(
        null=True, blank=True, help_text="Empty: the output price.", validators=[MinValueValidator(0)]
    )
    image_input_microusd_per_mtok = models.BigIntegerField(
        null=True, blank=True, help_text="Empty: the input price.", validators=[MinValueValidator(0)]
    )
    context_tokens_min = models.PositiveIntegerField(
        "from prompt tokens", default=0, help_text="0: every prompt. A tier prices the whole request."
    )
    service_tier = models.CharField(
        max_length=16, blank=True, help_text="batch, flex, priority, …; empty: the standard one."
    )
    # Minutes of the day in UTC, the second not included; from > to passes midnight.
    daily_from_minute = models.PositiveSmallIntegerField(
        default=0, validators=[MaxValueValidator(MINUTES_PER_DAY)]
    )
    daily_to_minute = models.PositiveSmallIntegerField(
        default=MINUTES_PER_DAY, validators=[MaxValueValidator(MINUTES_PER_DAY)]
    )
    source = models.CharField(max_length=100, default="manual")
    source_version = models.CharField(max_length=64, blank=True)
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        constraints: ClassVar = [
            models.UniqueConstraint(
                fields=[
                    "model",
                    "cluster_name",
                    "effective_at",
                    "context_tokens_min",
                    "service_tier",
                    "daily_from_minute",
                ],
                name="price_once_per_moment",
            ),
            models.CheckConstraint(
                condition=Q(input_microusd_per_mtok__gte=0, output_microusd_per_mtok__gte=0),
                name="price_not_negative",
            ),
        ]

    def __str__(self) -> str:
        return f"price of {self.model} ({self.id})"
