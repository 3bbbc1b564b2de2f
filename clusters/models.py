"""The inventory's tables: clusters and their secrets, deployments, routes, experiments, settings, checks."""

import uuid
from typing import ClassVar

from django.core.validators import MaxValueValidator, MinValueValidator
from django.db import models
from django.db.models import Q


class Cluster(models.Model):
    """A site that serves models: one of our own, paid by the hour, or a provider, paid by the token."""

    class Kind(models.TextChoices):
        OWN = "own", "Own cluster"
        PROVIDER = "provider", "Provider"

    class Backend(models.TextChoices):
        VLLM = "vllm", "vLLM"
        SGLANG = "sglang", "SGLang"
        LLAMACPP = "llamacpp", "llama.cpp"
        TGI = "tgi", "TGI"
        OLLAMA = "ollama", "Ollama"
        OPENAI = "openai", "OpenAI-compatible"
        CLAUDE = "claude", "Anthropic Claude"
        GEMINI = "gemini", "Google Gemini"
        AZURE = "azure", "Azure OpenAI"
        BEDROCK = "bedrock", "AWS Bedrock"

    class Auth(models.TextChoices):
        NONE = "none", "None"
        BEARER = "bearer", "Bearer token"
        HMAC = "hmac", "HMAC signature"
        MTLS = "mtls", "Mutual TLS"
        SIGV4 = "sigv4", "AWS signature (SigV4)"

    class Billing(models.TextChoices):
        COMMITTED = "committed", "Committed (paid whether used or not)"
        AUTOSCALED = "autoscaled", "Autoscaled (paid while it runs)"
        METERED = "metered", "Metered (paid by the token)"

    class State(models.TextChoices):
        ACTIVE = "active", "Active"
        DRAINING = "draining", "Draining (finishes, takes nothing new)"
        DISABLED = "disabled", "Disabled"

    class Discovery(models.TextChoices):
        NEVER = "never", "Never"
        EMPTY = "empty", "While it has none"
        ALWAYS = "always", "Always"

    class Temperature(models.TextChoices):
        COLD = "cold", "Cold (nothing of it runs)"
        WAKING = "waking", "Waking (asked for, not there yet)"
        WARM = "warm", "Warm"

    class WakeAuth(models.TextChoices):
        NONE = "none", "None"
        BEARER = "bearer", "Bearer token"
        HMAC = "hmac", "HMAC signature"

    class Health(models.TextChoices):
        HEALTHY = "healthy", "Healthy"
        UNHEALTHY = "unhealthy", "Unhealthy"
        UNKNOWN = "unknown", "Unknown"

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    name = models.SlugField(max_length=64, unique=True)
    kind = models.CharField(max_length=16, choices=Kind.choices, default=Kind.OWN)
    provider = models.CharField(
        max_length=32, blank=True, help_text="Who runs it: aws, gcp, azure, hetzner, onprem, openai, …"
    )
    region = models.CharField(max_length=64, blank=True)
    endpoint = models.URLField(
        max_length=300, help_text="Base URL without /v1, for example https://aws.llm.example.com"
    )
    backend = models.CharField(max_length=16, choices=Backend.choices, default=Backend.VLLM)
    auth_type = models.CharField(max_length=16, choices=Auth.choices, default=Auth.NONE)
    allow_private_network = models.BooleanField(
        default=False, help_text="Let the endpoint resolve to a private or loopback address."
    )
    expands_addresses = models.BooleanField(
        "expand addresses",
        default=False,
        help_text="Each address of the endpoint's name is a server of its own, as behind a headless service "
        "of Kubernetes: requests are spread over them, each is probed. Not for those of a load balancer.",
    )
    billing = models.CharField(max_length=16, choices=Billing.choices, default=Billing.COMMITTED)
    cost_per_hour_nanousd = models.BigIntegerField(
        "cost per hour (nano-USD)", default=0, validators=[MinValueValidator(0)]
    )
    tokens_per_s = models.PositiveIntegerField(
        "rated output tokens/s",
        null=True,
        blank=True,
        help_text="At full batch. Empty: what the prober measures, else the seed's assumption.",
    )
    replica_count = models.PositiveIntegerField(
        "replicas",
        default=1,
        help_text="Of an autoscaled cluster: how many run now; each costs the hour's price.",
    )
    replicas_max = models.PositiveIntegerField(
        "replicas at most",
        default=1,
        validators=[MinValueValidator(1)],
        help_text="The wake hook is never asked for more.",
    )
    wake_url = models.CharField(
        "wake hook",
        max_length=300,
        blank=True,
        help_text="Of an autoscaled cluster: POST here asks for replicas. Empty: nobody is asked.",
    )
    wake_auth = models.CharField(
        "wake hook's authentication", max_length=16, choices=WakeAuth.choices, default=WakeAuth.NONE
    )
    warm_up_s = models.PositiveIntegerField(
        "warm-up (s)",
        null=True,
        blank=True,
        help_text="From the asking to the first answer. Empty: what is measured, else a minute.",
    )
    billed_s_min = models.PositiveIntegerField(
        "billed at least (s)", default=0, help_text="What a replica is paid for once it runs, at least."
    )
    scale_down_s = models.PositiveIntegerField(
        "scale-down window (s)", default=0, help_text="How long an idle replica is kept before it ends."
    )
    in_flight_max = models.PositiveIntegerField(default=64, validators=[MinValueValidator(1)])
    default_model = models.CharField(max_length=200, blank=True)
    discovery = models.CharField(
        "discover models",
        max_length=8,
        choices=Discovery.choices,
        default=Discovery.EMPTY,
        help_text="By an own cluster's list. Always: what is new is added, what vanished gets no traffic; "
        "a model that is disabled below stays so.",
    )
    rpm_max = models.PositiveIntegerField("requests/min", null=True, blank=True)
    tpm_max = models.PositiveIntegerField("tokens/min", null=True, blank=True)
    burst_percent = models.PositiveIntegerField(
        default=100, validators=[MinValueValidator(100), MaxValueValidator(1000)]
    )
    state = models.CharField(max_length=16, choices=State.choices, default=State.ACTIVE)
    tags = models.JSONField(
        default=list,
        blank=True,
        help_text='Words that keys and teams may require or forbid, for example ["gdpr", "on-prem"].',
    )

    # What the prober saw last. Unknown stays null: a missing metric is never 0.
    health = models.CharField(max_length=16, choices=Health.choices, default=Health.UNKNOWN)
    health_reason = models.CharField(max_length=200, blank=True)
    # Of an autoscaled cluster; empty: not known, or not autoscaled.
    temperature = models.CharField(max_length=8, choices=Temperature.choices, blank=True, editable=False)
    health_checked_at = models.DateTimeField(null=True, blank=True)
    failure_count = models.PositiveIntegerField(default=0)
    queue_depth = models.PositiveIntegerField(null=True, blank=True)
    running_count = models.PositiveIntegerField(null=True, blank=True)
    measured_tokens_per_s = models.PositiveIntegerField(null=True, blank=True)
    latency_ms = models.PositiveIntegerField(null=True, blank=True)
    clock_skew_s = models.IntegerField(null=True, blank=True)
    certificate_expires_at = models.DateTimeField("server certificate expires at", null=True, blank=True)
    # Where addresses are expanded: how many there are, and how many of them were healthy.
    address_count = models.PositiveSmallIntegerField(null=True, blank=True, editable=False)
    healthy_address_count = models.PositiveSmallIntegerField(null=True, blank=True, editable=False)
    # How many looks in quick succession are left since it refused connections.
    quick_look_count = models.PositiveSmallIntegerField(default=0, editable=False)
    # Written by gateways: when live traffic last found it failing, and until when they leave it alone.
    traffic_failed_at = models.DateTimeField(null=True, blank=True, editable=False)
    traffic_avoided_until = models.DateTimeField(null=True, blank=True, editable=False)

    created_at = models.DateTimeField(auto_now_add=True)
    updated_at = models.DateTimeField(auto_now=True)

    class Meta:
        constraints: ClassVar = [
            models.CheckConstraint(
                condition=Q(cost_per_hour_nanousd__gte=0), name="cluster_cost_per_hour_not_negative"
            ),
            models.CheckConstraint(condition=Q(in_flight_max__gte=1), name="cluster_in_flight_max_positive"),
            models.CheckConstraint(condition=Q(replicas_max__gte=1), name="cluster_replicas_max_positive"),
        ]

    def __str__(self) -> str:
        return f"{self.name} ({self.id})"


