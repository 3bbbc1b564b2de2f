"""Form fields and forms of the admin: USD on the page, integers behind it."""

from typing import Any, ClassVar

from django import forms
from django.core.exceptions import ValidationError

from billing.amounts import AmountError, nanousd_from_usd, plain_rate_text, plain_usd_text, rate_from_usd
from billing.models import ApiKey, Budget, Price
from billing.windows import is_timezone


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


class ApiKeyForm(forms.ModelForm):  # type: ignore[type-arg]  # generic only for mypy
    allowed_models = NamesField(
        required=False, help_text="Models this key may use, one per line; empty: all of them."
    )
    rpm_max = forms.IntegerField(
        label="Requests/min", required=False, min_value=1, max_value=2**31 - 1, help_text="Empty: no limit."
    )
    tpm_max = forms.IntegerField(
        label="Tokens/min", required=False, min_value=1, max_value=2**31 - 1, help_text="Empty: no limit."
    )

    class Meta:
        model = ApiKey
        fields: ClassVar = ["team", "name", "allowed_models", "expires_at", "rpm_max", "tpm_max"]


class BudgetForm(forms.ModelForm):  # type: ignore[type-arg]  # generic only for mypy
    limit_nanousd = UsdField(label="Limit (USD)", help_text="Such as 25 or 0.50.")

    class Meta:
        model = Budget
        fields: ClassVar = [
            "organisation",
            "team",
            "key",
            "limit_nanousd",
            "window",
            "timezone",
            "is_hard",
        ]

    def clean(self) -> dict[str, Any]:
        cleaned = super().clean() or {}
        if [cleaned.get(name) for name in ("organisation", "team", "key")].count(None) != 2:
            raise ValidationError("Choose exactly one owner: an organisation, a team or a key.")
        if "timezone" in cleaned and not is_timezone(cleaned["timezone"]):
            self.add_error("timezone", "This is no time zone: write a name such as Europe/Berlin.")
        return cleaned


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

    class Meta:
        model = Price
        fields: ClassVar = [
            "model",
            "cluster_name",
            "effective_at",
            "input_microusd_per_mtok",
            "output_microusd_per_mtok",
            "cache_read_microusd_per_mtok",
            "cache_write_5m_microusd_per_mtok",
            "cache_write_1h_microusd_per_mtok",
            "reasoning_microusd_per_mtok",
            "source",
        ]
