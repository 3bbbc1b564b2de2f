"""The connections to a cluster: kept for as long as is safe, opened up to a limit, given out in turn."""

import asyncio
import socket
import ssl
from datetime import timedelta

import httpx
import pytest
from django.utils import timezone

from clusters.signing import TlsIdentity, ssl_context
from gateway import connection_pool
from tests.clusters.rows import certificate_and_key
from tests.fakes.raw_server import OK, answering, run_raw
from tests.gateway.test_transport import HEAD, ask, failure, new_transport

LOOPS = ("asyncio", "uvloop")
MEGABYTE = 1024 * 1024
CLOSING = OK.replace(b"content-length", b"connection: close\r\ncontent-length")
CHUNKED = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"


# Keeping.


async def test_connection_used_last_is_used_first():
    async with run_raw(answering(OK)) as raw:
        transport = new_transport(raw.port)
        await asyncio.gather(*(ask(transport) for _ in range(3)))

        for _ in range(4):
            await ask(transport)
        await transport.aclose()
        requests = len(raw.requests)

    assert (requests, len(raw.connections)) == (7, 3)


async def test_connection_idle_for_too_long_is_not_used_and_goes(monkeypatch):
    monkeypatch.setattr(connection_pool, "IDLE_S_MAX", 0.05)
    async with run_raw(answering(OK)) as raw:
        transport = new_transport(raw.port)
        await ask(transport)

        await asyncio.sleep(0.15)
        was_closed = raw.closed_count == 1
        await ask(transport)
        await transport.aclose()

    assert (was_closed, len(raw.connections)) == (True, 2)


async def test_idle_connection_that_the_server_closed_is_not_used():
    async with run_raw(answering(OK)) as raw:
        transport = new_transport(raw.port)
        await ask(transport)
        raw.connections[0].close()
        await asyncio.sleep(0.02)

        answer = await ask(transport)
        await transport.aclose()

    assert (answer, len(raw.connections), len(raw.requests)) == ((200, b"hi"), 2, 2)


async def test_connection_that_is_about_to_close_is_not_given_out():
    async with run_raw(answering(OK)) as raw:
        pool = new_transport(raw.port).pool
        connection = await pool.acquire()
        await connection.request(head=HEAD % 2, body=b"{}")
        await connection.read()
        pool.release(connection)
        connection.abort()

        # No step of the loop in which the pool could have heard of it.
        other = await pool.acquire()
        pool.release(other)
        pool.close()

    assert other is not connection


async def test_connections_that_died_take_no_place_among_the_idle(monkeypatch):
    monkeypatch.setattr(connection_pool, "IDLE_CONNECTIONS_MAX", 1)
    async with run_raw(answering(OK)) as raw:
        transport = new_transport(raw.port)
        used = await transport.send(head=HEAD % 2, body=b"{}")
        await ask(transport)
        raw.connections[1].close()
        await asyncio.sleep(0.02)
        await used.aclose()

        await ask(transport)
        await transport.aclose()

    assert len(raw.connections) == 2


async def test_close_that_only_the_kernel_has_heard_of_is_seen(monkeypatch):
    """The loop has been busy with others since: asked is the socket itself."""
    monkeypatch.setattr(connection_pool, "CHECKED_AFTER_S", 0.0)
    async with run_raw(answering(OK)) as raw:
        transport = new_transport(raw.port)
        await ask(transport)
        (writer,) = raw.connections
        with socket.socket(fileno=socket.dup(writer.get_extra_info("socket").fileno())) as duplicate:
            duplicate.shutdown(socket.SHUT_RDWR)

        # No step of the loop between the close and the request.
        answer = await ask(transport)
        await transport.aclose()

    assert (answer, len(raw.requests)) == ((200, b"hi"), 2)


async def test_more_idle_connections_than_are_kept_are_closed(monkeypatch):
    monkeypatch.setattr(connection_pool, "IDLE_CONNECTIONS_MAX", 2)
    async with run_raw(answering(OK)) as raw:
        transport = new_transport(raw.port)
        await asyncio.gather(*(ask(transport) for _ in range(5)))

        await asyncio.sleep(0.02)
        closed = raw.closed_count
        await transport.aclose()

    assert closed == 3


