"""The admin's form of a budget: its limit, its override and its warnings, as people write them."""

from datetime import datetime
from typing import Any, ClassVar

from django import forms
from django.core.exceptions import ValidationError

from billing.budgets import check_warnings
from billing.door_admin import admin_now
from billing.forms import NamesField, UsdField
from billing.models import Budget
from billing.records import RecordError
from billing.windows import is_timezone

OWNERS = ("organisation", "team", "key")


class PercentsField(forms.Field):
    """Whole percents with commas between them, a sorted list in code."""

    widget = forms.TextInput

    def prepare_value(self, value: Any) -> Any:
        return ", ".join(map(str, value)) if isinstance(value, list) else value

    def to_python(self, value: Any) -> list[int]:
        words = [word.strip().removesuffix("%").strip() for word in str(value or "").split(",")]
        try:
            percents = sorted({int(word) for word in words if word})
        except ValueError as error:
            raise ValidationError(
                "Write whole percents with commas between them, such as 80, 100."
            ) from error
        _refuse_on_form(percents=percents)
        return percents


class EmailsField(NamesField):
    """E-mail addresses, one per line."""

    widget = forms.Textarea(attrs={"rows": 3, "cols": 40})

    def to_python(self, value: Any) -> list[str]:
        emails = super().to_python(value)
        _refuse_on_form(emails=emails)
        return emails


class BudgetForm(forms.ModelForm):  # type: ignore[type-arg]  # generic only for mypy
    limit_nanousd = UsdField(label="Limit (USD)", help_text="Such as 25 or 0.50.")
    override_limit_nanousd = UsdField(
        label="Limit meanwhile (USD)",
        required=False,
        help_text="Counts instead of the limit until the moment below; what is spent stays counted.",
    )
    override_reason = forms.CharField(
        label="Reason", required=False, max_length=200, widget=forms.TextInput(attrs={"size": 60})
    )
    warning_percents = PercentsField(
        label="Warn at (percent)", required=False, help_text="Of the limit, such as 80, 100; empty: never."
    )
    warning_emails = EmailsField(label="Warn by e-mail", required=False, help_text="One address per line.")
    warning_webhook = forms.URLField(
        label="Warn by webhook",
        required=False,
        max_length=300,
        assume_scheme="https",
        help_text="A URL that takes a POST with JSON.",
    )

    class Meta:
        model = Budget
        fields: ClassVar = [
            *OWNERS,
            "limit_nanousd",
            "window",
            "timezone",
            "is_hard",
            "is_clamped",
            "is_crossed",
            "override_limit_nanousd",
            "override_until",
            "override_reason",
            "warning_percents",
            "warning_emails",
            "warning_webhook",
        ]

    def clean(self) -> dict[str, Any]:
        cleaned = super().clean() or {}
        if [cleaned.get(name) for name in OWNERS].count(None) != 2:
            raise ValidationError("Choose exactly one owner: an organisation, a team or a key.")
        if "timezone" in cleaned and not is_timezone(cleaned["timezone"]):
            self.add_error("timezone", "This is no time zone: write a name such as Europe/Berlin.")
        if cleaned.get("is_clamped") and not cleaned.get("is_hard"):
            self.add_error(
                "is_clamped", "Only a hard budget shortens answers: make it hard, or do not clamp it."
            )
        if cleaned.get("is_crossed") and (cleaned.get("is_clamped") or not cleaned.get("is_hard")):
            self.add_error(
                "is_crossed", "Only a hard budget that is not clamped may be crossed: choose one of the two."
            )
        self._clean_override(cleaned, now=admin_now())
        return cleaned

    def clean_warning_webhook(self) -> str:
        webhook: str = self.cleaned_data["warning_webhook"]
        _refuse_on_form(webhook=webhook)
        return webhook

    def _clean_override(self, cleaned: dict[str, Any], *, now: datetime) -> None:
        """A limit, an end in the future and a reason, or none of them. One that is over may stay."""
        if {"override_limit_nanousd", "override_until"} & set(self.errors):
            return
        limit, until = cleaned["override_limit_nanousd"], cleaned["override_until"]
        if limit is None and until is None:
            cleaned["override_reason"] = ""
        elif until is None:
            self.add_error("override_until", "An override ends at some moment: say when.")
        elif limit is None:
            self.add_error("override_limit_nanousd", "Say which limit counts until then.")
        elif until <= now and {"override_limit_nanousd", "override_until"} & set(self.changed_data):
            self.add_error("override_until", "This moment is over: an override ends in the future.")
        elif not cleaned.get("override_reason") and "override_reason" not in self.errors:
            self.add_error("override_reason", "Say why the limit is another one meanwhile.")


def _refuse_on_form(*, percents: object = (), emails: object = (), webhook: str = "") -> None:
    try:
        check_warnings(percents=percents or [], emails=emails or [], webhook=webhook)
    except RecordError as error:
        text = str(error)
        raise ValidationError(f"{text[0].upper()}{text[1:]}.") from error
