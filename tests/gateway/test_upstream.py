"""A request to a cluster: what goes out, and each failure as money and routing need to know it."""

import asyncio
import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from django.utils import timezone

from clusters.signing import BearerSigner, NoneSigner, Rfc9421Signer, TlsIdentity
from clusters.verifying.signatures import Verifier
from gateway import connection_pool, upstream
from gateway.fleet import Target
from gateway.upstream import UpstreamFailure, Upstreams
from tests.clusters.rows import certificate_and_key
from tests.fakes.raw_server import OK, answering, run_raw
from tests.gateway.test_connection_pool import server_context
from tests.routing.values import deployment

NOW_S = 1_900_000_000
CHUNKED = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"
BODY = b'{"model":"llama-3-8b"}'


@pytest.fixture
async def upstreams():
    upstreams = Upstreams(connect_timeout_s=2, clock=time.monotonic, wall_clock_s=lambda: NOW_S)
    yield upstreams
    await upstreams.aclose()


def new_target(
    port,
    *,
    scheme="http",
    host="localhost",
    base="",
    signer=None,
    tls=None,
    is_private_allowed=True,
    expands_addresses=False,
):
    return Target(
        deployment=deployment("1", cluster="site"),
        cluster_id="1",
        endpoint=f"{scheme}://{host}:{port}{base}",
        backend="vllm",
        upstream_name="llama-3-8b",
        signer=signer or NoneSigner(),
        tls=tls,
        is_private_allowed=is_private_allowed,
        expands_addresses=expands_addresses,
    )


async def send(upstreams, target):
    return await upstreams.send(
        target=target, path="/v1/chat/completions", body=BODY, request_id="req_1", attempt_id="a_1"
    )


async def read_whole(upstreams, target):
    response = await send(upstreams, target)
    try:
        return b"".join([chunk async for chunk in response.chunks])
    finally:
        await response.aclose()


async def failure(upstreams, target):
    """Code, message, whether the request may have been read, whether it counts against the cluster."""
    with pytest.raises(UpstreamFailure) as failed:
        await read_whole(upstreams, target)
    return failed.value.error.code, str(failed.value), failed.value.is_sent, failed.value.is_counted


def head_of(raw):
    ((head, body),) = raw.requests
    start, *lines = head.decode().removesuffix("\r\n\r\n").split("\r\n")
    return start, dict(line.split(": ", 1) for line in lines), body


async def test_request_has_what_the_cluster_needs_and_no_more(upstreams):
    async with run_raw(answering(OK)) as raw:
        answer = await read_whole(upstreams, new_target(raw.port, base="/base", signer=BearerSigner("t0ken")))

    assert answer == b"hi"
    assert head_of(raw) == (
        "POST /base/v1/chat/completions HTTP/1.1",
        {
            "host": f"localhost:{raw.port}",
            "content-type": "application/json",
            "accept-encoding": "identity",
            "user-agent": "tollgate",
            "content-length": str(len(BODY)),
            "x-request-id": "req_1",
            "x-gateway-attempt-id": "a_1",
            "authorization": "Bearer t0ken",
        },
        BODY,
    )


async def test_signature_is_of_what_was_sent(upstreams):
    signer = Rfc9421Signer(secrets=(("k1", "s3cret"),))
    async with run_raw(answering(OK)) as raw:
        await read_whole(upstreams, new_target(raw.port, signer=signer))

    start, headers, body = head_of(raw)
    reason = Verifier(secrets=["s3cret"]).verify(
        method="POST",
        authority=headers["host"],
        path=start.split(" ")[1],
        query="",
        headers=headers,
        body=body,
        now_s=NOW_S,
    )
    assert reason is None


async def test_headers_of_the_answer_are_found_by_their_names_in_lower_case(upstreams):
    async with run_raw(answering(OK.replace(b"content-length", b"X-Cost: \xe4\r\nContent-Length"))) as raw:
        response = await send(upstreams, new_target(raw.port))
        await response.aclose()

    assert response.headers == {"x-cost": "ä", "content-length": "2"}