async def test_stream_that_said_its_last_word_is_kept_when_its_end_comes_later():
    end_now = asyncio.Event()

    async def serve(raw, reader, writer):
        while True:
            await raw.next_request(reader)
            writer.write(CHUNKED + b"2\r\nhi\r\n")
            await end_now.wait()
            writer.write(b"0\r\n\r\n")

    async with run_raw(serve) as raw:
        transport = new_transport(raw.port)
        answer = await transport.send(head=HEAD % 2, body=b"{}")
        await answer.read()
        answer.expect_end()
        await answer.aclose()
        end_now.set()
        await asyncio.sleep(0.02)

        await ask(transport)
        await transport.aclose()

    assert len(raw.connections) == 1


@pytest.mark.parametrize("has_last_word", [True, False])
async def test_stream_whose_end_does_not_come_is_closed(monkeypatch, has_last_word):
    monkeypatch.setattr(connection_pool, "LINGER_S", 0.05)
    async with run_raw(answering(CHUNKED + b"2\r\nhi\r\n", then="hold")) as raw:
        transport = new_transport(raw.port)
        answer = await transport.send(head=HEAD % 2, body=b"{}")
        await answer.read()
        if has_last_word:
            answer.expect_end()
        await answer.aclose()
        await asyncio.sleep(0.01)
        closed_at_once = raw.closed_count
        await asyncio.sleep(0.1)
        closed_later = raw.closed_count

    assert (closed_at_once, closed_later) == (0 if has_last_word else 1, 1)


async def test_closed_pool_closes_what_is_given_back():
    async with run_raw(answering(OK)) as raw:
        transport = new_transport(raw.port)
        answer = await transport.send(head=HEAD % 2, body=b"{}")
        await transport.aclose()
        body = await answer.read()
        await answer.aclose()
        await asyncio.sleep(0.02)
        is_closed = raw.closed_count == 1

    assert (body, is_closed) == (b"hi", True)


# The limit.


async def test_who_waits_for_a_connection_is_served_in_turn(monkeypatch):
    monkeypatch.setattr(connection_pool, "CONNECTIONS_MAX", 2)
    ended = []

    async def ask_and_note(number):
        await ask(transport)
        ended.append(number)

    async with run_raw(answering(OK)) as raw:
        transport = new_transport(raw.port)
        await asyncio.gather(*(ask_and_note(number) for number in range(8)))
        await transport.aclose()

    assert len(raw.connections) == 2
    assert all(abs(place - number) <= 1 for place, number in enumerate(ended))


async def test_place_of_a_connection_that_closes_goes_to_who_waits(monkeypatch):
    monkeypatch.setattr(connection_pool, "CONNECTIONS_MAX", 1)
    async with run_raw(answering(CLOSING, then="close")) as raw:
        transport = new_transport(raw.port)

        answers = await asyncio.gather(*(ask(transport) for _ in range(4)))
        await transport.aclose()

    assert (answers, len(raw.connections)) == ([(200, b"hi")] * 4, 4)


async def test_who_finds_no_connection_in_time_is_told_that_nothing_was_sent(monkeypatch):
    monkeypatch.setattr(connection_pool, "CONNECTIONS_MAX", 1)
    async with run_raw(answering(then="hold")) as raw:
        transport = new_transport(raw.port, connect_timeout_s=0.05)
        first = asyncio.ensure_future(ask(transport))
        await asyncio.sleep(0.01)

        with pytest.raises(httpx.PoolTimeout):
            await ask(transport)
        first.cancel()
        await asyncio.wait([first])
        await transport.aclose()

    assert len(raw.requests) == 1


async def test_more_who_wait_than_may_are_refused_at_once(monkeypatch):
    monkeypatch.setattr(connection_pool, "CONNECTIONS_MAX", 1)
    monkeypatch.setattr(connection_pool, "WAITERS_MAX", 1)
    async with run_raw(answering(then="hold")) as raw:
        transport = new_transport(raw.port)
        asking = [asyncio.ensure_future(ask(transport)) for _ in range(2)]
        await asyncio.sleep(0.01)

        with pytest.raises(httpx.PoolTimeout, match="too many"):
            await ask(transport)
        await transport.aclose()
        await asyncio.sleep(0.01)
        asking[0].cancel()
        outcomes = await asyncio.gather(*asking, return_exceptions=True)

    assert [type(outcome) for outcome in outcomes] == [asyncio.CancelledError, httpx.PoolTimeout]
    assert str(outcomes[1]) == "the connections are being closed"


