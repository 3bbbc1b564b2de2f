"""The admin's forms for the inventory: dollars, model lists and write-only secrets, not raw columns."""

import re
from decimal import Decimal
from typing import Any

from django import forms
from django.contrib.admin.widgets import AdminSplitDateTime
from django.utils.html import format_html
from django.utils.safestring import SafeString

from clusters import inventory, presets, record_checks
from clusters.hourly_costs import COST_PER_HOUR_NANOUSD_MAX
from clusters.models import Cluster, ClusterSecret, Deployment, HourlyCost, Route, RouterSettings
from routing.money import NANOUSD_PER_USD

USD_DECIMALS = 9
PERMILLE = 1000
RATE_DECIMALS = 6
MICROUSD_PER_USD = 1_000_000
MISS_RATES = ("miss_input", "miss_output")
HOURLY_USD_MAX = COST_PER_HOUR_NANOUSD_MAX // NANOUSD_PER_USD
# Form field -> purpose; the token field's purpose follows from the kind of authentication.
PEM_FIELDS = {
    "client_certificate": ClusterSecret.Purpose.CLIENT_CERTIFICATE.value,
    "client_key": ClusterSecret.Purpose.CLIENT_KEY.value,
    "ca": ClusterSecret.Purpose.CA.value,
}
WAKE_FIELDS = {"wake_secret": ClusterSecret.Purpose.WAKE.value}
TOKEN_PURPOSES = {
    Cluster.Auth.BEARER.value: ClusterSecret.Purpose.BEARER.value,
    Cluster.Auth.HMAC.value: ClusterSecret.Purpose.HMAC.value,
    Cluster.Auth.SIGV4.value: ClusterSecret.Purpose.SIGV4.value,
}


class WriteOnlyTextarea(forms.Textarea):
    """A text area that never shows a value: not the stored one, nor what was just sent with an error."""

    def format_value(self, value: Any) -> None:
        """Nothing, ever."""


class ShownText(forms.Widget):
    """A value that is shown and cannot be entered."""

    def render(self, name: str, value: Any, attrs: Any = None, renderer: Any = None) -> SafeString:
        """Moments without seconds that say nothing."""
        return format_html("<span>{}</span>", str(value).removesuffix(":00"))


class ModelListField(forms.CharField):
    """A list of names, entered one a line or separated by commas."""

    widget = forms.Textarea(attrs={"rows": 4, "class": "vLargeTextField"})

    def to_python(self, value: Any) -> Any:
        """The names, in the order entered."""
        if isinstance(value, list):
            return value
        return [name.strip() for name in re.split(r"[,\n]", value or "") if name.strip()]

    def prepare_value(self, value: Any) -> Any:
        """One name a line."""
        return "\n".join(str(name) for name in value) if isinstance(value, list) else value

    def has_changed(self, initial: Any, data: Any) -> bool:
        """Compared as lists: another way of separating is no change."""
        return bool(self.to_python(data) != (initial or []))


class WeightsField(forms.CharField):
    """Whole numbers by name, entered one `name: number` a line."""

    widget = forms.Textarea(attrs={"rows": 4, "class": "vLargeTextField"})

    def to_python(self, value: Any) -> Any:
        """By name, in the order entered."""
        if isinstance(value, dict):
            return value
        lines = [line.strip() for line in re.split(r"[,\n]", value or "") if line.strip()]
        weights: dict[str, int] = {}
        for line in lines:
            name, _, number = (part.strip() for part in line.partition(":"))
            if not name or not re.fullmatch(r"[0-9]{1,9}", number):
                raise forms.ValidationError(
                    f"{line!r} is no weight: write a cluster's name, a colon and a whole number"
                )
            if name in weights:
                raise forms.ValidationError(f"{name!r} stands here twice: leave it once")
            weights[name] = int(number)
        return weights

    def prepare_value(self, value: Any) -> Any:
        """One a line."""
        if not isinstance(value, dict):
            return value
        return "\n".join(f"{name}: {weight}" for name, weight in value.items())

    def has_changed(self, initial: Any, data: Any) -> bool:
        """Compared as weights: another way of separating is no change."""
        try:
            return bool(self.to_python(data) != (initial or {}))
        except forms.ValidationError:
            return True


class InventoryForm(forms.ModelForm):  # type: ignore[type-arg]  # Django's class takes no argument at run time
    """A form whose record must pass the inventory's own checks."""

    def _get_validation_exclusions(self) -> set[str]:
        # The inventory judges endpoints: Django's URL check knows no host names without a dot.
        exclusions: set[str] = super()._get_validation_exclusions()  # type: ignore[misc]  # not in the stubs
        return exclusions | {"endpoint"}

    def _post_clean(self) -> None:
        super()._post_clean()  # type: ignore[misc]  # a documented hook, missing in the stubs
        if self.errors:
            return
        try:
            inventory.check_values(record=self.instance)
        except inventory.InventoryError as error:
            self.add_error(error.field if error.field in self.fields else None, str(error))


