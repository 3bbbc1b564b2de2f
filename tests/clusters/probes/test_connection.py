import asyncio
import contextlib
import socket
import ssl
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest
from django.utils import timezone

from clusters.health import Observation
from clusters.probes import connection as connection_module
from clusters.probes import open_client, probe
from clusters.probes.exchange import ProbeError
from clusters.signing import TlsIdentity
from tests.clusters.probes.target import NOW_S, Target
from tests.clusters.rows import certificate_and_key


@contextlib.asynccontextmanager
async def serving(reply, *, context=None):
    """A raw server that answers each request with these bytes; yields its port and the requests seen."""
    requests = []

    async def answer(reader, writer):
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            requests.append((await reader.readuntil(b"\r\n\r\n")).decode())
            writer.write(reply)
            await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0, ssl=context)
    async with server:
        yield server.sockets[0].getsockname()[1], requests


OK = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"


async def probed(target):
    try:
        async with open_client(cluster=target) as client:
            return await probe(cluster=target, client=client, now_s=NOW_S, nonce="nonce-0001")
    except ProbeError as error:
        return Observation(is_healthy=False, reason=error.reason, is_conclusive=error.is_conclusive)


def resolving_to(monkeypatch, *addresses):
    async def getaddrinfo(_loop, _host, port, **_options):
        kinds = {True: socket.AF_INET6, False: socket.AF_INET}
        return [(kinds[":" in address], 1, 6, "", (address, port)) for address in addresses]

    loop = asyncio.get_running_loop()
    monkeypatch.setattr(type(loop), "getaddrinfo", getaddrinfo)


async def test_name_is_resolved_once_and_its_address_connected_to(monkeypatch):
    async with serving(OK) as (port, requests):
        resolving_to(monkeypatch, "::1", "127.0.0.1")
        observation = await probed(Target(endpoint=f"http://gpu.example:{port}", backend="ollama"))

    assert observation.is_healthy
    assert f"host: gpu.example:{port}\r\n" in requests[0].lower()


@pytest.mark.parametrize("address", ["169.254.169.254", "fd00:ec2::254"])
async def test_name_that_resolves_to_a_metadata_address_is_refused(monkeypatch, address):
    resolving_to(monkeypatch, "127.0.0.1", address)

    observation = await probed(Target(endpoint="http://gpu.example:1"))

    assert (observation.is_conclusive, "never connected to" in observation.reason) == (True, True)


async def test_name_that_resolves_to_a_private_address_needs_the_setting(monkeypatch):
    resolving_to(monkeypatch, "127.0.0.1")

    observation = await probed(Target(endpoint="http://gpu.example:1", allow_private_network=False))

    assert "is a private or loopback address" in observation.reason


async def test_name_that_does_not_resolve_is_told(monkeypatch):
    async def getaddrinfo(*_args, **_options):
        raise socket.gaierror(socket.EAI_NONAME, "unknown")

    monkeypatch.setattr(type(asyncio.get_running_loop()), "getaddrinfo", getaddrinfo)

    observation = await probed(Target(endpoint="http://gpu.example:1"))

    assert observation == Observation(
        is_healthy=False, reason="the name gpu.example does not resolve: check it, or the resolver"
    )


async def test_refused_connection_is_conclusive():
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]

    observation = await probed(Target(endpoint=f"http://127.0.0.1:{port}"))

    assert observation == Observation(
        is_healthy=False,
        reason="connection refused: is the server running there?",
        is_conclusive=True,
        is_absent=True,
    )


async def test_broken_connection_is_not_conclusive():
    async with serving(b"") as (port, _):
        observation = await probed(Target(endpoint=f"http://127.0.0.1:{port}"))

    assert observation == Observation(
        is_healthy=False,
        reason="the connection broke: RemoteProtocolError",
        is_conclusive=False,
        is_absent=True,
    )


async def test_redirect_is_not_followed():
    async with serving(OK) as (elsewhere, seen):
        location = f"http://127.0.0.1:{elsewhere}/".encode()
        reply = b"HTTP/1.1 302 Found\r\nlocation: " + location + b"\r\ncontent-length: 0\r\n\r\n"
        async with serving(reply) as (port, _):
            observation = await probed(Target(endpoint=f"http://127.0.0.1:{port}"))

    assert "redirects (HTTP 302)" in observation.reason
    assert seen == []