class Waking(models.Model):
    """What gateways spilt for want of a cluster's replicas, and what came of asking for one."""

    cluster = models.OneToOneField(Cluster, on_delete=models.CASCADE, primary_key=True, related_name="waking")
    # Written by the gateways: what was ever spilt, and when a request last had nowhere else to go.
    spilt_nanousd = models.BigIntegerField(default=0)
    asked_at = models.DateTimeField(null=True, blank=True)
    # The fold of routing.waking over it: up to which sum, at which rate it is spilt, its wish.
    folded_nanousd = models.BigIntegerField(default=0)
    folded_at = models.DateTimeField(null=True, blank=True)
    spill_nanousd_per_hour = models.BigIntegerField(default=0)
    wished_replicas = models.PositiveIntegerField(default=0)
    wished_at = models.DateTimeField(null=True, blank=True)
    # The call of the hook: due at `call_at` (null: none is), claimed by moving it.
    call_at = models.DateTimeField(null=True, blank=True)
    call_replicas = models.PositiveIntegerField(default=0)
    call_reason = models.CharField(max_length=16, blank=True)
    called_at = models.DateTimeField(null=True, blank=True)
    failure_count = models.PositiveIntegerField(default=0)
    error = models.CharField(max_length=200, blank=True)
    accepted_count = models.PositiveIntegerField(default=0)
    accepted_at = models.DateTimeField(null=True, blank=True)
    # Until when a replica that was asked for is expected, and until when it is waited for.
    expected_at = models.DateTimeField(null=True, blank=True)
    awaited_until = models.DateTimeField(null=True, blank=True)
    warm_up_ms = models.PositiveIntegerField(null=True, blank=True)
    warm_up_count = models.PositiveIntegerField(default=0)

    def __str__(self) -> str:
        return f"waking of {self.cluster_id}"


