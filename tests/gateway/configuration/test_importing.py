from dataclasses import asdict
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from billing.prices import load_rates, put_price
from clusters import inventory
from clusters.catalogue import KeyEntry, load_catalogue, put_cluster
from clusters.experiments import get_experiment, stop_experiment
from clusters.models import Cluster, ClusterSecret, RouterSettings
from gateway.configuration.document import ConfigurationError
from gateway.configuration.exporting import export_text
from gateway.configuration.importing import import_file
from tests.gateway.configuration.conftest import NOW, revisions
from tests.gateway.configuration.files import (
    CANARY_KEY,
    CANARY_SECRET,
    ENVIRONMENT,
    ODDITIES,
    REFERENCE,
    SEED_FILE,
)

pytestmark = pytest.mark.django_db

LATER = datetime(2030, 1, 2, tzinfo=UTC)
# What a cluster has of which the file says nothing.
NEVER_WOKEN = {
    "wake_url": "",
    "wake_auth": "none",
    "warm_up_s": None,
    "billed_s_min": 0,
    "scale_down_s": 0,
    "replicas_max": 1,
}


def cluster_named(name):
    return next(each for each in load_catalogue().clusters if each.name == name)


def opened_secrets(name):
    """The purposes and labels of the live secrets, oldest first."""
    live = ClusterSecret.objects.filter(cluster__name=name, is_active=True).order_by("created_at")
    return [(secret.purpose, secret.label) for secret in live]


def test_seed_example_imports_without_any_key():
    report = import_file(path=SEED_FILE, environment={}, now=NOW)

    states = {each.name: (each.values["kind"], each.values["state"]) for each in load_catalogue().clusters}
    assert states == {
        "aws-us-west-2": ("own", "active"),
        "gcp-us-central1": ("own", "active"),
        "azure-eastus": ("own", "active"),
        "openai": ("provider", "disabled"),
        "claude": ("provider", "disabled"),
        "gemini": ("provider", "disabled"),
        "openai-premium": ("provider", "disabled"),
        "claude-premium": ("provider", "disabled"),
    }
    assert len([warning for warning in report.warnings if "is disabled, because" in warning]) == 3
    assert any("OPENAI_API_KEY is not set" in warning for warning in report.warnings)


def test_seed_example_imports_with_keys_and_prices_from_the_library():
    environment = {"OPENAI_API_KEY": CANARY_KEY, "ANTHROPIC_API_KEY": "a-key", "GEMINI_API_KEY": "g-key"}

    import_file(path=SEED_FILE, environment=environment, now=NOW)

    claude = cluster_named("claude")
    assert claude.values == {
        "kind": "provider",
        "provider": "claude",
        "region": "",
        "endpoint": "https://api.anthropic.com",
        "backend": "claude",
        "auth_type": "bearer",
        "allow_private_network": False,
        "expands_addresses": False,
        "discovery": "empty",
        "billing": "metered",
        "cost_per_hour_nanousd": 0,
        "replica_count": 1,
        "tokens_per_s": None,
        "in_flight_max": 64,
        "default_model": "claude-3-haiku-20240307",
        "rpm_max": 1000,
        "tpm_max": 100_000,
        "burst_percent": 120,
        "state": "active",
        "tags": [],
        **NEVER_WOKEN,
    }
    assert claude.secret_purposes == frozenset({"bearer"})
    (deployment,) = claude.deployments
    assert (deployment.model, deployment.values["context_window"]) == ("claude-3-haiku-20240307", 200_000)
    rate = load_rates(now=NOW).rate_of(model="claude-3-haiku-20240307", cluster_name="claude")
    assert (rate.input_microusd_per_mtok, rate.output_microusd_per_mtok) == (250_000, 1_250_000)
    assert cluster_named("openai-premium").values["state"] == "disabled"
    assert load_catalogue().settings["policy"] == "hybrid"


