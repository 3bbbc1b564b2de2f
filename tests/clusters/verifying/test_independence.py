"""Our signatures against those of others, and the verifier without the rest of this repository."""

import base64
import hmac
import json
import shutil
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import urlsplit

import http_message_signatures
import pytest

from clusters.signing import Rfc9421Signer
from clusters.verifying.signatures import Verifier

ROOT = Path(__file__).resolve().parents[3]
NOW_S = 1_900_000_000
# Requests and the signature bases that http-message-signatures 3.0.0 (PyPI) builds of them.
VECTORS = json.loads(Path(__file__).with_name("vectors.json").read_text())


def signed_vector(vector, *, number, now_s=NOW_S):
    parts = urlsplit(vector["url"])
    request = {
        "method": vector["method"],
        "authority": parts.netloc,
        "path": parts.path,
        "query": parts.query,
        "body": vector["body"].encode("latin-1"),
    }
    signer = Rfc9421Signer(secrets=(("k1", "s3cret"),))
    headers = dict(signer.headers(**request, now_s=now_s, nonce=f"nonce-{number:08}"))
    return {**request, "headers": headers}


@pytest.mark.parametrize("number", range(len(VECTORS)))
def test_signature_is_over_the_base_that_another_implementation_builds(number):
    request = signed_vector(VECTORS[number], number=number)

    mac = hmac.digest(b"s3cret", "\n".join(VECTORS[number]["base"]).encode(), "sha256")
    assert request["headers"]["signature"] == f"sig1=:{base64.b64encode(mac).decode()}:"
    assert Verifier(secrets=["s3cret"]).verify(**request, now_s=NOW_S) is None


@pytest.mark.parametrize("number", range(len(VECTORS)))
def test_signature_is_verified_by_another_implementation(number):
    vector = VECTORS[number]
    now_s = int(time.time())  # noqa: TID251 -- their verifier reads the clock
    request = signed_vector(vector, number=number, now_s=now_s)
    verifier = http_message_signatures.HTTPMessageVerifier(
        signature_algorithm=http_message_signatures.algorithms.HMAC_SHA256,
        key_resolver=http_message_signatures.MappingKeyResolver(
            public_keys={"k1": b"s3cret"}, private_keys={}
        ),
    )
    covered = ("@method", "@authority", "@path", "@query", "content-digest")

    def verified(**changes):
        message = SimpleNamespace(**{**vector, "headers": request["headers"], **changes})
        return verifier.verify(message, require_components=covered, body=request["body"])

    verified()
    with pytest.raises(http_message_signatures.InvalidSignature):
        verified(method="DELETE")


def test_package_runs_on_bare_python(tmp_path):
    """Copied as the README says, without site-packages."""
    (tmp_path / "clusters").mkdir()
    shutil.copy(ROOT / "clusters/__init__.py", tmp_path / "clusters")
    shutil.copytree(ROOT / "clusters/verifying", tmp_path / "clusters/verifying")

    done = subprocess.run(
        [sys.executable, "-S", "-m", "clusters.verifying", "--help"],
        cwd=tmp_path,
        env={},
        capture_output=True,
        text=True,
        check=True,
    )

    assert "--front {nginx,envoy}" in done.stdout
