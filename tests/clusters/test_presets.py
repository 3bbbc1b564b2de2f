"""The providers known by name are such that a cluster can be made of each."""

import pytest

from billing.price_library import list_prices
from clusters import inventory
from clusters.models import Cluster
from clusters.presets import PRESETS, preset_of
from tests.clusters.rows import NOW

pytestmark = pytest.mark.django_db


@pytest.mark.parametrize("preset", PRESETS.values(), ids=PRESETS)
def test_preset_makes_a_cluster_and_its_prices_are_known(preset):
    endpoint = preset.endpoint_in("eu-west-1") or "https://mine.openai.azure.com"
    cluster = Cluster(
        name=preset.name,
        kind="provider",
        provider=preset.name,
        endpoint=endpoint,
        backend=preset.backend,
        auth_type=preset.auth_type,
        billing="metered",
    )

    inventory.save_record(record=cluster)

    assert len(list_prices(provider=preset.name, now=NOW)) > 0
    assert preset_of(provider=preset.name, backend=preset.backend) is preset


@pytest.mark.parametrize(
    ("provider", "backend", "name"),
    [
        ("mine", "claude", "claude"),
        ("mine", "openai", None),
        ("groq", "bedrock", "bedrock"),
        ("", "vllm", None),
    ],
)
def test_preset_is_told_by_what_is_spoken_where_the_name_is_another(provider, backend, name):
    preset = preset_of(provider=provider, backend=backend)

    assert (preset and preset.name) == name


def test_aws_signatures_are_for_bedrock_alone():
    cluster = Cluster(
        name="a", kind="provider", endpoint="https://a.example", auth_type="sigv4", billing="metered"
    )

    with pytest.raises(inventory.InventoryError) as refusal:
        inventory.save_record(record=cluster)

    assert refusal.value.field == "auth_type"
