"""What arrives: signed webhooks at a real server, mails in plain words; and what is refused."""

import base64
import hashlib
import hmac
import json
import threading
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, HTTPServer
from uuid import UUID

import pytest
from django.core import mail

from billing.budget_warnings import DueWarning
from gateway import notifications
from gateway.notifications import NotificationError
from tests.changes import replace

NOW = datetime(2026, 3, 10, 12, tzinfo=UTC)
WARNING = DueWarning(
    id=UUID(int=1),
    budget_id=UUID(int=2),
    owner='team "search"',
    window="month",
    starts_at=datetime(2026, 3, 1, tzinfo=UTC),
    ends_at=datetime(2026, 4, 1, tzinfo=UTC),
    is_hard=True,
    percent=80,
    limit_nanousd=100_000_000_000,
    spent_nanousd=80_500_000_000,
    channel="webhook",
    target="",
    noticed_at=NOW,
)


@pytest.fixture
def receiver():
    """A server that keeps what it is sent; `status` is what it answers."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = self.rfile.read(int(self.headers["content-length"]))
            server.received.append((self.path, dict(self.headers), body))
            self.send_response(server.status)
            self.send_header("location", "/elsewhere")
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *args):
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    server.received, server.status = [], 200
    server.url = f"http://127.0.0.1:{server.server_port}/hook"
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def private_allowed(settings):
    settings.WEBHOOK_PRIVATE = True
    settings.WEBHOOK_SECRET = "s3cret"


def failure_of(**changes):
    with pytest.raises(NotificationError) as caught:
        notifications.send(replace(WARNING, **changes), now=NOW)
    return str(caught.value)


def test_webhook_carries_the_budget_and_a_signature(receiver, private_allowed):
    notifications.send(replace(WARNING, target=receiver.url), now=NOW)

    ((path, headers, body),) = receiver.received
    assert path == "/hook"
    assert json.loads(body) == {
        "type": "budget.warning",
        "timestamp": "2026-03-10T12:00:00+00:00",
        "data": {
            "budget_id": str(UUID(int=2)),
            "owner": 'team "search"',
            "window": "month",
            "starts_at": "2026-03-01T00:00:00+00:00",
            "ends_at": "2026-04-01T00:00:00+00:00",
            "is_hard": True,
            "percent": 80,
            "limit_usd": "100",
            "spent_usd": "80.5",
        },
    }
    lowered = {name.lower(): value for name, value in headers.items()}
    signed = f"{lowered['webhook-id']}.{lowered['webhook-timestamp']}.".encode() + body
    digest = base64.b64encode(hmac.new(b"s3cret", signed, hashlib.sha256).digest()).decode()
    assert lowered["webhook-signature"] == f"v1,{digest}"
    assert (lowered["webhook-id"], lowered["webhook-timestamp"]) == (str(UUID(int=1)), "1773144000")


@pytest.mark.parametrize("status", [302, 404, 500])
def test_webhook_that_is_not_taken_failed_and_is_not_followed(receiver, private_allowed, status):
    receiver.status = status

    assert failure_of(target=receiver.url) == f"the receiver answered {status}"
    assert len(receiver.received) == 1


def test_webhook_to_a_private_address_needs_leave(receiver):
    assert failure_of(target=receiver.url).startswith("this address is not allowed:")
    assert receiver.received == []


def test_webhook_never_goes_to_a_metadata_service(private_allowed):
    assert failure_of(target="http://169.254.169.254/latest").startswith("this address is not allowed:")


def test_webhook_without_a_server_failed(private_allowed):
    assert failure_of(target="http://127.0.0.1:1/hook").startswith("the receiver did not answer:")


def test_mail_says_what_it_is_about(settings):
    settings.EMAIL_HOST = "mail.example.com"

    notifications.send(replace(WARNING, channel="email", target="ops@example.com"), now=NOW)

    (message,) = mail.outbox
    assert (message.subject, message.to) == (
        'Tollgate: 80 % of the month budget of team "search" is spent',
        ["ops@example.com"],
    )
    assert "Spent: $80.50 of $100.00." in message.body
    assert "runs until 2026-04-01 00:00 UTC" in message.body
    assert "hard budget" in message.body


def test_mail_of_a_name_with_line_breaks_has_no_further_headers(settings):
    settings.EMAIL_HOST = "mail.example.com"

    notifications.send(
        replace(WARNING, channel="email", target="ops@example.com", owner='team "a\nBcc: x@example.com"'),
        now=NOW,
    )

    assert (
        mail.outbox[0].subject == 'Tollgate: 80 % of the month budget of team "a Bcc: x@example.com" is spent'
    )


def test_mail_without_a_server_says_so(settings):
    settings.EMAIL_HOST = ""

    assert "no mail server is set" in failure_of(channel="email", target="ops@example.com")


@pytest.mark.parametrize("url", ["https://a..b/", "https://" + "a" * 70 + ".example/", "https://exa mple/"])
def test_name_that_is_none_fails_alone(url):
    with pytest.raises(NotificationError):
        notifications.send(replace(WARNING, target=url), now=NOW)
