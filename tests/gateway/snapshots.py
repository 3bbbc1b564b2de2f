"""Hand-made snapshots of the control plane for tests: no database."""

from datetime import UTC, datetime

from billing.prices import RateTable
from clusters.signing import NoneSigner
from clusters.snapshots import ClusterView, DeploymentView, InventorySnapshot, RouterSettingsView
from gateway.fleet import FleetKeeper, build_snapshot

NOW = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)

ROUTER_SETTINGS = RouterSettingsView(
    policy="cost",
    ttft_objective_ms=2000,
    ttft_objective_us_per_prompt_token=250,
    tpot_objective_ms=50,
    miss_input_microusd_per_mtok=3_000_000,
    miss_output_microusd_per_mtok=12_000_000,
    queue_places_max=0,
    queue_wait_ms_max=0,
    stickiness_window_s=60,
    health_check_interval_s=30,
    latency_ms_max=5000,
    queue_depth_max=10,
    overhead_permille=1100,
    cluster_cost_threshold_nanousd=10_000_000,
    is_external_fallback_enabled=True,
    server_port=None,
    read_timeout_s=30,
    write_timeout_s=120,
    idle_timeout_s=60,
)


def deployment_view(**values):
    return DeploymentView(
        **{
            "id": "d1",
            "model": "llama",
            "upstream_name": "llama",
            "context_window": 8192,
            "output_tokens_max": None,
            "capabilities": frozenset(),
            **values,
        }
    )


def cluster_view(**values):
    return ClusterView(
        **{
            "id": "c1",
            "name": "aws",
            "kind": "own",
            "provider": "aws",
            "region": "us-east-1",
            "endpoint": "https://aws.example.com",
            "backend": "vllm",
            "auth_type": "none",
            "billing": "committed",
            "state": "active",
            "cost_per_hour_nanousd": 92_800_000,
            "rated_tokens_per_s": 900,
            "in_flight_max": 64,
            "default_model": "",
            "rpm_max": None,
            "tpm_max": None,
            "burst_percent": 100,
            "health": "unknown",
            "health_reason": "",
            "health_checked_at": None,
            "queue_depth": None,
            "running_count": None,
            "measured_tokens_per_s": None,
            "latency_ms": None,
            "allow_private_network": False,
            "signer": NoneSigner(),
            "tls": None,
            "secret_problem": "",
            "deployments": (deployment_view(),),
            **values,
        }
    )


def snapshot_of(*, clusters=None, routes=(), rates=None, principals=None, now=NOW, now_s=0.0):
    return build_snapshot(
        inventory=InventorySnapshot(
            revision=1,
            clusters=tuple(clusters if clusters is not None else [cluster_view()]),
            routes=tuple(routes),
            settings=ROUTER_SETTINGS,
        ),
        principals=principals or {},
        rates=RateTable(rates=rates or {}, next_change_at=None),
        billing_revision=1,
        now=now,
        now_s=now_s,
    )


def keeper_of(**values):
    keeper = FleetKeeper(clock=lambda: 0.0, wall_clock=lambda: NOW)
    keeper._take(snapshot_of(**values))
    return keeper