class HourlyCost(models.Model):
    """What a cluster's replica costs per hour from a moment on: spot prices and contracts that change."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    cluster = models.ForeignKey(Cluster, on_delete=models.CASCADE, related_name="hourly_costs")
    effective_at = models.DateTimeField()
    cost_per_hour_nanousd = models.BigIntegerField(
        "cost per hour (nano-USD)", validators=[MinValueValidator(0)]
    )
    source = models.CharField(max_length=100, default="manual")
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        constraints: ClassVar = [
            models.UniqueConstraint(fields=["cluster", "effective_at"], name="hourly_cost_once_per_moment"),
            models.CheckConstraint(
                condition=Q(cost_per_hour_nanousd__gte=0), name="hourly_cost_not_negative"
            ),
        ]

    def __str__(self) -> str:
        return f"hourly cost ({self.id})"


class ClusterSecret(models.Model):
    """One secret of a cluster, encrypted; several of a purpose are live together in a rotation."""

    class Purpose(models.TextChoices):
        BEARER = "bearer", "API key or bearer token"
        HMAC = "hmac", "HMAC shared secret"
        CLIENT_CERTIFICATE = "client_certificate", "Client certificate (PEM)"
        CLIENT_KEY = "client_key", "Client key (PEM)"
        CA = "ca", "CA certificate (PEM)"
        WAKE = "wake", "Wake hook's token or HMAC secret"
        SIGV4 = "sigv4", "AWS access key"

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    cluster = models.ForeignKey(Cluster, on_delete=models.CASCADE, related_name="secrets")
    purpose = models.CharField(max_length=24, choices=Purpose.choices)
    label = models.CharField(max_length=64, blank=True)
    ciphertext = models.BinaryField(editable=False)
    encryption_key_id = models.CharField(max_length=16, editable=False)
    is_active = models.BooleanField(default=True)
    rpm_max = models.PositiveIntegerField(
        "requests/min", null=True, blank=True, validators=[MinValueValidator(1)]
    )
    tpm_max = models.PositiveIntegerField(
        "tokens/min", null=True, blank=True, validators=[MinValueValidator(1)]
    )
    is_staged = models.BooleanField(
        default=False, help_text="Waits until the cluster knows it: nothing is signed with it yet."
    )
    created_at = models.DateTimeField(auto_now_add=True)

    def __str__(self) -> str:
        return f"{self.purpose} secret {self.id}"


class Deployment(models.Model):
    """A model on a cluster."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    cluster = models.ForeignKey(Cluster, on_delete=models.CASCADE, related_name="deployments")
    model = models.CharField(max_length=200, help_text="The name our users ask for.")
    upstream_name = models.CharField(
        max_length=200, blank=True, help_text="The cluster's own name for it, if another."
    )
    context_window = models.PositiveIntegerField(default=8192, validators=[MinValueValidator(1)])
    output_tokens_max = models.PositiveIntegerField(
        null=True, blank=True, help_text="Upper limit for max_tokens; empty: what the context leaves."
    )
    capabilities = models.JSONField(
        default=list,
        blank=True,
        help_text='For example ["chat", "completions", "embeddings", "tools", "vision"]; '
        "empty: not declared.",
    )
    is_enabled = models.BooleanField(default=True)
    # Since when its cluster does not list it, where models are always discovered.
    vanished_at = models.DateTimeField(null=True, blank=True, editable=False)
    updated_at = models.DateTimeField(auto_now=True)

    class Meta:
        constraints: ClassVar = [
            models.UniqueConstraint(fields=["cluster", "model"], name="deployment_once_per_cluster"),
        ]

    def __str__(self) -> str:
        return f"{self.model} ({self.id})"