def test_reference_imports_every_field(import_text):
    report = import_text(REFERENCE, ENVIRONMENT)

    catalogue = load_catalogue()
    assert catalogue.settings == {
        "policy": "marginal",
        "ttft_objective_ms": 1500,
        "ttft_objective_us_per_prompt_token": 500,
        "tpot_objective_ms": 100,
        "miss_input_microusd_per_mtok": 2_500_000,
        "miss_output_microusd_per_mtok": 10_000_000,
        "queue_places_max": 100,
        "queue_wait_ms_max": 5000,
        "stickiness_window_s": 60,
        "health_check_interval_s": 30,
        "latency_ms_max": 5000,
        "queue_depth_max": 10,
        "overhead_permille": 1100,
        "cluster_cost_threshold_nanousd": 10_000_000,
        "is_external_fallback_enabled": True,
        "server_port": 8080,
        "read_timeout_s": 30,
        "write_timeout_s": 120,
        "idle_timeout_s": 60,
    }
    own = cluster_named("aws-us-east-1")
    assert own.values == {
        "kind": "own",
        "provider": "aws",
        "region": "us-east-1",
        "endpoint": "https://aws.llm.example.com",
        "backend": "vllm",
        "auth_type": "hmac",
        "allow_private_network": False,
        "expands_addresses": False,
        "discovery": "empty",
        "billing": "committed",
        "cost_per_hour_nanousd": 92_800_000,
        "replica_count": 1,
        "tokens_per_s": 900,
        "in_flight_max": 64,
        "default_model": "",
        "rpm_max": None,
        "tpm_max": None,
        "burst_percent": 100,
        "state": "active",
        "tags": [],
        **NEVER_WOKEN,
    }
    assert [asdict(each) for each in own.deployments] == [
        {
            "model": "llama-3-8b",
            "values": {
                "upstream_name": "meta-llama/Llama-3-8B-Instruct",
                "context_window": 8192,
                "output_tokens_max": None,
                "capabilities": ["chat", "tools"],
                "is_enabled": True,
            },
        }
    ]
    assert [asdict(route) for route in catalogue.routes] == [
        {
            "model": "fast",
            "values": {
                "candidates": ["llama-3-8b", "gpt-4o-mini"],
                "fallbacks": ["gpt-4o"],
                "context_fallbacks": [],
                "content_filter_fallbacks": [],
                "policy": "",
                "weights": {},
                "queue_places_max": None,
                "queue_wait_ms_max": None,
                "while_waking": "spill",
                "is_enabled": True,
            },
        }
    ]
    rate = load_rates(now=NOW).rate_of(model="gpt-4o-mini", cluster_name="openai")
    assert (
        rate.input_microusd_per_mtok,
        rate.cache_read_microusd_per_mtok,
        rate.output_microusd_per_mtok,
        rate.source,
    ) == (150_000, 75_000, 600_000, "configuration file")
    assert opened_secrets("aws-us-east-1") == [("hmac", "configuration file")]
    assert opened_secrets("openai") == [("bearer", "configuration file")]
    assert [warning.partition("c.yaml:")[2] for warning in report.warnings] == [
        '38:12: routes[0].model: no cluster serves "gpt-4o" yet; it is left out until one does',
    ]


def test_report_lists_what_was_created_by_the_files_words(import_text):
    report = import_text(REFERENCE, ENVIRONMENT)

    assert report.changes == (
        "~ settings: port (none) -> 8080",
        (
            "+ cluster aws-us-east-1: kind own, endpoint https://aws.llm.example.com, provider aws, "
            "region us-east-1, costPerHour 0.0928, authType hmac, backend vllm, billing committed, "
            "tokensPerSecond 900, maxInFlight 64"
        ),
        "+ hmac secret of aws-us-east-1: stored",
        (
            "+ model llama-3-8b on aws-us-east-1: upstreamName meta-llama/Llama-3-8B-Instruct, "
            "contextWindow 8192, capabilities [chat, tools]"
        ),
        (
            "+ cluster openai: provider openai, endpoint https://api.openai.com, backend openai, "
            "authType bearer, billing metered, kind provider, defaultModel gpt-4o-mini, "
            "requestsPerMinute 3500, tokensPerMinute 90000, burstMultiplier 1.5, state active"
        ),
        "+ bearer secret of openai: stored",
        "+ model gpt-4o-mini on openai: contextWindow 128000",
        "+ price of gpt-4o-mini on openai: inputPerMTok 0.15, outputPerMTok 0.6, cachedInputPerMTok 0.075",
        "+ route fast: candidates [llama-3-8b, gpt-4o-mini], fallbacks [gpt-4o]",
        "+ experiment mini-vs-llama: arms",
        "~ experiment mini-vs-llama: running",
    )


