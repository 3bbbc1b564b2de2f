"""The shipped nginx configuration before the real llama.cpp: mutual TLS, then signatures."""

import json
import secrets
import shutil
import time
from datetime import UTC, datetime

import httpx
import pytest

from clusters.inventory import store_secret
from clusters.monitor import probe_clusters
from clusters.signing import Rfc9421Signer, TlsIdentity, ssl_context
from tests.clusters.rows import add_cluster
from tests.fakes.verified_site import run_site

pytestmark = pytest.mark.skipif(shutil.which("nginx") is None, reason="nginx is not installed (apt: nginx)")
CHAT = "/v1/chat/completions"
BODY = {"model": "tiny-bigram", "messages": [{"role": "user", "content": "the gateway"}], "max_tokens": 5}


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    with run_site(tmp_path_factory.mktemp("site"), secret="s3cret") as site:
        yield site


class Caller:
    """Signs as the gateway does and shows a certificate as the gateway does."""

    def __init__(self, site, *, name="client", secret="s3cret"):
        client_pem = (site.pems[f"{name}.pem"] + site.pems[f"{name}.key"]).encode() if name else None
        tls = TlsIdentity(client_pem=client_pem, ca_pem=site.pems["ca.pem"].encode())
        self.client = httpx.Client(base_url=site.url, verify=ssl_context(tls=tls), timeout=10)
        self.signer = Rfc9421Signer(secrets=(("k1", secret),))

    def signed(self, path, *, body=b"", method="POST", nonce=None):
        url = self.client.base_url.join(path)
        headers = self.signer.headers(
            method=method,
            authority=url.netloc.decode(),
            path=url.raw_path.decode().partition("?")[0],
            query=url.query.decode(),
            body=body,
            now_s=int(time.time()),  # noqa: TID251 -- the service reads the clock
            nonce=nonce or secrets.token_hex(8),
        )
        return self.client.build_request(method, url, content=body, headers=dict(headers))

    def ask(self, path, document=None, **values):
        body = b"" if document is None else json.dumps(document).encode()
        method = "GET" if document is None else "POST"
        return self.client.send(self.signed(path, body=body, method=method, **values))


@pytest.fixture
def caller(site):
    caller = Caller(site)
    with caller.client:
        yield caller


def test_signed_requests_reach_llama_plain_streaming_and_embedding(caller):
    plain = caller.ask(CHAT, BODY)
    streamed = caller.ask(CHAT, {**BODY, "stream": True})
    embedded = caller.ask("/v1/embeddings", {"model": "tiny-bigram", "input": "the gateway"})
    listed = caller.ask("/v1/models?limit=5&q=a%20b")

    assert [one.status_code for one in (plain, streamed, embedded, listed)] == [200] * 4
    assert plain.json()["usage"]["completion_tokens"] <= 5
    assert streamed.text.rstrip().endswith("data: [DONE]")
    assert len(embedded.json()["data"][0]["embedding"]) == 576


def test_unsigned_altered_and_repeated_requests_do_not_reach_llama(site, caller):
    unsigned = caller.client.build_request("POST", CHAT, json=BODY)
    good = caller.signed(CHAT, body=json.dumps(BODY).encode())
    elsewhere = caller.client.build_request(
        "POST", "/v1/completions", content=good.content, headers=good.headers
    )
    statuses = [caller.client.send(one).status_code for one in (unsigned, elsewhere, good, good)]
    # Who names the request himself is not believed: nginx sets these two.
    forged = caller.client.build_request(
        "POST",
        "/v1/completions",
        headers={**caller.signed(CHAT).headers, "x-original-uri": CHAT, "x-original-method": "POST"},
    )
    statuses.append(caller.client.send(forged).status_code)
    internal = caller.ask("/_verify")

    assert statuses == [401, 401, 200, 401, 401]
    assert internal.status_code == 404


def test_secrets_rotate_without_a_restart(site, caller):
    following = Caller(site, secret="next")
    with following.client:
        before = [one.ask("/v1/models").status_code for one in (caller, following)]
        site.secrets_path.write_text("next\ns3cret\n")
        during = [one.ask("/v1/models").status_code for one in (caller, following)]
        site.secrets_path.write_text("next\n")
        after = [one.ask("/v1/models").status_code for one in (caller, following)]
        site.secrets_path.write_text("s3cret\n")

    assert (before, during, after) == ([200, 401], [200, 200], [401, 200])


@pytest.mark.parametrize("name", ["", "stranger"])
def test_certificates_of_others_are_refused_before_the_signature(site, name):
    caller = Caller(site, name=name)

    with caller.client:
        assert caller.ask("/v1/models").status_code == 400


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize(
    ("auth_type", "reason"),
    [("hmac", ""), ("mtls", "credential refused (HTTP 401 from /health): store the right secret")],
)
def test_prober_shows_its_certificate_and_signs(site, auth_type, reason):
    """The site asks for both: with the certificate alone nothing is let through."""
    cluster = add_cluster(endpoint=site.url, backend="llamacpp", auth_type=auth_type)
    for purpose, text in {
        "hmac": "s3cret",
        "client_certificate": site.pems["client.pem"],
        "client_key": site.pems["client.key"],
        "ca": site.pems["ca.pem"],
    }.items():
        store_secret(cluster_id=cluster.pk, purpose=purpose, plaintext=text)

    now = datetime.now(UTC)  # noqa: TID251 -- the service reads the clock
    [result] = probe_clusters(cluster_ids=[cluster.pk], now=now)

    assert result.observation.reason == reason
    assert result.observation.models == (None if reason else ("tiny-bigram",))
