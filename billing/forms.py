"""Form fields and forms of the admin: USD on the page, integers behind it."""

from typing import Any, ClassVar

from django import forms
from django.core.exceptions import ValidationError

from billing.amounts import AmountError, nanousd_from_usd, plain_rate_text, plain_usd_text, rate_from_usd
from billing.models import ApiKey, Price, Team
from billing.placements import PLACEMENT_FIELDS
from billing.price_book import RATE_NAMES
from billing.price_conditions import (
    CONTEXT_TOKENS_MAX,
    MINUTES_PER_DAY,
    PriceConditionError,
    checked_condition,
    minute_from_text,
    time_text,
)

CONDITION_FIELDS = ("service_tier", "context_tokens_min", "daily_from_minute", "daily_to_minute")


class UsdField(forms.Field):
    """An amount entered in USD, nano-USD in code; exact in both directions."""

    widget = forms.TextInput

    def prepare_value(self, value: Any) -> Any:
        return plain_usd_text(value) if isinstance(value, int) else value

    def to_python(self, value: Any) -> int | None:
        if value in self.empty_values:
            return None
        try:
            return nanousd_from_usd(str(value).strip())
        except AmountError as error:
            raise ValidationError(str(error)) from error


class RateField(forms.Field):
    """A rate entered in USD per million tokens, micro-USD per million tokens in code."""

    widget = forms.TextInput

    def prepare_value(self, value: Any) -> Any:
        return plain_rate_text(value) if isinstance(value, int) else value

    def to_python(self, value: Any) -> int | None:
        if value in self.empty_values:
            return None
        try:
            return rate_from_usd(str(value).strip())
        except AmountError as error:
            raise ValidationError(str(error)) from error


class TimeOfDayField(forms.Field):
    """A time of the day entered as HH:MM in UTC, a minute of the day in code."""

    widget = forms.TextInput

    def __init__(self, *, default_minute: int, **kwargs: Any) -> None:
        super().__init__(required=False, initial=default_minute, **kwargs)
        self._default_minute = default_minute

    def prepare_value(self, value: Any) -> Any:
        return time_text(value) if isinstance(value, int) else value

    def to_python(self, value: Any) -> int:
        if value in self.empty_values:
            return self._default_minute
        try:
            return minute_from_text(str(value))
        except PriceConditionError as error:
            raise ValidationError(f"{error}.") from error


class NamesField(forms.Field):
    """A list of names, entered one per line or with commas between them."""

    widget = forms.Textarea(attrs={"rows": 4, "cols": 40})

    def prepare_value(self, value: Any) -> Any:
        return "\n".join(value) if isinstance(value, list) else value

    def to_python(self, value: Any) -> list[str]:
        names = [name.strip() for name in str(value or "").replace(",", "\n").split("\n")]
        if not all(name.isprintable() for name in names):
            raise ValidationError("A name has a character that cannot be shown.")
        return list(dict.fromkeys(name for name in names if name))


class PlacementForm(forms.ModelForm):  # type: ignore[type-arg]  # generic only for mypy
    """Where requests may be served: lists of words, not columns of JSON."""

    allowed_regions = NamesField(
        required=False,
        help_text="Regions whose clusters may serve it, as the clusters have them; empty: every region. A "
        "cluster without a region is then out.",
    )
    required_tags = NamesField(required=False, help_text="Tags that a cluster must have, all of them.")
    forbidden_tags = NamesField(required=False, help_text="Tags that a cluster must not have, none of them.")


class TeamForm(PlacementForm):
    class Meta:
        model = Team
        fields: ClassVar = [
            "organisation",
            "name",
            "rpm_max",
            "tpm_max",
            "concurrent_max",
            "weight",
            *PLACEMENT_FIELDS,
        ]


class ApiKeyForm(PlacementForm):
    allowed_models = NamesField(
        required=False, help_text="Models this key may use, one per line; empty: all of them."
    )
    rpm_max = forms.IntegerField(
        label="Requests/min", required=False, min_value=1, max_value=2**31 - 1, help_text="Empty: no limit."
    )
    tpm_max = forms.IntegerField(
        label="Tokens/min", required=False, min_value=1, max_value=2**31 - 1, help_text="Empty: no limit."
    )

    concurrent_max = forms.IntegerField(
        label="Requests at once",
        required=False,
        min_value=1,
        max_value=2**31 - 1,
        help_text="Empty: no limit.",
    )

    class Meta:
        model = ApiKey
        fields: ClassVar = [
            "team",
            "name",
            "allowed_models",
            "expires_at",
            "rpm_max",
            "tpm_max",
            "concurrent_max",
            "priority",
            *PLACEMENT_FIELDS,
        ]


class PriceForm(forms.ModelForm):  # type: ignore[type-arg]  # generic only for mypy
    input_microusd_per_mtok = RateField(label="Input (USD per million tokens)")
    output_microusd_per_mtok = RateField(label="Output (USD per million tokens)")
    cache_read_microusd_per_mtok = RateField(
        label="Cached input", required=False, help_text="Empty: the input price."
    )
    cache_write_5m_microusd_per_mtok = RateField(
        label="Cache write, 5 minutes", required=False, help_text="Empty: the input price."
    )
    cache_write_1h_microusd_per_mtok = RateField(
        label="Cache write, 1 hour", required=False, help_text="Empty: the input price."
    )
    reasoning_microusd_per_mtok = RateField(
        label="Reasoning", required=False, help_text="Empty: the output price."
    )
    audio_input_microusd_per_mtok = RateField(
        label="Audio in the prompt", required=False, help_text="Empty: the input price."
    )
    audio_output_microusd_per_mtok = RateField(
        label="Audio in the answer", required=False, help_text="Empty: the output price."
    )
    image_input_microusd_per_mtok = RateField(
        label="Images in the prompt", required=False, help_text="Empty: the input price."
    )
    context_tokens_min = forms.IntegerField(
        label="From prompt tokens",
        required=False,
        min_value=0,
        max_value=CONTEXT_TOKENS_MAX,
        help_text="Empty: every prompt. From this many tokens on the price holds for the whole request.",
    )
    daily_from_minute = TimeOfDayField(
        label="Daily from (UTC)", default_minute=0, help_text="HH:MM, such as 16:30. Empty: all day."
    )
    daily_to_minute = TimeOfDayField(
        label="Daily to (UTC)",
        default_minute=MINUTES_PER_DAY,
        help_text="HH:MM; earlier than from: past midnight. Empty: 24:00.",
    )

    class Meta:
        model = Price
        fields: ClassVar = [
            "model",
            "cluster_name",
            "effective_at",
            *RATE_NAMES,
            "service_tier",
            "context_tokens_min",
            "daily_from_minute",
            "daily_to_minute",
            "source",
        ]

    def clean_context_tokens_min(self) -> int:
        return self.cleaned_data["context_tokens_min"] or 0

    def clean(self) -> dict[str, Any]:
        cleaned = super().clean() or {}
        condition = {name: cleaned[name] for name in CONDITION_FIELDS if name in cleaned}
        if len(condition) == len(CONDITION_FIELDS):
            try:
                checked = checked_condition(**condition)
            except PriceConditionError as error:
                raise ValidationError(f"{error}.") from error
            # As the table has it: a window from midnight on is not the price for all day.
            cleaned.update({name: getattr(checked, name) for name in CONDITION_FIELDS})
        return cleaned