@pytest.mark.parametrize(
    ("text", "environment"),
    [(REFERENCE, ENVIRONMENT), (ODDITIES, {"LAB_SECRET": CANARY_SECRET, "LAB_WAKE": CANARY_SECRET})],
)
def test_second_import_changes_nothing(import_text, text, environment):
    import_text(text, environment)
    before = (load_catalogue(), revisions(), list(ClusterSecret.objects.values_list("id", "is_active")))

    report = import_text(text, environment, now=LATER)

    after = (load_catalogue(), revisions(), list(ClusterSecret.objects.values_list("id", "is_active")))
    assert report.changes == ()
    assert after == before


def test_second_import_of_the_seed_example_changes_nothing():
    import_file(path=SEED_FILE, environment={}, now=NOW)
    before = (load_catalogue(), revisions())

    report = import_file(path=SEED_FILE, environment={}, now=LATER)

    assert report.changes == ()
    assert (load_catalogue(), revisions()) == before


def test_dry_run_shows_the_same_and_writes_nothing(import_text):
    empty = (load_catalogue(), revisions())

    dry = import_text(REFERENCE, ENVIRONMENT, is_dry_run=True)

    assert (load_catalogue(), revisions()) == empty
    assert not Cluster.objects.exists()
    assert not RouterSettings.objects.exists()
    assert dry == import_text(REFERENCE, ENVIRONMENT)


def test_change_is_shown_with_its_old_and_new_value(import_text):
    import_text(REFERENCE, ENVIRONMENT)
    changed = (
        REFERENCE.replace("costPerHour: 0.0928", "costPerHour: 0.095")
        .replace("outputPerMTok: 0.60", "outputPerMTok: 0.70")
        .replace("capabilities: [chat, tools]", "capabilities: [chat]")
        .replace("fallbacks: [gpt-4o]", "fallbacks: []")
    )

    report = import_text(changed, {**ENVIRONMENT, "AWS_SECRET": "another"}, now=LATER)

    assert report.changes == (
        "~ cluster aws-us-east-1: costPerHour 0.0928 -> 0.095",
        "~ hmac secret of aws-us-east-1: replaced",
        "~ model llama-3-8b on aws-us-east-1: capabilities [chat, tools] -> [chat]",
        "~ price of gpt-4o-mini on openai: outputPerMTok 0.6 -> 0.7, reasoningPerMTok 0.6 -> 0.7",
        "~ route fast: fallbacks [gpt-4o] -> []",
    )
    assert load_rates(now=LATER).rate_of(
        model="gpt-4o-mini", cluster_name="openai"
    ).output_microusd_per_mtok == (700_000)


def test_secrets_never_show(import_text, capsys, caplog):
    report = import_text(REFERENCE, ENVIRONMENT)
    again = import_text(REFERENCE, {**ENVIRONMENT, "AWS_SECRET": CANARY_SECRET + "2"})
    wrong = REFERENCE.replace("authType: hmac", "authType: none").replace("vllm  ", "${AWS_SECRET}")
    with pytest.raises(ConfigurationError) as caught:
        import_text(wrong, ENVIRONMENT)

    shown = "\n".join(
        [repr(report), repr(again), str(caught.value), repr(caught.value), caplog.text, *capsys.readouterr()]
    )
    assert CANARY_SECRET not in shown
    assert CANARY_KEY not in shown


