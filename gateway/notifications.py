"""Sends budget warnings: webhooks signed as Standard Webhooks say, and e-mails in plain words.

Webhooks: https://www.standardwebhooks.com. Addresses are checked and connected to as a cluster's are:
metadata services never, private networks where GATEWAY_WEBHOOK_PRIVATE allows it, redirects are not followed.
"""

import asyncio
import base64
import hashlib
import hmac
import random
import smtplib
import socket
from collections.abc import Callable, Sequence
from datetime import datetime
from urllib.parse import urlsplit

import httpx
import orjson
import structlog
from django.conf import settings
from django.core.mail import EmailMessage

from billing import budget_warnings
from billing.amounts import plain_usd_text, usd_text
from billing.budget_warnings import DueWarning
from clusters.endpoint import EndpointError, check_address, check_endpoint
from clusters.probes.connection import PinnedTransport

logger = structlog.get_logger(__name__)

TIMEOUT_S = 5.0
EMAIL = "email"


class NotificationError(Exception):
    """A message that did not arrive: why."""


def send_due(*, now: datetime, clock: Callable[[], datetime]) -> tuple[int, int]:
    """Note what is to be told, send what is due; gives back how many were sent, and how many failed."""
    budget_warnings.note_warnings(now=now)
    sent = failed = 0
    for warning in budget_warnings.claim_due(clock=clock):
        try:
            send(warning, now=clock())
        except NotificationError as error:
            failed += 1
            draw = random.random()  # noqa: S311 -- spreads the tries
            is_over = budget_warnings.mark_failed(
                warning_id=warning.id, reason=str(error), draw=draw, now=clock()
            )
            logger.warning(
                "budget_warning_failed", id=str(warning.id), reason=str(error), is_given_up=is_over
            )
            continue
        budget_warnings.mark_sent(warning_id=warning.id, now=clock())
        sent += 1
        logger.info("budget_warning_sent", id=str(warning.id), owner=warning.owner, percent=warning.percent)
    return sent, failed


def send(warning: DueWarning, *, now: datetime) -> None:
    """Raises NotificationError."""
    if warning.channel == EMAIL:
        _send_email(warning)
    else:
        asyncio.run(_send_webhook(warning, now=now))


def webhook_body(warning: DueWarning) -> bytes:
    document = {
        "type": "budget.warning",
        "timestamp": warning.noticed_at.isoformat(),
        "data": {
            "budget_id": str(warning.budget_id),
            "owner": warning.owner,
            "window": warning.window,
            "starts_at": warning.starts_at.isoformat(),
            "ends_at": warning.ends_at.isoformat() if warning.ends_at else None,
            "is_hard": warning.is_hard,
            "percent": warning.percent,
            "limit_usd": plain_usd_text(warning.limit_nanousd),
            "spent_usd": plain_usd_text(warning.spent_nanousd),
        },
    }
    return orjson.dumps(document)


def webhook_headers(*, message_id: str, body: bytes, secret: str, now: datetime) -> dict[str, str]:
    """The signature covers id, time and body; a receiver knows a repetition by its id."""
    timestamp = str(int(now.timestamp()))
    signed = b".".join((message_id.encode(), timestamp.encode(), body))
    digest = hmac.new(secret.encode(), signed, hashlib.sha256).digest()
    return {
        "content-type": "application/json",
        "user-agent": "tollgate",
        "webhook-id": message_id,
        "webhook-timestamp": timestamp,
        "webhook-signature": f"v1,{base64.b64encode(digest).decode()}",
    }


def email_text(warning: DueWarning) -> tuple[str, str]:
    """Subject and text. A name may hold anything: a subject has no line breaks."""
    owner = " ".join(warning.owner.split())
    until = f"until {warning.ends_at:%Y-%m-%d %H:%M} UTC" if warning.ends_at else "and is not reset"
    consequence = (
        "It is a hard budget: at its limit, requests are refused."
        if warning.is_hard
        else "It is a soft budget: nothing is refused."
    )
    subject = f"Tollgate: {warning.percent} % of the {warning.window} budget of {owner} is spent"
    text = (
        f"The {warning.window} budget of {warning.owner} runs {until}.\n"
        f"Spent: {usd_text(warning.spent_nanousd)} of {usd_text(warning.limit_nanousd)}.\n\n"
        f"{consequence} To raise it or to override it for a while, see Admin > Budgets.\n"
    )
    return subject, text


def _send_email(warning: DueWarning) -> None:
    if not settings.EMAIL_HOST:
        raise NotificationError(
            "no mail server is set: give EMAIL_URL, or take the address out of the budget"
        )
    subject, text = email_text(warning)
    message = EmailMessage(subject, text, settings.DEFAULT_FROM_EMAIL, [warning.target])
    message.extra_headers["Message-ID"] = f"<{warning.id}@tollgate>"
    try:
        message.send()
    except (OSError, smtplib.SMTPException, ValueError) as error:
        raise NotificationError(f"the mail server refused it: {error}") from error


async def _send_webhook(warning: DueWarning, *, now: datetime) -> None:
    body = webhook_body(warning)
    headers = webhook_headers(message_id=str(warning.id), body=body, secret=settings.WEBHOOK_SECRET, now=now)
    try:
        async with asyncio.timeout(2 * TIMEOUT_S):
            status = await _post(warning.target, body=body, headers=headers)
    except EndpointError as error:
        raise NotificationError(f"this address is not allowed: {error}") from error
    # A name that cannot be one is a ValueError: it must not keep the other messages from being sent.
    except (httpx.HTTPError, httpx.InvalidURL, OSError, TimeoutError, ValueError) as error:
        raise NotificationError(f"the receiver did not answer: {error!r}") from error
    if not httpx.codes.is_success(status):
        raise NotificationError(f"the receiver answered {status}")


async def _post(url: str, *, body: bytes, headers: dict[str, str]) -> int:
    """The status of the answer; what else it says is not read, however long it is."""
    address = await _checked_address(url)
    transport = PinnedTransport(address=address, inner=httpx.AsyncHTTPTransport(trust_env=False))
    async with (
        httpx.AsyncClient(
            transport=transport, timeout=TIMEOUT_S, follow_redirects=False, trust_env=False
        ) as client,
        client.stream("POST", url, content=body, headers=headers) as answer,
    ):
        return answer.status_code


async def _checked_address(url: str) -> str:
    is_private = settings.WEBHOOK_PRIVATE
    check_endpoint(url=url, allow_private=is_private)
    parts = urlsplit(url)
    port = parts.port or (443 if parts.scheme == "https" else 80)
    found = await asyncio.get_running_loop().getaddrinfo(parts.hostname, port, type=socket.SOCK_STREAM)
    addresses: Sequence[str] = [str(entry[4][0]) for entry in found]
    for address in addresses:
        check_address(address=address, allow_private=is_private)
    return addresses[0]