class Route(models.Model):
    """A public model name with the models that may answer it, its policy and its fallbacks."""

    class WhileWaking(models.TextChoices):
        SPILL = "spill", "Spill (go to the next)"
        WAIT = "wait", "Wait for it"

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    model = models.CharField(max_length=200, unique=True)
    candidates = models.JSONField(
        default=list, help_text="Model names that may answer; each is served by all its clusters."
    )
    fallbacks = models.JSONField(
        default=list, blank=True, help_text="Model names tried, in this order, when no candidate can."
    )
    context_fallbacks = models.JSONField(
        default=list,
        blank=True,
        help_text="Model names tried, in this order, when the request is too long for every candidate.",
    )
    content_filter_fallbacks = models.JSONField(
        default=list,
        blank=True,
        help_text="Model names tried, in this order, when a content filter refused the request.",
    )
    policy = models.CharField(max_length=32, blank=True, help_text="Empty: the router setting.")
    weights = models.JSONField(
        default=dict,
        blank=True,
        help_text="Policy weighted: cluster name to weight; who is not named weighs 1, 0 is a last resort.",
    )
    queue_places_max = models.PositiveIntegerField(
        "waiting at most", null=True, blank=True, help_text="Empty: the router setting. 0: nobody waits."
    )
    queue_wait_ms_max = models.PositiveIntegerField(
        "waiting at most (ms)", null=True, blank=True, help_text="Empty: the router setting."
    )
    while_waking = models.CharField(
        "while an own cluster wakes",
        max_length=8,
        choices=WhileWaking.choices,
        default=WhileWaking.SPILL,
        help_text="Whether requests go elsewhere meanwhile, or wait for it, as long as requests may wait.",
    )
    is_enabled = models.BooleanField(default=True)
    updated_at = models.DateTimeField(auto_now=True)

    def __str__(self) -> str:
        return f"{self.model} ({self.id})"


class Experiment(models.Model):
    """Arms that share a route's callers by weight, to be compared; the first one is the control."""

    class State(models.TextChoices):
        DRAFT = "draft", "Draft"
        RUNNING = "running", "Running"
        STOPPED = "stopped", "Stopped"

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    name = models.SlugField(
        max_length=64, unique=True, help_text="Every attempt of it carries this name in the ledger."
    )
    route = models.ForeignKey(Route, on_delete=models.CASCADE, related_name="experiments")
    arms = models.JSONField(default=list)  # [{"model": …, "weight": …}]
    state = models.CharField(max_length=8, choices=State.choices, default=State.DRAFT, editable=False)
    started_at = models.DateTimeField(null=True, blank=True, editable=False)
    stopped_at = models.DateTimeField(null=True, blank=True, editable=False)
    stopped_reason = models.CharField(max_length=300, blank=True, editable=False)
    ramp_s = models.PositiveIntegerField(default=0)
    ramp_steps = models.JSONField(default=list, blank=True)  # [{"after_s": …, "percent": …}]
    error_increase_permille = models.PositiveIntegerField(default=50, validators=[MaxValueValidator(1000)])
    latency_increase_percent = models.PositiveIntegerField(default=50, validators=[MaxValueValidator(10_000)])
    samples_min = models.PositiveIntegerField(
        default=100, validators=[MinValueValidator(30), MaxValueValidator(1_000_000)]
    )
    created_at = models.DateTimeField(auto_now_add=True)
    updated_at = models.DateTimeField(auto_now=True)

    class Meta:
        constraints: ClassVar = [
            models.UniqueConstraint(
                fields=["route"], condition=Q(state="running"), name="experiment_one_running_per_route"
            ),
        ]

    def __str__(self) -> str:
        return f"{self.name} ({self.id})"