def test_replaced_secret_is_retired_and_one_entered_by_hand_stays(import_text):
    import_text(REFERENCE, ENVIRONMENT)
    inventory.store_secret(
        cluster_id=cluster_named("aws-us-east-1").id, purpose="hmac", plaintext="by-hand", label="rotation"
    )

    import_text(REFERENCE, {**ENVIRONMENT, "AWS_SECRET": "second"})

    assert opened_secrets("aws-us-east-1") == [("hmac", "rotation"), ("hmac", "configuration file")]


def test_secret_entered_by_hand_is_not_stored_twice(import_text):
    put_cluster(name="aws-us-east-1", values={"endpoint": "https://aws.llm.example.com", "auth_type": "hmac"})
    inventory.store_secret(
        cluster_id=cluster_named("aws-us-east-1").id, purpose="hmac", plaintext=CANARY_SECRET, label="x"
    )

    import_text(REFERENCE, ENVIRONMENT)

    assert opened_secrets("aws-us-east-1") == [("hmac", "x")]


def test_missing_variable_keeps_a_stored_secret(import_text):
    import_text(REFERENCE, ENVIRONMENT)

    report = import_text(REFERENCE, {})

    assert report.changes == ()
    assert any("AWS_SECRET" in text and "the stored secret stays" in text for text in report.warnings)
    assert cluster_named("openai").values["state"] == "active"


def test_provider_without_its_key_is_enabled_when_the_key_comes(import_text):
    text = "externalProviders:\n  - {name: p, type: openai, enabled: true, apiKey: '${KEY}', models: [m]}\n"
    import_text(text)
    assert cluster_named("p").values["state"] == "disabled"

    report = import_text(text, {"KEY": CANARY_KEY})

    assert report.changes == ("~ cluster p: state disabled -> active", "+ bearer secret of p: stored")
    assert cluster_named("p").values["state"] == "active"


def test_what_the_file_does_not_mention_stays(import_text):
    import_text(REFERENCE, ENVIRONMENT)
    put_cluster(name="aws-us-east-1", values={"region": "changed-by-hand", "state": "draining"})
    put_cluster(name="other", values={"endpoint": "https://other.example.com"})

    import_text("clusters:\n  - {name: aws-us-east-1, endpoint: https://aws.llm.example.com}\n")

    values = cluster_named("aws-us-east-1").values
    assert (values["region"], values["state"], values["tokens_per_s"]) == ("changed-by-hand", "draining", 900)
    assert cluster_named("other").values["endpoint"] == "https://other.example.com"


def test_price_in_force_is_not_replaced_by_the_librarys(import_text):
    put_price(
        model="gpt-4o", input_microusd_per_mtok=1, output_microusd_per_mtok=2, effective_at=NOW, source="us"
    )

    report = import_text(
        "externalProviders:\n  - {name: p, type: openai, authType: none, models: [gpt-4o]}\n", now=LATER
    )

    assert [line for line in report.changes if "price" in line] == []


def test_unpriced_model_is_said(import_text, tmp_path):
    report = import_text(
        "externalProviders:\n  - {name: p, type: openai, authType: none, defaultModel: house-blend}\n"
    )

    assert report.warnings == (
        (
            f'{tmp_path}/c.yaml:2:59: externalProviders[0].defaultModel: the price of "house-blend" is '
            f"unknown, "
            "so its requests are not counted in USD; write inputPerMTok and outputPerMTok"
        ),
    )


def test_secret_files_are_read_beside_the_configuration(import_text, tmp_path):
    (tmp_path / "secret.txt").write_text(f"{CANARY_SECRET}\n")

    import_text(
        "clusters:\n  - {name: a, endpoint: https://a.example.com, authType: bearer,"
        " sharedSecretFile: secret.txt}\n"
    )
    again = import_text(
        "clusters:\n  - {name: a, endpoint: https://a.example.com, authType: bearer,"
        f" sharedSecret: {CANARY_SECRET}}}\n"
    )

    assert again.changes == ()
    assert opened_secrets("a") == [("bearer", "configuration file")]