async def test_silence_is_told_apart_from_no_connection(monkeypatch):
    monkeypatch.setattr(connection_module, "READ_TIMEOUT_S", 0.05)

    has_ended = asyncio.Event()

    async def say_nothing(reader, writer):
        await reader.read()
        writer.close()
        await writer.wait_closed()
        has_ended.set()

    server = await asyncio.start_server(say_nothing, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        observation = await probed(Target(endpoint=f"http://127.0.0.1:{port}"))
        await has_ended.wait()

    assert observation.reason == "connected, but no answer within the time-out"


def server_context(certificate, key, tmp_path, *, client_authority=None):
    chain = tmp_path / "chain.pem"
    chain.write_text(f"{certificate}\n{key}")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(chain)
    if client_authority:
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(cadata=client_authority)
    return context


def now():
    return timezone.now()  # noqa: TID251 -- TLS judges certificates by the real clock


async def test_mutual_tls_verifies_both_sides_by_name(monkeypatch, tmp_path):
    certificate, key = certificate_and_key(name="localhost", now=now())
    client_certificate, client_key = certificate_and_key(now=now())
    context = server_context(certificate, key, tmp_path, client_authority=client_certificate)
    identity = TlsIdentity(client_pem=(client_certificate + client_key).encode(), ca_pem=certificate.encode())

    async with serving(OK, context=context) as (port, _):
        target = {"endpoint": f"https://localhost:{port}", "backend": "ollama", "auth_type": "mtls"}
        known = await probed(Target(**target, tls=identity))
        unpinned = await probed(Target(**target, tls=None))
        resolving_to(monkeypatch, "127.0.0.1")
        other_name = await probed(
            Target(**{**target, "endpoint": f"https://other.example:{port}"}, tls=identity)
        )

    assert known.is_healthy
    assert "TLS failed" in unpinned.reason
    assert "TLS failed" in other_name.reason


async def test_expired_server_certificate_is_told_with_its_date(tmp_path):
    ended_at = now() - timedelta(days=3)
    certificate, key = certificate_and_key(name="localhost", now=ended_at - timedelta(days=9), days=9)
    identity = TlsIdentity(ca_pem=certificate.encode())

    async with serving(OK, context=server_context(certificate, key, tmp_path)) as (port, seen):
        observation = await probed(
            Target(name="metal", endpoint=f"https://localhost:{port}", backend="ollama", tls=identity)
        )

    assert observation == Observation(
        is_healthy=False,
        reason=f"the server certificate of metal expired on {ended_at:%Y-%m-%d}: "
        "renew it on the cluster's side",
        is_conclusive=True,
        certificate_expires_at=ended_at.replace(microsecond=0),
    )
    # Not a byte of a request went to the server whose certificate was refused.
    assert seen == []


async def test_probe_tells_when_the_servers_certificate_ends(tmp_path):
    began_at = now()
    certificate, key = certificate_and_key(name="localhost", now=began_at, days=9)
    identity = TlsIdentity(ca_pem=certificate.encode())

    async with serving(OK, context=server_context(certificate, key, tmp_path)) as (port, _):
        observation = await probed(
            Target(endpoint=f"https://localhost:{port}", backend="ollama", tls=identity)
        )

    assert observation.certificate_expires_at == (began_at + timedelta(days=9)).replace(microsecond=0)


@pytest.mark.parametrize(
    ("date", "told_s"),
    [
        (format_datetime(datetime.fromtimestamp(NOW_S + 1, UTC)), range(1)),
        (format_datetime(datetime.fromtimestamp(NOW_S - 1, UTC)), range(1)),
        # Less what the probe took until then.
        (format_datetime(datetime.fromtimestamp(NOW_S + 75, UTC)), range(72, 76)),
        (format_datetime(datetime.fromtimestamp(NOW_S - 21, UTC)), range(-24, -20)),
        ("yesterday", (None,)),
        ("Thu, 01 Jan 1970 00:00:00", (None,)),
    ],
)
@pytest.mark.parametrize("status", ["200 OK", "401 Unauthorized"])
async def test_clock_of_the_cluster_is_told_by_its_date_though_it_refuses(date, told_s, status):
    reply = f"HTTP/1.1 {status}\r\ndate: {date}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"

    async with serving(reply.encode()) as (port, _):
        observation = await probed(Target(endpoint=f"http://localhost:{port}", backend="ollama"))

    assert (observation.is_healthy, observation.clock_skew_s in told_s) == (status == "200 OK", True)


def test_tls_context_is_made_once_for_an_identity_and_anew_for_a_renewed_one():
    before, after = (certificate_and_key(name="localhost")[0].encode() for _ in range(2))

    contexts = [connection_module._context(TlsIdentity(ca_pem=pem)) for pem in (before, after, before)]

    assert contexts[0] is contexts[2] is not contexts[1]
    trusted = [context.get_ca_certs(binary_form=True) for context in contexts[:2]]
    assert trusted == [[ssl.PEM_cert_to_DER_cert(pem.decode())] for pem in (before, after)]
    assert connection_module._context(None) is connection_module._context(None)


async def test_client_that_shows_no_certificate_is_refused(tmp_path):
    certificate, key = certificate_and_key(name="localhost", now=now())
    context = server_context(certificate, key, tmp_path, client_authority=certificate)

    async with serving(OK, context=context) as (port, _):
        observation = await probed(
            Target(
                endpoint=f"https://localhost:{port}",
                backend="ollama",
                tls=TlsIdentity(ca_pem=certificate.encode()),
            )
        )

    assert observation.is_healthy is False


async def test_proxy_of_the_environment_is_not_asked(monkeypatch):
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    async with serving(OK) as (port, _):
        observation = await probed(Target(endpoint=f"http://127.0.0.1:{port}", backend="ollama"))

    assert observation.is_healthy
