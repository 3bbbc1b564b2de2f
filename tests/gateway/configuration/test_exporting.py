from datetime import UTC, datetime

import pytest

from billing.models import Price
from clusters.catalogue import load_catalogue
from clusters.models import Cluster, Route, RouterSettings
from gateway.configuration.exporting import export_text
from tests.gateway.configuration.conftest import NOW
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
KEYS = {"OPENAI_API_KEY": CANARY_KEY, "ANTHROPIC_API_KEY": "a-key", "GEMINI_API_KEY": "g-key"}


def empty_the_database():
    for model in (Cluster, Route, RouterSettings, Price):
        model.objects.all().delete()


class AnyVariable(dict):
    """An environment in which every variable is set."""

    def get(self, key, default=None):
        return f"value-of-{key}"


def test_export_of_an_empty_inventory_is_its_settings(import_text):
    text = export_text(now=NOW)

    assert text == (
        "# Tollgate's configuration: `manage.py import_config FILE` reads it.\n"
        "# Secrets are not in it: set the variables named ${...} before it is imported elsewhere.\n"
        "\n"
        "server:\n"
        "  readTimeout: 30s\n"
        "  writeTimeout: 120s\n"
        "  idleTimeout: 60s\n"
        "\n"
        "router:\n"
        "  stickinessWindow: 60s\n"
        "  healthCheckInterval: 30s\n"
        "  maxLatencyMs: 5000\n"
        "  maxQueueDepth: 10\n"
        "  overheadFactor: 1.1\n"
        "  routingStrategy: marginal\n"
        "  ttftObjectiveMs: 1500\n"
        "  ttftObjectiveUsPerPromptToken: 500\n"
        "  tpotObjectiveMs: 100\n"
        "  missInputPerMTok: 2.5\n"
        "  missOutputPerMTok: 10\n"
        "  maxWaiting: 100\n"
        "  maxWaitMs: 5000\n"
        "  clusterCostThreshold: 0.01\n"
        "  enableExternalFallback: true\n"
    )
    assert import_text(text, {}).changes == ()


def test_export_writes_the_reference_with_placeholders(import_text):
    import_text(REFERENCE, ENVIRONMENT)

    text = export_text(now=LATER)

    assert text.partition("clusters:\n")[2] == (
        "  - name: aws-us-east-1\n"
        "    endpoint: https://aws.llm.example.com\n"
        "    provider: aws\n"
        "    region: us-east-1\n"
        "    costPerHour: 0.0928\n"
        "    authType: hmac\n"
        "    backend: vllm\n"
        "    billing: committed\n"
        "    tokensPerSecond: 900\n"
        "    maxInFlight: 64\n"
        "    sharedSecret: ${AWS_US_EAST_1_SECRET}  # the stored value is not exported\n"
        "    models:\n"
        "      - {name: llama-3-8b, upstreamName: meta-llama/Llama-3-8B-Instruct, contextWindow: 8192, "
        "capabilities: [chat, tools]}\n"
        "\n"
        "externalProviders:\n"
        "  - name: openai\n"
        "    type: openai\n"
        "    enabled: true\n"
        "    endpoint: https://api.openai.com\n"
        "    maxInFlight: 64\n"
        "    defaultModel: gpt-4o-mini\n"
        "    apiKey: ${OPENAI_API_KEY}  # the stored value is not exported\n"
        "    rateLimit: {requestsPerMinute: 3500, tokensPerMinute: 90000, burstMultiplier: 1.5}\n"
        "    models:\n"
        "      - {name: gpt-4o-mini, inputPerMTok: 0.15, outputPerMTok: 0.6, cachedInputPerMTok: 0.075, "
        "contextWindow: 128000}\n"
        "\n"
        "routes:\n"
        "  - model: fast\n"
        "    candidates: [llama-3-8b, gpt-4o-mini]\n"
        "    fallbacks: [gpt-4o]\n"
        "    experiment: {name: mini-vs-llama, arms: [{model: llama-3-8b, weight: 90}, "
        "{model: gpt-4o-mini, weight: 10}]}\n"
    )
    assert CANARY_SECRET not in text
    assert CANARY_KEY not in text


@pytest.mark.parametrize(
    ("text", "environment"),
    [
        pytest.param(REFERENCE, ENVIRONMENT, id="reference"),
        pytest.param(ODDITIES, {"LAB_SECRET": CANARY_SECRET, "LAB_WAKE": CANARY_SECRET}, id="oddities"),
        pytest.param(SEED_FILE.read_text(), KEYS, id="seed"),
        pytest.param(SEED_FILE.read_text(), {}, id="seed-without-keys"),
    ],
)
def test_export_imports_back_here_and_elsewhere(import_text, text, environment):
    import_text(text, environment)
    exported = export_text(now=LATER)
    catalogue = load_catalogue()

    here = import_text(exported, {}, now=LATER)

    assert here.changes == ()
    assert load_catalogue() == catalogue

    empty_the_database()
    import_text(exported, AnyVariable(), now=LATER)

    assert export_text(now=LATER) == exported


def test_placeholders_of_like_names_differ(import_text):
    import_text(
        "clusters:\n"
        "  - {name: a-b, endpoint: https://a.example.com, authType: hmac, sharedSecret: one}\n"
        "  - {name: a_b, endpoint: https://b.example.com, authType: hmac, sharedSecret: two}\n"
        "  - {name: 9, endpoint: https://c.example.com, authType: hmac, sharedSecret: three}\n",
        {},
    )

    lines = [line.split()[1] for line in export_text(now=NOW).splitlines() if "sharedSecret" in line]

    assert lines == ["${CLUSTER_9_SECRET}", "${A_B_SECRET}", "${A_B_2_SECRET}"]


def test_several_keys_come_out_as_they_went_in(import_text):
    keys = "[{name: a, apiKey: '${A}', requestsPerMinute: 30}, {name: b, apiKey: '${B}', tokensPerMinute: 9}]"
    import_text(
        f"externalProviders:\n  - {{name: p, type: mistral, apiKeys: {keys}, models: [m]}}\n",
        {"A": "key-a", "B": "key-b"},
    )
    before = load_catalogue().clusters

    text = export_text(now=NOW)
    empty_the_database()
    import_text(text, {"P_API_KEY": "key-a", "P_2_API_KEY": "key-b"})

    assert "type: mistral" in text
    assert [cluster.secrets for cluster in load_catalogue().clusters] == [
        cluster.secrets for cluster in before
    ]