def test_metrics_interval_of_its_own_is_said_not_to_be_in_force(import_text, tmp_path):
    report = import_text("router: {healthCheckInterval: 30s, metricsUpdateInterval: 10s}\n")

    assert report.warnings == (
        (
            f"{tmp_path}/c.yaml:1:59: router.metricsUpdateInterval: not in force: metrics are read with each "
            "health check; healthCheckInterval says how often"
        ),
    )


def test_base_url_is_another_word_for_endpoint(import_text):
    import_text(
        "externalProviders:\n"
        "  - {name: p, type: openai, authType: none, baseURL: https://eu.example.com/v1}\n"
    )

    assert cluster_named("p").values["endpoint"] == "https://eu.example.com"


def test_missing_file_is_refused(tmp_path):
    with pytest.raises(ConfigurationError) as caught:
        import_file(path=tmp_path / "none.yaml", environment={}, now=NOW)

    assert caught.value.lines == (
        f"{tmp_path}/none.yaml:1:1: cannot read it (No such file or directory); name a configuration file",
    )


def write_identity(folder):
    """A self-signed certificate and its key, as cert.pem and key.pem."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "gateway")])
    builder = x509.CertificateBuilder(name, name, key.public_key(), 1, NOW, NOW + timedelta(days=1))
    certificate = builder.sign(key, hashes.SHA256())
    (folder / "cert.pem").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    (folder / "key.pem").write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )


MTLS = (
    "clusters:\n"
    "  - name: a\n"
    "    endpoint: https://a.example.com\n"
    "    authType: mtls\n"
    "    certFile: cert.pem\n"
    "    keyFile: ${KEY_FILE}\n"
    "    caFile: cert.pem\n"
)


def test_certificates_are_read_from_their_files(import_text, tmp_path):
    write_identity(tmp_path)

    import_text(MTLS, {"KEY_FILE": "key.pem"})
    again = import_text(MTLS, {"KEY_FILE": "key.pem"})

    assert cluster_named("a").secret_purposes == frozenset({"client_certificate", "client_key", "ca"})
    assert again.changes == ()


def test_file_that_holds_no_certificate_is_refused_and_not_shown(refusals, tmp_path):
    write_identity(tmp_path)
    (tmp_path / "cert.pem").write_text(CANARY_SECRET)

    lines = refusals(MTLS, {"KEY_FILE": "key.pem"})

    assert [line.partition(": c")[0] for line in lines] == ["5:15", "7:13"]
    assert CANARY_SECRET not in "\n".join(lines)


TRIAL = """
routes:
  - model: fast
    candidates: [a, b]
    experiment: {name: trial, arms: [{model: a, weight: 3}, {model: b, weight: 1}]%s}