@pytest.mark.parametrize("line_break", [b"\n", b"\r\n"])
async def test_stream_left_at_its_last_word_keeps_its_connection(upstreams, line_break):
    """The relay reads no further than `[DONE]`; the end of the message comes a moment later."""

    async def serve(raw, reader, writer):
        while True:
            await raw.next_request(reader)
            word = b"data: [DONE]" + line_break * 2
            writer.write(CHUNKED + b"%x\r\n%b\r\n" % (len(word), word))
            await asyncio.sleep(0.005)
            writer.write(b"0\r\n\r\n")

    async with run_raw(serve) as raw:
        for _ in range(2):
            response = await send(upstreams, new_target(raw.port))
            async for _chunk in response.chunks:
                break
            await response.aclose()
            await asyncio.sleep(0.02)

    assert (len(raw.requests), len(raw.connections)) == (2, 1)


# Never sent.


async def test_cluster_that_refuses_the_connection_was_sent_nothing(upstreams):
    async with run_raw(answering(OK)) as raw:
        pass

    failed = await failure(upstreams, new_target(raw.port))

    message = "Cluster site cannot be reached: connection refused."
    assert failed == ("upstream_unreachable", message, False, True)


async def test_cluster_whose_name_nobody_knows_was_sent_nothing(upstreams, monkeypatch):
    async def find_nothing(*_arguments, **_options):
        raise OSError("no such host")

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", find_nothing)

    failed = await failure(upstreams, new_target(80, host="nowhere.example"))

    message = "Cluster site has no address: its name cannot be resolved."
    assert failed == ("upstream_unreachable", message, False, True)


@pytest.mark.parametrize("addresses", [["169.254.169.254"], ["127.0.0.1", "169.254.169.254"]])
async def test_name_that_leads_to_a_refused_address_is_not_connected_to(upstreams, monkeypatch, addresses):
    async def find(*_arguments, **_options):
        return [(None, None, None, "", (address, 80)) for address in addresses]

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", find)
    async with run_raw(answering(OK)) as raw:
        failed = await failure(upstreams, new_target(raw.port, host="site.example"))

    message = "Cluster site resolves to an address that is not allowed."
    assert failed == ("upstream_unreachable", message, False, True)
    assert raw.connections == []


async def test_private_address_is_not_connected_to_unless_it_is_allowed(upstreams):
    async with run_raw(answering(OK)) as raw:
        _, message, is_sent, _ = await failure(upstreams, new_target(raw.port, is_private_allowed=False))

    assert (message, is_sent) == ("Cluster site resolves to an address that is not allowed.", False)
    assert raw.connections == []


async def test_full_pool_does_not_count_against_the_cluster(upstreams, monkeypatch):
    monkeypatch.setattr(connection_pool, "CONNECTIONS_MAX", 1)
    monkeypatch.setattr(connection_pool, "WAITERS_MAX", 0)
    async with run_raw(answering(OK)) as raw:
        response = await send(upstreams, new_target(raw.port))

        failed = await failure(upstreams, new_target(raw.port))
        await response.aclose()

    message = "As many connections to cluster site are open as are allowed."
    assert failed == ("overloaded", message, False, False)


async def test_token_with_a_line_break_is_not_sent(upstreams):
    async with run_raw(answering(OK)) as raw:
        target = new_target(raw.port, signer=BearerSigner("a\r\nx-evil: 1"))
        code, message, is_sent, _ = await failure(upstreams, target)

    assert (code, is_sent, raw.connections) == ("upstream_unreachable", False, [])
    assert message == "Cluster site cannot be reached: a header of the request has a line break in it."


async def test_expired_certificate_of_the_cluster_is_named(upstreams, tmp_path):
    certificate, key = certificate_and_key(now=now() - timedelta(days=9), days=1)
    tls = TlsIdentity(ca_pem=certificate.encode())
    async with run_raw(answering(OK), context=server_context(certificate, key, tmp_path)) as raw:
        failed = await failure(upstreams, new_target(raw.port, scheme="https", tls=tls))

    message = "Cluster site cannot be reached: its certificate is not trusted (certificate has expired)."
    assert failed == ("upstream_unreachable", message, False, True)