class RouterSettings(models.Model):
    """The installation's routing and server settings: one row."""

    id = models.PositiveSmallIntegerField(primary_key=True, default=1, editable=False)
    policy = models.CharField(max_length=32, default="marginal")
    ttft_objective_ms = models.PositiveIntegerField(
        "time to first token (ms)",
        default=1500,
        validators=[MinValueValidator(1)],
        help_text="The latency objective: when the first token of a short prompt's answer shall be there.",
    )
    ttft_objective_us_per_prompt_token = models.PositiveIntegerField(
        "and per prompt token (us)", default=500, help_text="What each token of the prompt adds to it."
    )
    tpot_objective_ms = models.PositiveIntegerField(
        "time per output token (ms)", default=100, validators=[MinValueValidator(1)]
    )
    miss_input_microusd_per_mtok = models.BigIntegerField(
        "cost of a miss (micro-USD per million prompt tokens)",
        default=2_500_000,
        validators=[MinValueValidator(0)],
    )
    miss_output_microusd_per_mtok = models.BigIntegerField(
        "cost of a miss (micro-USD per million output tokens)",
        default=10_000_000,
        validators=[MinValueValidator(0)],
    )
    queue_places_max = models.PositiveIntegerField(
        "waiting at most, on each route",
        default=100,
        help_text="Where every cluster is full, so many requests wait for a place. 0: nobody waits.",
    )
    queue_wait_ms_max = models.PositiveIntegerField(
        "waiting at most (ms)",
        default=5000,
        help_text="Longer than that nobody waits; who would have to is refused at once.",
    )
    stickiness_window_s = models.PositiveIntegerField(default=60)
    health_check_interval_s = models.PositiveIntegerField(default=30, validators=[MinValueValidator(1)])
    latency_ms_max = models.PositiveIntegerField(default=5000, validators=[MinValueValidator(1)])
    queue_depth_max = models.PositiveIntegerField(default=10)
    overhead_permille = models.PositiveIntegerField(
        "overhead factor (per mille)", default=1100, validators=[MinValueValidator(1)]
    )
    cluster_cost_threshold_nanousd = models.BigIntegerField(
        "cluster cost threshold (nano-USD per 1K tokens)", default=10_000_000
    )
    is_external_fallback_enabled = models.BooleanField(default=True)
    server_port = models.PositiveIntegerField(null=True, blank=True)
    read_timeout_s = models.PositiveIntegerField(default=30)
    write_timeout_s = models.PositiveIntegerField(default=120)
    idle_timeout_s = models.PositiveIntegerField(default=60)
    updated_at = models.DateTimeField(auto_now=True)

    class Meta:
        verbose_name_plural = "router settings"
        constraints: ClassVar = [models.CheckConstraint(condition=Q(id=1), name="router_settings_one_row")]

    def __str__(self) -> str:
        return f"router settings ({self.id})"


class HealthCheck(models.Model):
    """One probe of one cluster and what it saw."""

    id = models.BigAutoField(primary_key=True)
    cluster = models.ForeignKey(Cluster, on_delete=models.CASCADE, related_name="health_checks")
    checked_at = models.DateTimeField()
    is_healthy = models.BooleanField()
    reason = models.CharField(max_length=200, blank=True)
    duration_ms = models.PositiveIntegerField()
    queue_depth = models.PositiveIntegerField(null=True, blank=True)
    running_count = models.PositiveIntegerField(null=True, blank=True)
    tokens_per_s = models.PositiveIntegerField(null=True, blank=True)
    ttft_ms = models.PositiveIntegerField(null=True, blank=True)

    class Meta:
        indexes: ClassVar = [
            # The cluster page's latest checks, and pruning by age.
            models.Index(fields=["cluster", "-checked_at"], name="health_check_latest"),
            models.Index(fields=["checked_at"], name="health_check_age"),
        ]

    def __str__(self) -> str:
        return f"health check {self.id}"


class Revision(models.Model):
    """Counts the changes of the inventory: each write adds one, gateways reload when it moved. One row."""

    id = models.PositiveSmallIntegerField(primary_key=True, default=1, editable=False)
    number = models.BigIntegerField(default=0)

    def __str__(self) -> str:
        return f"revision {self.number} ({self.id})"