"""


def test_experiment_that_was_stopped_is_not_started_by_the_file(import_text):
    import_text(TRIAL % "", {})
    stop_experiment(name="trial", reason="mini failed", now=NOW)

    report = import_text(TRIAL % "", {})

    assert report.changes == ()
    assert get_experiment(name="trial").state == "stopped"


def test_file_starts_and_stops_an_experiment_by_its_state(import_text):
    import_text(TRIAL % ", state: draft", {})
    assert get_experiment(name="trial").state == "draft"

    started = import_text(TRIAL % ", state: running", {})
    stopped = import_text(TRIAL % ", state: stopped", {})

    assert started.changes == ("~ experiment trial: running",)
    assert stopped.changes == ("~ experiment trial: stopped",)
    assert get_experiment(name="trial").stopped_reason == "stopped by the configuration file"


@pytest.mark.parametrize(
    "settings",
    [
        "",
        ", state: draft",
        ", ramp: 7200s",
        ", ramp: [{after: 0s, percent: 5}, {after: 3600s, percent: 100}]",
        ", guards: {errorIncreasePoints: 2.5, latencyIncreasePercent: 0, minSamples: 500}",
    ],
)
def test_experiment_comes_out_as_it_went_in(import_text, settings):
    text = TRIAL % settings
    import_text(text, {})

    exported = export_text(now=NOW)

    assert exported.partition("routes:")[2].strip() == text.partition("routes:")[2].strip()
    assert import_text(exported, {}).changes == ()


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (", ramp: [{after: 1h, percent: 50}, {after: 2h, percent: 5}]", "never fall: nobody goes back"),
        (", ramp: 2400h", "a ramp lasts at most 90 days"),
        (", guards: {minSamples: 3}", "write a whole number from 30"),
        (", state: paused", "write draft, running or stopped"),
        (", arm: 1", 'found the unknown key "arm"'),
    ],
)
def test_experiment_that_makes_no_sense_refuses_the_file(import_text, settings, said):
    with pytest.raises(ConfigurationError) as caught:
        import_text(TRIAL % settings, {})

    assert said in str(caught.value)


SEVERAL_KEYS = """
externalProviders:
  - name: p
    type: groq
    apiKeys:
      - {name: first, apiKey: '${FIRST}', requestsPerMinute: 30, tokensPerMinute: 6000}
      - {name: second, apiKey: '${SECOND}'}
    models: [m]
"""


def test_several_keys_come_with_names_and_limits(import_text):
    report = import_text(SEVERAL_KEYS, {"FIRST": CANARY_KEY, "SECOND": "another"})

    cluster = cluster_named("p")
    assert (cluster.values["endpoint"], cluster.values["backend"]) == (
        "https://api.groq.com/openai",
        "openai",
    )
    assert cluster.secrets == (
        KeyEntry(purpose="bearer", label="first", rpm_max=30, tpm_max=6000),
        KeyEntry(purpose="bearer", label="second", rpm_max=None, tpm_max=None),
    )
    assert "+ bearer secret of p: stored" in report.changes


def test_several_keys_imported_again_change_nothing_but_what_changed(import_text):
    environment = {"FIRST": CANARY_KEY, "SECOND": "another"}
    import_text(SEVERAL_KEYS, environment)

    assert import_text(SEVERAL_KEYS, environment).changes == ()
    import_text(SEVERAL_KEYS.replace("30", "60"), {**environment, "SECOND": "third"})

    assert cluster_named("p").secrets == (
        KeyEntry(purpose="bearer", label="first", rpm_max=60, tpm_max=6000),
        KeyEntry(purpose="bearer", label="second", rpm_max=None, tpm_max=None),
    )


def test_key_whose_variable_is_not_set_is_left_out_beside_others(import_text):
    report = import_text(SEVERAL_KEYS, {"FIRST": CANARY_KEY})

    assert [key.label for key in cluster_named("p").secrets] == ["first"]
    assert cluster_named("p").values["state"] == "active"
    assert any("SECOND is not set" in text and "left out" in text for text in report.warnings)


def test_provider_all_of_whose_keys_are_missing_is_kept_disabled(import_text):
    import_text(SEVERAL_KEYS, {})

    assert cluster_named("p").values["state"] == "disabled"


def test_bedrock_takes_its_endpoint_from_its_region(import_text):
    key = f"{'A' * 20}:{'s' * 40}"
    import_text(
        "externalProviders:\n"
        "  - {name: b, type: bedrock, region: eu-west-1, apiKey: '${AWS}', models: [anthropic.claude]}\n",
        {"AWS": key},
    )

    cluster = cluster_named("b")
    assert (cluster.values["endpoint"], cluster.values["auth_type"], opened_secrets("b")) == (
        "https://bedrock-runtime.eu-west-1.amazonaws.com",
        "sigv4",
        [("sigv4", "configuration file")],
    )