class ClusterForm(InventoryForm):
    """A cluster, its price in dollars, and secrets that can be entered but never read."""

    preset = forms.ChoiceField(
        required=False,
        choices=[
            ("", "none: an own cluster, or as entered below"),
            *((name, preset.label) for name, preset in presets.PRESETS.items()),
        ],
        help_text="A provider fills in kind, backend, authentication and billing when it is saved, endpoint "
        "and provider where they are empty: then only a name and the key below are needed.",
    )
    tags = ModelListField(
        required=False,
        widget=forms.TextInput(attrs={"class": "vLargeTextField"}),
        help_text="Words that keys and teams may require or forbid, such as gdpr, on-prem.",
    )
    endpoint = forms.CharField(
        required=False,
        max_length=record_checks.ENDPOINT_CHARACTERS_MAX,
        help_text="Base URL without /v1, for example https://aws.llm.example.com",
        widget=forms.TextInput(attrs={"class": "vLargeTextField"}),
    )
    cost_per_hour_usd = forms.DecimalField(
        label="Cost per hour (USD)",
        min_value=0,
        max_digits=15,
        decimal_places=USD_DECIMALS,
        initial=0,
        help_text="Of the whole cluster, of an autoscaled one: of each replica. 0 for a provider that is "
        "paid by the token. The hourly costs below go before it once they are in force.",
    )
    secret = forms.CharField(
        label="New API key, token or HMAC secret",
        required=False,
        widget=forms.PasswordInput(render_value=False, attrs={"autocomplete": "new-password"}),
        help_text="Write-only. It becomes live beside the older ones; retire those below. A provider's keys "
        "are all in use, the least loaded first. Of AWS: ACCESS_KEY_ID:SECRET_ACCESS_KEY.",
    )
    secret_label = forms.CharField(
        label="Label of what is entered here",
        required=False,
        max_length=inventory.LABEL_CHARACTERS_MAX,
        help_text="The key id of an HMAC secret; else only a note.",
    )
    wake_secret = forms.CharField(
        label="New token or HMAC secret of the wake hook",
        required=False,
        widget=forms.PasswordInput(render_value=False, attrs={"autocomplete": "new-password"}),
        help_text="Write-only, as the cluster's own secrets below.",
    )
    client_certificate = forms.CharField(
        label="New client certificate (PEM)", required=False, widget=WriteOnlyTextarea(attrs={"rows": 3})
    )
    client_key = forms.CharField(
        label="New client key (PEM)", required=False, widget=WriteOnlyTextarea(attrs={"rows": 3})
    )
    ca = forms.CharField(
        label="New CA certificate (PEM)",
        required=False,
        widget=WriteOnlyTextarea(attrs={"rows": 3}),
        help_text="With it, this authority alone is trusted for the cluster.",
    )

    class Meta:
        model = Cluster
        fields = (
            "name",
            "kind",
            "provider",
            "region",
            "endpoint",
            "backend",
            "auth_type",
            "allow_private_network",
            "expands_addresses",
            "billing",
            "replica_count",
            "replicas_max",
            "wake_url",
            "wake_auth",
            "warm_up_s",
            "billed_s_min",
            "scale_down_s",
            "tokens_per_s",
            "in_flight_max",
            "default_model",
            "discovery",
            "rpm_max",
            "tpm_max",
            "burst_percent",
            "state",
            "tags",
        )
        help_texts = {
            "replica_count": "Of an autoscaled cluster: how many run now. An autoscaler's hook may say so "
            "by manage.py set_replicas.",
            "tokens_per_s": "At full batch, of an autoscaled cluster: of each replica. Empty: what the "
            "prober measures, else 10.",
        }

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """Show the price in dollars."""
        super().__init__(*args, **kwargs)
        self.initial.setdefault("cost_per_hour_usd", usd(self.instance.cost_per_hour_nanousd))
        _let_out(self, "replicas_max", "wake_auth", "billed_s_min", "scale_down_s", "discovery")

    def clean(self) -> dict[str, Any]:
        """The price becomes nano-USD, exactly; each secret is checked before anything is saved."""
        cleaned: dict[str, Any] = super().clean() or self.cleaned_data
        self._fill_in(cleaned)
        if not cleaned.get("endpoint") and "endpoint" not in self.errors:
            self.add_error("endpoint", "enter where it answers, without /v1")
        price = cleaned.get("cost_per_hour_usd")
        if price is not None:
            self.instance.cost_per_hour_nanousd = nanousd(price)
        if cleaned.get("secret") and cleaned.get("auth_type") not in TOKEN_PURPOSES:
            self.add_error("secret", "choose bearer token, HMAC or AWS as authentication to store this")
        wake_auth = cleaned.get("wake_auth") or self.instance.wake_auth
        if cleaned.get("wake_secret") and wake_auth == Cluster.WakeAuth.NONE:
            self.add_error("wake_secret", "choose bearer token or HMAC for the wake hook to store this")
        for field, purpose in self._purposes():
            try:
                inventory.check_secret(purpose=purpose, plaintext=cleaned[field])
            except inventory.InventoryError as error:
                self.add_error(field, str(error))
        return cleaned

    def _fill_in(self, cleaned: dict[str, Any]) -> None:
        """What the chosen preset knows. The record takes these values as if they had been entered."""
        preset = presets.PRESETS.get(cleaned.get("preset") or "")
        if preset is None:
            return
        cleaned["kind"], cleaned["billing"] = Cluster.Kind.PROVIDER.value, Cluster.Billing.METERED.value
        cleaned["backend"], cleaned["auth_type"] = preset.backend, preset.auth_type
        cleaned["provider"] = cleaned.get("provider") or preset.name
        cleaned["endpoint"] = cleaned.get("endpoint") or preset.endpoint_in(cleaned.get("region") or "")

    def entered_secrets(self) -> list[tuple[str, str, str]]:
        """(purpose, label, plaintext) of what was entered; to be stored, and forgotten."""
        label = self.cleaned_data.get("secret_label") or ""
        return [(purpose, label, self.cleaned_data[field]) for field, purpose in self._purposes()]

    def _purposes(self) -> list[tuple[str, str]]:
        token_purpose = TOKEN_PURPOSES.get(self.cleaned_data.get("auth_type", ""))
        fields = {**({"secret": token_purpose} if token_purpose else {}), **PEM_FIELDS, **WAKE_FIELDS}
        return [(field, purpose) for field, purpose in fields.items() if self.cleaned_data.get(field)]