async def test_public_roots_do_not_trust_a_certificate_of_ones_own(upstreams, tmp_path):
    certificate, key = certificate_and_key(now=now())
    async with run_raw(answering(OK), context=server_context(certificate, key, tmp_path)) as raw:
        code, message, is_sent, _ = await failure(upstreams, new_target(raw.port, scheme="https"))

    assert (code, is_sent) == ("upstream_unreachable", False)
    assert (
        message == "Cluster site cannot be reached: its certificate is not trusted (self-signed certificate)."
    )


async def test_expired_certificate_of_ours_is_named_with_its_date(upstreams, tmp_path):
    certificate, key = certificate_and_key(now=now())
    ours, our_key = certificate_and_key(now=now() - timedelta(days=9), days=1)
    tls = TlsIdentity(
        ca_pem=certificate.encode(),
        client_pem=(ours + our_key).encode(),
        expires_at=datetime(2029, 12, 31, tzinfo=UTC),
    )
    context = server_context(certificate, key, tmp_path, client_authority=ours)
    async with run_raw(answering(OK), context=context) as raw:
        code, message, _, _ = await failure(upstreams, new_target(raw.port, scheme="https", tls=tls))

    assert (code, raw.requests) == ("upstream_unreachable", [])
    assert message.endswith("The gateway's client certificate for it expired on 2029-12-31: store a new one.")


async def test_expired_certificate_of_the_cluster_is_named_with_its_date(upstreams, tmp_path):
    ended_at = now() - timedelta(days=3)
    certificate, key = certificate_and_key(now=ended_at - timedelta(days=9), days=9)
    tls = TlsIdentity(ca_pem=certificate.encode())
    async with run_raw(answering(OK), context=server_context(certificate, key, tmp_path)) as raw:
        target = new_target(raw.port, scheme="https", tls=tls)
        target = replace(target, certificate_expires_at=datetime(2029, 12, 30, tzinfo=UTC))
        code, message, is_sent, _ = await failure(upstreams, target)

    assert (code, is_sent, raw.requests) == ("upstream_unreachable", False, [])
    assert message == (
        "Cluster site cannot be reached: its certificate is not trusted (certificate has expired). "
        "Its certificate expired on 2029-12-30: renew it on the cluster's side."
    )


async def test_stored_certificate_that_cannot_be_loaded_is_named(upstreams):
    async with run_raw(answering(OK)) as raw:
        tls = TlsIdentity(ca_pem=b"no certificate")
        failed = await failure(upstreams, new_target(raw.port, scheme="https", tls=tls))

    message = (
        "Cluster site cannot be reached: the certificates stored for it cannot be loaded; "
        "store them again in Admin > Clusters."
    )
    assert failed == ("upstream_unreachable", message, False, True)


# May have been sent.


async def test_cluster_that_closes_without_an_answer_may_have_read_the_request(upstreams):
    async with run_raw(answering(then="close")) as raw:
        failed = await failure(upstreams, new_target(raw.port))

    message = "Cluster site closed the connection without an answer."
    assert failed == ("upstream_unreachable", message, True, True)
    assert len(raw.requests) == 1


async def test_answer_that_is_not_http_is_invalid(upstreams):
    async with run_raw(answering(b"SSH-2.0-OpenSSH_9.2\r\n")) as raw:
        failed = await failure(upstreams, new_target(raw.port))

    message = "Cluster site answered with something that is not HTTP."
    assert failed == ("upstream_invalid_response", message, True, True)


