"""The shipped nginx configuration before the real llama.cpp: mutual TLS, then signatures."""

import json
import re
import shutil
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import httpx
import pytest

from clusters.inventory import store_secret
from clusters.monitor import probe_clusters
from clusters.signing import Rfc9421Signer, TlsIdentity, ssl_context
from tests.clusters.rows import add_cluster
from tests.fakes.llama_server import llama_starter

pytestmark = pytest.mark.skipif(shutil.which("nginx") is None, reason="nginx is not installed (apt: nginx)")
ROOT = Path(__file__).resolve().parents[3]
CHAT = "/v1/chat/completions"
BODY = {"model": "tiny-bigram", "messages": [{"role": "user", "content": "the gateway"}], "max_tokens": 5}


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """An own cluster as its operators build it: nginx, the verifying service, llama.cpp."""

    url: str
    secrets_path: Path
    pems: dict[str, str]


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    pems = make_certificates(folder)
    secrets_path = folder / "secrets"
    secrets_path.write_text("s3cret\n")
    with llama_starter(folder) as start, run_service(secrets_path) as verifier, free_port() as port:
        engine = start().url.removeprefix("http://")
        with run_nginx(folder, port=port, engine=engine, verifier=verifier):
            yield Site(url=f"https://localhost:{port}", secrets_path=secrets_path, pems=pems)


def make_certificates(folder):
    """With openssl, as an operator would: an authority, the server's certificate, ours, and a stranger's."""

    def openssl(*arguments):
        subprocess.run(["openssl", *arguments], cwd=folder, check=True, capture_output=True)

    def authority(name):
        openssl(
            *("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"),
            *("-keyout", f"{name}.key", "-out", f"{name}.pem", "-days", "30", "-subj", f"/CN={name}"),
        )

    def certificate(name, *, by):
        (folder / "ext").write_text("subjectAltName=DNS:localhost,IP:127.0.0.1\n")
        openssl(
            *("req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"),
            *("-keyout", f"{name}.key", "-out", f"{name}.csr", "-subj", f"/CN={name}"),
        )
        openssl(
            *("x509", "-req", "-in", f"{name}.csr", "-CA", f"{by}.pem", "-CAkey", f"{by}.key"),
            *("-CAcreateserial", "-days", "7", "-out", f"{name}.pem", "-extfile", "ext"),
        )

    authority("ca")
    authority("elsewhere")
    certificate("server", by="ca")
    certificate("client", by="ca")
    certificate("stranger", by="elsewhere")
    return {path.name: path.read_text() for path in folder.iterdir() if path.suffix in {".pem", ".key"}}


@contextmanager
def free_port():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    yield port


@contextmanager
def run_service(secrets_path):
    """`python -m clusters.verifying`, on a free port that it tells in its log."""
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "clusters.verifying", "--front", "nginx"),
            *("--secrets", str(secrets_path), "--listen", "127.0.0.1:0"),
        ],
        cwd=ROOT,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    try:
        line = process.stderr.readline()
        found = re.search(r"address=(127\.0\.0\.1:\d+)", line)
        assert found is not None, line
        yield found[1]
    finally:
        process.terminate()
        process.wait()
        process.stderr.close()


@contextmanager
def run_nginx(folder, *, port, engine, verifier):
    """With the shipped configuration; ports and paths are this test's."""
    server = (ROOT / "deploy/verifier/nginx.conf").read_text()
    for shipped, here in (
        ("listen 8443 ssl", f"listen 127.0.0.1:{port} ssl"),
        ("server 127.0.0.1:8080", f"server {engine}"),
        ("server 127.0.0.1:9180", f"server {verifier}"),
        ("/etc/tollgate/client-ca.pem", str(folder / "ca.pem")),
        ("/etc/tollgate", str(folder)),
    ):
        assert shipped in server
        server = server.replace(shipped, here)
    temporary = "\n".join(
        f"{name}_temp_path {folder}/{name};" for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    configuration = folder / "nginx.conf"
    configuration.write_text(
        f"daemon off; master_process off; pid {folder}/nginx.pid; error_log {folder}/error.log;\n"
        f"events {{}}\nhttp {{ access_log off;\n{temporary}\n{server}}}\n"
    )
    process = subprocess.Popen(
        ["nginx", "-c", str(configuration), "-e", str(folder / "error.log")], stderr=subprocess.DEVNULL
    )
    try:
        deadline_s = time.monotonic() + 10
        while not is_listening(port):
            assert process.poll() is None, (folder / "error.log").read_text()
            assert time.monotonic() < deadline_s
        yield
    finally:
        process.terminate()
        process.wait()


def is_listening(port):
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


class Caller:
    """Signs as the gateway does and shows a certificate as the gateway does."""

    def __init__(self, site, *, name="client", secret="s3cret"):
        client_pem = (site.pems[f"{name}.pem"] + site.pems[f"{name}.key"]).encode() if name else None
        tls = TlsIdentity(client_pem=client_pem, ca_pem=site.pems["ca.pem"].encode())
        self.client = httpx.Client(base_url=site.url, verify=ssl_context(tls=tls), timeout=10)
        self.signer = Rfc9421Signer(secrets=(("k1", secret),))
        self.count = 0

    def signed(self, path, *, body=b"", method="POST", nonce=None):
        self.count += 1
        url = self.client.base_url.join(path)
        headers = self.signer.headers(
            method=method,
            authority=url.netloc.decode(),
            path=url.raw_path.decode().partition("?")[0],
            query=url.query.decode(),
            body=body,
            now_s=int(time.time()),  # noqa: TID251 -- the service reads the clock
            nonce=nonce or f"{id(self)}-{self.count:08}",
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
