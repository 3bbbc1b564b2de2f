import pytest
from django.core.management import CommandError, call_command

from clusters import inventory
from clusters.snapshots import load_inventory
from clusters.vault import newest_key_id
from tests.clusters.rows import CANARY, NOW, add_cluster

pytestmark = pytest.mark.django_db


@pytest.fixture
def sealed(settings):
    settings.ENCRYPTION_KEYS = ["old"]
    cluster = add_cluster(auth_type="bearer")
    inventory.store_secret(cluster_id=cluster.id, purpose="bearer", plaintext=CANARY)


def test_older_key_may_go_after_rotation(sealed, settings, capsys):
    settings.ENCRYPTION_KEYS = ["new", "old"]

    call_command("rotate_secrets")

    settings.ENCRYPTION_KEYS = ["new"]
    assert load_inventory(now=NOW).clusters[0].secret_problem == ""
    out = capsys.readouterr().out
    assert out == f"1 secrets are sealed under key {newest_key_id()}; older keys may go now.\n"


def test_rotation_without_the_old_key_changes_nothing(sealed, settings):
    settings.ENCRYPTION_KEYS = ["new"]

    with pytest.raises(CommandError, match=r"nothing was changed: encryption key .* is missing"):
        call_command("rotate_secrets")

    settings.ENCRYPTION_KEYS = ["old"]
    assert load_inventory(now=NOW).clusters[0].secret_problem == ""