class DeploymentForm(InventoryForm):
    """A model on a cluster."""

    capabilities = ModelListField(
        required=False,
        widget=forms.TextInput(attrs={"size": 24}),
        help_text=f"Of {', '.join(record_checks.CAPABILITIES)}; empty: not declared.",
    )

    class Meta:
        model = Deployment
        fields = (
            "model",
            "upstream_name",
            "context_window",
            "output_tokens_max",
            "capabilities",
            "is_enabled",
        )


class HourlyCostForm(forms.ModelForm):  # type: ignore[type-arg]  # as above
    """What a cluster costs from a moment on; a row that is stored shows itself and cannot be changed."""

    effective_at = forms.SplitDateTimeField(label="From (UTC)", widget=AdminSplitDateTime)
    cost_per_hour_usd = forms.DecimalField(
        label="USD per hour", min_value=0, max_value=HOURLY_USD_MAX, decimal_places=USD_DECIMALS
    )

    class Meta:
        model = HourlyCost
        fields = ("effective_at",)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """Show the cost in dollars."""
        super().__init__(*args, **kwargs)
        if not self.instance._state.adding:  # noqa: SLF001 -- Django's documented name
            self.initial["cost_per_hour_usd"] = usd(self.instance.cost_per_hour_nanousd)
            self.fields["effective_at"] = forms.DateTimeField(disabled=True, widget=ShownText())
            self.fields["cost_per_hour_usd"] = forms.DecimalField(disabled=True, widget=ShownText())

    def clean(self) -> dict[str, Any]:
        """The cost becomes nano-USD, exactly."""
        cleaned: dict[str, Any] = super().clean() or self.cleaned_data
        if (cost := cleaned.get("cost_per_hour_usd")) is not None:
            self.instance.cost_per_hour_nanousd = nanousd(cost)
        return cleaned


class RetireForm(forms.ModelForm):  # type: ignore[type-arg]  # as above
    """A secret's row: what is in it cannot be changed; it can be limited, if a provider's key, and ended."""

    retire = forms.BooleanField(required=False, help_text="Ends it for good.")

    class Meta:
        model = ClusterSecret
        fields = ("rpm_max", "tpm_max")