async def test_connection_given_to_one_who_has_just_left_goes_to_the_next(monkeypatch):
    monkeypatch.setattr(connection_pool, "CONNECTIONS_MAX", 1)
    async with run_raw(answering(OK)) as raw:
        transport = new_transport(raw.port)
        holder = await transport.send(head=HEAD % 2, body=b"{}")
        leaving = asyncio.ensure_future(ask(transport))
        waiting = asyncio.ensure_future(ask(transport))
        await asyncio.sleep(0.01)
        while await holder.read():
            pass
        await holder.aclose()
        leaving.cancel()

        answer = await waiting
        await transport.aclose()

    assert (leaving.cancelled(), answer, len(raw.connections)) == (True, (200, b"hi"), 1)


async def test_connection_that_dies_on_the_way_to_who_waits_is_replaced(monkeypatch):
    monkeypatch.setattr(connection_pool, "CONNECTIONS_MAX", 1)
    async with run_raw(answering(OK)) as raw:
        transport = new_transport(raw.port)
        connection = await transport.pool.acquire()
        await connection.request(head=HEAD % 2, body=b"{}")
        await connection.read()
        waiting = asyncio.ensure_future(ask(transport))
        await asyncio.sleep(0.01)
        transport.pool.release(connection)
        connection.abort()

        answer = await waiting
        await transport.aclose()

    assert (answer, len(raw.connections)) == ((200, b"hi"), 2)


async def test_request_that_could_not_be_written_at_all_takes_no_place(monkeypatch):
    monkeypatch.setattr(connection_pool, "CONNECTIONS_MAX", 1)
    async with run_raw(answering(OK)) as raw:
        transport = new_transport(raw.port, connect_timeout_s=0.5)
        with pytest.raises(TypeError):
            await transport.send(head=HEAD % 2, body="{}")

        answer = await ask(transport)
        await transport.aclose()

    assert (answer, len(raw.requests)) == ((200, b"hi"), 1)


async def test_failed_connections_take_no_place(monkeypatch):
    monkeypatch.setattr(connection_pool, "CONNECTIONS_MAX", 1)
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        transport = new_transport(bound.getsockname()[1])

        kinds = [(await failure(transport))[0] for _ in range(3)]

    assert kinds == [httpx.ConnectError] * 3


# Addresses.


async def test_next_address_is_tried_when_the_first_refuses():
    async with run_raw(answering(OK)) as raw:
        transport = new_transport(raw.port, addresses=["::1", "127.0.0.1"])

        answer = await ask(transport)
        await transport.aclose()

    assert answer == (200, b"hi")


async def test_connections_to_an_address_of_old_are_used_no_more():
    async with run_raw(answering(OK)) as raw:
        transport = new_transport(raw.port)
        await ask(transport)
        answer = await transport.send(head=HEAD % 2, body=b"{}")
        transport.pool.move(["::1"])
        await answer.aclose()

        failed = await failure(transport)

    assert failed == (httpx.ConnectError, "connection refused")


async def test_address_that_answered_comes_first_from_then_on(monkeypatch):
    loop = asyncio.get_running_loop()
    create_connection, tried = loop.create_connection, []

    def note(factory, host, port, **options):
        tried.append(host)
        return create_connection(factory, host, port, **options)

    monkeypatch.setattr(loop, "create_connection", note)
    monkeypatch.setattr(connection_pool, "IDLE_CONNECTIONS_MAX", 0)
    async with run_raw(answering(OK)) as raw:
        transport = new_transport(raw.port, addresses=["::1", "127.0.0.1"])
        await ask(transport)
        transport.pool.move(["::1", "127.0.0.1"])
        await ask(transport)
        await transport.aclose()

    assert tried == ["::1", "127.0.0.1", "127.0.0.1"]


# TLS.


def now():
    return timezone.now()  # noqa: TID251 -- TLS judges certificates by the real clock


def server_context(certificate, key, tmp_path, *, client_authority=None):
    chain = tmp_path / "chain.pem"
    chain.write_text(f"{certificate}\n{key}")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(chain)
    context.set_alpn_protocols(["h2", "http/1.1"])
    if client_authority:
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(cadata=client_authority)
    return context


def trusting(certificate, *, client_pem=None):
    return ssl_context(tls=TlsIdentity(ca_pem=certificate.encode(), client_pem=client_pem))


async def test_address_is_connected_to_and_the_name_is_verified(tmp_path):
    certificate, key = certificate_and_key(now=now())
    names = []
    context = server_context(certificate, key, tmp_path)
    context.sni_callback = lambda _object, name, _context: names.append(name)
    async with run_raw(answering(OK), context=context) as raw:
        transport = new_transport(raw.port, tls=trusting(certificate))
        answer = await ask(transport)
        protocol = raw.connections[0].get_extra_info("ssl_object").selected_alpn_protocol()
        await transport.aclose()

        other = await failure(new_transport(raw.port, tls=trusting(certificate), host="other.example"))

    assert (answer, protocol, names) == ((200, b"hi"), "http/1.1", ["localhost", "other.example"])
    assert other == (
        httpx.ConnectError,
        "its certificate is not trusted (Hostname mismatch, certificate is not valid for 'other.example'.)",
    )
    assert len(raw.requests) == 1