async def test_answer_that_breaks_off_is_invalid(upstreams):
    async with run_raw(answering(CHUNKED, b"2\r\nhi\r\n", then="reset")) as raw:
        failed = await failure(upstreams, new_target(raw.port))

    assert failed == ("upstream_invalid_response", "Cluster site broke off its answer.", True, True)


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        (302, ("upstream_invalid_response", True)),
        (401, ("upstream_auth", True)),
        (403, ("upstream_auth", True)),
        (429, ("overloaded", True)),
        (400, ("upstream_refused", False)),
        (500, ("upstream_error", True)),
        (503, ("upstream_error", True)),
    ],
)
async def test_other_statuses_are_failures_and_keep_the_connection(upstreams, status, expected):
    document = b'{"error":{"message":"no"}}'
    answer = b"HTTP/1.1 %d X\r\nretry-after: 7\r\ncontent-length: %d\r\n\r\n" % (status, len(document))
    async with run_raw(answering(answer + document)) as raw:
        failures = [await failure(upstreams, new_target(raw.port)) for _ in range(2)]

    assert [(code, is_counted) for code, _, _, is_counted in failures] == [expected] * 2
    assert len(raw.connections) == 1


@pytest.mark.parametrize(
    ("status", "page", "code", "message"),
    [
        (
            400,
            b"<html><h1>400 Bad Request</h1>No required SSL certificate was sent</html>",
            "upstream_auth",
            "Cluster site does not accept the gateway's client certificate: store one that it knows.",
        ),
        (
            400,
            b"<html>The plain HTTP request was sent to HTTPS port</html>",
            "upstream_invalid_response",
            "Cluster site answered with status 400 and a page, as a proxy before it would.",
        ),
        (
            404,
            b"<html>nginx</html>",
            "upstream_invalid_response",
            "Cluster site answered with status 404 and a page, as a proxy before it would.",
        ),
    ],
)
async def test_page_is_no_refusal_of_the_request(upstreams, status, page, code, message):
    head = b"HTTP/1.1 %d X\r\ncontent-type: text/html\r\ncontent-length: %d\r\n\r\n" % (status, len(page))
    async with run_raw(answering(head + page)) as raw:
        failed = await failure(upstreams, new_target(raw.port))

    assert failed == (code, message, True, True)


# Addresses.


async def test_name_is_resolved_again_after_a_while(monkeypatch):
    now_s = [0.0]
    upstreams = Upstreams(connect_timeout_s=2, clock=lambda: now_s[0], wall_clock_s=lambda: NOW_S)
    loop = asyncio.get_running_loop()
    asked = []

    async def find(host, port, **_options):
        asked.append(host)
        return [(None, None, None, "", ("127.0.0.1", port))]

    monkeypatch.setattr(loop, "getaddrinfo", find)
    async with run_raw(answering(OK)) as raw:
        target = new_target(raw.port, host="site.example")
        for moment in (
            0.0,
            upstream.RESOLVED_FOR_S - 1,
            upstream.RESOLVED_FOR_S,
            upstream.RESOLVED_FOR_S + 1,
        ):
            now_s[0] = moment
            await read_whole(upstreams, target)
        await upstreams.aclose()

    assert (asked, len(raw.connections)) == (["site.example"] * 2, 1)


async def test_another_tls_identity_gets_connections_of_its_own(upstreams):
    async with run_raw(answering(OK)) as raw:
        target = new_target(raw.port)
        await read_whole(upstreams, target)
        await read_whole(upstreams, replace(target, signer=BearerSigner("new")))
        await read_whole(upstreams, replace(target, tls=TlsIdentity(ca_pem=b"another")))

    assert len(raw.connections) == 2


async def test_cluster_that_was_longest_here_makes_room_and_its_answer_goes_on(upstreams, monkeypatch):
    monkeypatch.setattr(upstream, "CLIENTS_MAX", 1)
    async with run_raw(answering(OK)) as raw, run_raw(answering(OK)) as other:
        first = await send(upstreams, new_target(raw.port))
        await read_whole(upstreams, new_target(other.port))
        body = b"".join([chunk async for chunk in first.chunks])
        await first.aclose()
        await asyncio.sleep(0.02)

        await read_whole(upstreams, new_target(raw.port))

    assert (body, len(raw.connections)) == (b"hi", 2)


def now():
    return timezone.now()  # noqa: TID251 -- TLS judges certificates by the real clock