class RouteForm(InventoryForm):
    """A public model name and who may answer it."""

    candidates = ModelListField(help_text="Model names that may answer, one a line or separated by commas.")
    fallbacks = ModelListField(
        required=False, help_text="Model names tried, in this order, when no candidate can."
    )
    context_fallbacks = ModelListField(
        required=False,
        help_text="Model names tried first, in this order, when prompt and max_tokens are too long for every "
        "candidate, or one refused them as too long.",
    )
    content_filter_fallbacks = ModelListField(
        required=False,
        help_text="Model names tried, in this order, when a content filter refused the request.",
    )
    policy = forms.ChoiceField(
        required=False,
        choices=[("", "as in the router settings"), *((name, name) for name in record_checks.POLICIES)],
    )

    weights = WeightsField(
        required=False,
        help_text="Policy weighted: one `cluster: weight` a line, such as aws-us-east-1: 3. A cluster that "
        "is not named weighs 1; with 0 it is a last resort.",
    )

    class Meta:
        model = Route
        fields = (
            "model",
            "candidates",
            "fallbacks",
            "context_fallbacks",
            "content_filter_fallbacks",
            "policy",
            "weights",
            "queue_places_max",
            "queue_wait_ms_max",
            "while_waking",
            "is_enabled",
        )

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """Waking is nothing that every route has to say something of."""
        super().__init__(*args, **kwargs)
        _let_out(self, "while_waking")


class RouterSettingsForm(InventoryForm):
    """The one row of settings, with factors and dollars as people write them."""

    policy = forms.ChoiceField(choices=[(name, name) for name in record_checks.POLICIES])
    overhead_factor = forms.DecimalField(
        min_value=Decimal("0.001"),
        max_digits=7,
        decimal_places=3,
        help_text="What a token of an own cluster costs more than the hour's price says: 1.1 adds 10 %.",
    )
    cluster_cost_threshold_usd = forms.DecimalField(
        label="Cluster cost threshold (USD per 1K tokens)",
        min_value=0,
        max_digits=15,
        decimal_places=USD_DECIMALS,
        help_text="Policy hybrid: own clusters below it are preferred to providers.",
    )
    miss_input_usd_per_mtok = forms.DecimalField(
        label="Cost of a miss (USD per million prompt tokens)",
        min_value=0,
        max_digits=13,
        decimal_places=RATE_DECIMALS,
        help_text="What an answer later than the objective counts: the price of a provider who is in time.",
    )
    miss_output_usd_per_mtok = forms.DecimalField(
        label="and per million output tokens", min_value=0, max_digits=13, decimal_places=RATE_DECIMALS
    )

    class Meta:
        model = RouterSettings
        fields = (
            "policy",
            "ttft_objective_ms",
            "ttft_objective_us_per_prompt_token",
            "tpot_objective_ms",
            "queue_places_max",
            "queue_wait_ms_max",
            "stickiness_window_s",
            "health_check_interval_s",
            "latency_ms_max",
            "queue_depth_max",
            "is_external_fallback_enabled",
            "server_port",
            "read_timeout_s",
            "write_timeout_s",
            "idle_timeout_s",
        )

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """Show the integers as people write them."""
        super().__init__(*args, **kwargs)
        self.initial.setdefault("overhead_factor", Decimal(self.instance.overhead_permille) / PERMILLE)
        threshold = usd(self.instance.cluster_cost_threshold_nanousd)
        self.initial.setdefault("cluster_cost_threshold_usd", threshold)
        for name in MISS_RATES:
            rate = getattr(self.instance, f"{name}_microusd_per_mtok")
            self.initial.setdefault(f"{name}_usd_per_mtok", Decimal(rate) / MICROUSD_PER_USD)

    def clean(self) -> dict[str, Any]:
        """Both become integers again, exactly."""
        cleaned: dict[str, Any] = super().clean() or self.cleaned_data
        if (factor := cleaned.get("overhead_factor")) is not None:
            self.instance.overhead_permille = int(factor * PERMILLE)
        if (threshold := cleaned.get("cluster_cost_threshold_usd")) is not None:
            self.instance.cluster_cost_threshold_nanousd = nanousd(threshold)
        for name in MISS_RATES:
            if (rate := cleaned.get(f"{name}_usd_per_mtok")) is not None:
                setattr(self.instance, f"{name}_microusd_per_mtok", int(rate * MICROUSD_PER_USD))
        return cleaned


def _let_out(form: forms.BaseForm, *names: str) -> None:
    """Fields that need not be sent: then what is there, or the model's default, stays."""
    for name in names:
        # Who may only look has no fields.
        if name in form.fields:
            form.fields[name].required = False


def usd(amount_nanousd: int) -> Decimal:
    """Dollars, exact."""
    return Decimal(amount_nanousd) / NANOUSD_PER_USD


def nanousd(amount_usd: Decimal) -> int:
    """Nano-USD; exact for up to nine decimals, which is all that the forms take."""
    return int(amount_usd * NANOUSD_PER_USD)
