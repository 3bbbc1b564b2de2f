"""An own cluster as its operators build it: nginx with mutual TLS, the verifying service, llama.cpp."""

import re
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.fakes.llama_server import llama_starter
from tests.fakes.ports import free_port

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """Where it is, the file of its secrets, and all certificates and keys by their file names."""

    url: str
    secrets_path: Path
    pems: dict[str, str]


@contextmanager
def run_site(folder, *, secret):
    """With certificates of its own; `secret` is what requests are signed with."""
    pems = make_certificates(folder)
    secrets_path = folder / "secrets"
    secrets_path.write_text(f"{secret}\n")
    port = free_port()
    with llama_starter(folder) as start, run_service(secrets_path) as verifier:
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
