import re
import stat
from datetime import UTC, datetime

import pytest
from django.core.management import CommandError, call_command

from clusters import inventory
from clusters.demo.standin import StandinSettings
from clusters.models import ClusterSecret
from clusters.report import report_clusters
from clusters.snapshots import load_inventory
from clusters.vault import newest_key_id
from clusters.verifying.signatures import FileVerifier, clock_s
from tests.clusters.rows import CANARY, NOW, add_cluster
from tests.fakes.standin_server import run_standin

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


@pytest.fixture
def site(tmp_path):
    """A stand-in whose verifier goes by a file of secrets, as the cluster's operators have it."""
    path = tmp_path / "secrets"
    path.write_text("first\n")
    verifier = FileVerifier(path=path)

    def verify(method, path_and_query, headers, body):
        asked, _, query = path_and_query.partition("?")
        lower = {name.lower(): value for name, value in headers.items()}
        head = {"method": method, "authority": lower["host"], "path": asked, "query": query}
        return verifier.verify(**head, headers=lower, body=body, now_s=clock_s())

    with run_standin(StandinSettings(verify=verify)) as standin:
        cluster = add_cluster(endpoint=standin.url, auth_type="hmac")
        inventory.store_secret(cluster_id=cluster.id, purpose="hmac", plaintext="first", label="first")
        yield path


def rotate(*options):
    call_command("rotate_secrets", "--cluster", "metal", *options)


def signing_key_id():
    """Of the secret that gateways sign with."""
    (view,) = load_inventory(now=NOW).clusters
    sent = {"method": "GET", "authority": "a", "path": "/", "query": "", "body": b"", "now_s": 1}
    return (
        dict(view.signer.headers(**sent, nonce="nonce-0001"))["signature-input"]
        .split('keyid="')[1]
        .split('"')[0]
    )


def is_healthy():
    (report,) = report_clusters(now=datetime.now(UTC), is_probing=True)  # noqa: TID251 -- the verifier's clock
    return report.is_healthy


def test_hmac_secret_is_exchanged_without_a_refused_request(site, capsys):
    rotate("--generate", "--label", "second")
    new = re.search(r"^    (\S{43})$", capsys.readouterr().out, re.MULTILINE)[1]
    staged = (signing_key_id(), is_healthy())
    with pytest.raises(CommandError, match=r"nothing was changed: .*credential refused"):
        rotate("--activate")
    early = (signing_key_id(), is_healthy())
    site.write_text(f"{new}\nfirst\n")
    rotate("--activate")
    overlapping = (signing_key_id(), is_healthy())
    site.write_text("first\n")
    with pytest.raises(CommandError, match=r"nothing was changed: .*credential refused"):
        rotate("--retire")
    site.write_text(f"{new}\n")
    rotate("--retire")
    retired = (signing_key_id(), is_healthy())

    assert (staged, early) == (("first", True), ("first", True))
    assert (overlapping, retired) == (("second", True), ("second", True))
    rows = ClusterSecret.objects.order_by("label").values_list("label", "is_active", "is_staged")
    assert list(rows) == [("first", False, False), ("second", True, False)]
    assert bytes(ClusterSecret.objects.get(label="first").ciphertext) == b""


def test_generated_secret_goes_to_a_file_that_others_cannot_read(site, tmp_path, capsys):
    path = tmp_path / "new"

    rotate("--generate", "--to", str(path))

    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert path.read_text().strip() not in capsys.readouterr().out
    with pytest.raises(CommandError, match="is there already"):
        rotate("--generate", "--to", str(path))
    assert ClusterSecret.objects.filter(is_active=True).count() == 2


def test_secret_that_cannot_be_written_is_not_signed_with(site, tmp_path):
    with pytest.raises(CommandError, match=r"cannot be written \(No such file or directory\)"):
        rotate("--generate", "--label", "lost", "--to", str(tmp_path / "nowhere" / "new"))

    assert (signing_key_id(), is_healthy()) == ("first", True)


def test_generating_again_ends_what_waited(site):
    rotate("--generate", "--label", "a")
    rotate("--generate", "--label", "b")

    waiting = ClusterSecret.objects.filter(is_staged=True).values_list("label", flat=True)
    assert list(waiting) == ["b"]


def test_cluster_that_is_down_is_activated_by_force(capsys):
    cluster = add_cluster(auth_type="hmac")
    inventory.store_secret(cluster_id=cluster.id, purpose="hmac", plaintext="first", label="first")
    rotate("--generate", "--label", "second")

    with pytest.raises(CommandError, match="connection refused"):
        rotate("--activate")
    rotate("--activate", "--force")
    with pytest.raises(CommandError, match="connection refused"):
        rotate("--retire")
    before = ClusterSecret.objects.filter(is_active=True).count()
    rotate("--retire", "--force")

    assert (before, signing_key_id()) == (2, "second")
    assert ClusterSecret.objects.filter(is_active=True).count() == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--cluster", "gone", "--generate"], "there is no cluster 'gone'"),
        (["--cluster", "token", "--generate"], "'token' asks for bearer, not for HMAC signatures"),
        (["--cluster", "signed", "--activate"], "no new secret of signed waits: begin with --generate"),
        (["--cluster", "signed"], "--cluster goes with one of"),
        (["--generate"], "--cluster goes with one of"),
    ],
)
def test_rotation_says_what_is_wrong(options, message):
    add_cluster(name="token", auth_type="bearer")
    add_cluster(name="signed", auth_type="hmac")

    with pytest.raises(CommandError, match=message):
        call_command("rotate_secrets", *options)


def test_new_encryption_key_is_shown_and_nothing_stored(sealed, capsys):
    shown = []
    for _ in range(2):
        call_command("rotate_secrets", "--new-key")
        shown.append(capsys.readouterr().out.split("\n")[0])

    assert [len(key) for key in shown] == [43, 43]
    assert shown[0] != shown[1]
    assert load_inventory(now=NOW).clusters[0].secret_problem == ""