async def test_certificate_of_another_authority_is_not_trusted(tmp_path):
    certificate, key = certificate_and_key(now=now())
    another, _ = certificate_and_key(now=now())
    async with run_raw(answering(OK), context=server_context(certificate, key, tmp_path)) as raw:
        kind, message = await failure(new_transport(raw.port, tls=trusting(another)))

    assert (kind, raw.requests) == (httpx.ConnectError, [])
    assert message == "its certificate is not trusted (self-signed certificate)"


async def test_expired_certificate_is_not_trusted(tmp_path):
    certificate, key = certificate_and_key(now=now() - timedelta(days=9), days=1)
    async with run_raw(answering(OK), context=server_context(certificate, key, tmp_path)) as raw:
        failed = await failure(new_transport(raw.port, tls=trusting(certificate)))

    assert failed == (httpx.ConnectError, "its certificate is not trusted (certificate has expired)")


async def test_server_that_speaks_no_tls_is_a_connect_error():
    async def serve(raw, reader, writer):
        await reader.read(1)
        writer.write(OK)

    certificate, _ = certificate_and_key(now=now())
    async with run_raw(serve) as raw:
        kind, message = await failure(new_transport(raw.port, tls=trusting(certificate)))

    assert (kind, message.startswith("TLS failed (")) == (httpx.ConnectError, True)


async def test_handshake_that_is_not_answered_is_a_connect_timeout():
    certificate, _ = certificate_and_key(now=now())
    async with run_raw(answering(then="hold")) as raw:
        transport = new_transport(raw.port, tls=trusting(certificate), connect_timeout_s=0.1)

        kind, _ = await failure(transport)

    assert kind is httpx.ConnectTimeout


async def test_both_sides_show_a_certificate(tmp_path):
    certificate, key = certificate_and_key(now=now())
    ours, our_key = certificate_and_key(now=now())
    context = server_context(certificate, key, tmp_path, client_authority=ours)
    async with run_raw(answering(OK), context=context) as raw:
        transport = new_transport(raw.port, tls=trusting(certificate, client_pem=(ours + our_key).encode()))
        answer = await ask(transport)
        await transport.aclose()
        kind, _ = await failure(new_transport(raw.port, tls=trusting(certificate)))

    assert (answer, len(raw.requests)) == ((200, b"hi"), 1)
    # With TLS 1.3 the client is refused after its own handshake: it may have written by then.
    assert issubclass(kind, httpx.NetworkError | httpx.RemoteProtocolError)


async def test_new_connection_resumes_the_session_of_an_earlier_one(tmp_path):
    resumed = []

    async def serve(raw, reader, writer):
        await raw.next_request(reader)
        resumed.append(writer.get_extra_info("ssl_object").session_reused)
        writer.write(CLOSING)

    certificate, key = certificate_and_key(now=now())
    async with run_raw(serve, context=server_context(certificate, key, tmp_path)) as raw:
        transport = new_transport(raw.port, tls=trusting(certificate))

        for _ in range(2):
            await ask(transport)
        await transport.aclose()

    assert resumed == [False, True]


async def test_tls_that_breaks_off_is_a_failure(tmp_path):
    certificate, key = certificate_and_key(now=now())
    body = bytes(MEGABYTE)
    answer = b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % (2 * len(body))
    context = server_context(certificate, key, tmp_path)
    async with run_raw(answering(answer, body, then="reset"), context=context) as raw:
        kind, _ = await failure(new_transport(raw.port, tls=trusting(certificate)))

    assert issubclass(kind, httpx.ReadError | httpx.RemoteProtocolError)


async def test_large_bodies_pass_through_tls_both_ways(tmp_path):
    certificate, key = certificate_and_key(now=now())
    body = bytes(range(256)) * 8192
    answer = b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % len(body)
    context = server_context(certificate, key, tmp_path)
    async with run_raw(answering(answer, body), context=context) as raw:
        transport = new_transport(raw.port, tls=trusting(certificate))

        read = await ask(transport, body)
        await transport.aclose()

    assert (read, raw.requests[0][1]) == ((200, body), body)
