"""How long each report and ledger page takes on the database at hand: `python -m tests.scale.pages`.

GATEWAY_DATA_DIR or DATABASE_URL say which, tests.scale.load fills one. Milliseconds in this process, without
a server around it: of the first call, and the median and the longest of those after it.
"""

import argparse
import os
import statistics
import sys
import time
import uuid
from datetime import timedelta

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "gateway.settings")
os.environ.setdefault("LOG_LEVEL", "ERROR")

import django

django.setup()

from django.conf import settings  # noqa: E402 -- apps first
from django.contrib.auth.models import User  # noqa: E402
from django.test import Client  # noqa: E402
from django.utils import timezone  # noqa: E402

from billing import ledger  # noqa: E402
from billing.entries import Batch  # noqa: E402
from billing.models import ApiKey, BudgetWindow, Reservation, UsageRecord  # noqa: E402
from gateway.identifiers import new_attempt_id  # noqa: E402
from tests.billing.holds import new_claim, new_hold, new_settlement  # noqa: E402
from tests.scale import world  # noqa: E402

LIMIT_MS = 300
GROUPS = ("day", "team", "key", "model", "cluster")
PERIODS = ("today", "7d", "30d", "month", "last_month")


def usage_pages(*, now):
    year = f"period=custom&from={now - timedelta(days=364):%Y-%m-%d}&to={now:%Y-%m-%d}"
    key_id = world.key_id_of(7)
    for group in GROUPS:
        for period in PERIODS:
            yield f"/usage/?period={period}&group={group}"
        yield f"/usage/?{year}&group={group}"
        yield f"/usage.csv?{year}&group={group}"
    yield f"/usage/?{year}&group=model&key={key_id}"
    yield f"/usage/?{year}&group=day&team=team-03"
    yield f"/usage/?{year}&group=hour"
    yield "/usage-attempts.csv?period=today"
    yield "/usage-focus.csv?period=30d"


def ledger_pages():
    latest = UsageRecord.objects.order_by("-settled_at").first()
    reservation = Reservation.objects.order_by("-attempt_id").first()
    window = BudgetWindow.objects.order_by("id").first()
    usage, reservations = "/admin/billing/usagerecord/", "/admin/billing/reservation/"
    yield usage
    yield f"{usage}?p=2"
    yield f"{usage}?p=100"
    yield f"{usage}?q={latest.request_id}"
    yield f"{usage}?q={latest.attempt_id}"
    yield f"{usage}?q={world.key_id_of(7)}"
    yield f"{usage}?q=nobody"
    for outcome in ("ok", "failed", "in_doubt"):
        yield f"{usage}?outcome={outcome}"
    yield f"{usage}{latest.attempt_id}/change/"
    yield reservations
    yield f"{reservations}?p=2"
    for state in ("held", "in_doubt", "settled", "void"):
        yield f"{reservations}?state={state}"
    yield f"{reservations}{reservation.attempt_id}/change/"
    for name in ("capacityhour", "budgetwindow", "budget", "apikey", "team", "organisation", "spendrollup"):
        yield f"/admin/billing/{name}/"
    if window is not None:
        yield f"/admin/billing/budget/{window.budget_id}/change/"
    yield f"/admin/billing/apikey/{ApiKey.objects.first().id}/change/"
    yield "/admin/"
    yield "/"


def timed_page(client, url, *, rounds):
    """Status, and milliseconds of each call, the body read to its end."""
    spans = []
    for _ in range(rounds + 1):
        started_s = time.perf_counter()
        response = client.get(url, HTTP_HOST="localhost")
        size = sum(map(len, response.streaming_content)) if response.streaming else len(response.content)
        spans.append((time.perf_counter() - started_s) * 1000)
    return response.status_code, size, spans


def measure_pages(*, rounds):
    user, _ = User.objects.get_or_create(username="scale", defaults={"is_staff": True, "is_superuser": True})
    client = Client(raise_request_exception=False)
    client.force_login(user)
    say(f"{'first':>8} {'median':>8} {'most':>8}  {'bytes':>9}  page")
    slow = []
    for url in (*usage_pages(now=timezone.now()), *ledger_pages()):  # noqa: TID251 -- the edge
        status, size, spans = timed_page(client, url, rounds=rounds)
        if status == 404:
            continue
        first, median, most = spans[0], statistics.median(spans[1:]), max(spans[1:])
        note = "" if status == 200 else f"  status {status}"
        say(f"{first:8.0f} {median:8.0f} {most:8.0f}  {size:9}  {url}{note}")
        if median > LIMIT_MS:
            slow.append(url)
    say(f"{len(slow)} pages take longer than {LIMIT_MS} ms")


def measure_settling(*, attempts):
    """Hold and settle, one at a time: what a request waits for beside a big ledger."""
    now, spans = timezone.now(), {"hold": [], "settle": []}  # noqa: TID251 -- the edge
    claim = new_claim(limit_nanousd=10**15, budget=uuid.uuid4().int)
    for _ in range(attempts):
        hold = new_hold(
            held_nanousd=10**6,
            claims=[claim],
            at=now,
            attempt_id=new_attempt_id(now_ms=int(now.timestamp() * 1000)),
        )
        for name, batch in (
            ("hold", Batch(holds=[hold])),
            ("settle", Batch(settlements=[new_settlement(hold, input_tokens=9, at=now)])),
        ):
            started_s = time.perf_counter()
            ledger.commit(batch)
            spans[name].append((time.perf_counter() - started_s) * 1000)
    for name, found in spans.items():
        cuts = statistics.quantiles(found, n=100)
        say(f"{name:8} p50 {cuts[49]:.2f} ms, p99 {cuts[98]:.2f} ms, most {max(found):.2f} ms")


def say(text):
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--attempts", type=int, default=500, help="held and settled at the end")
    arguments = parser.parse_args()
    say(f"{UsageRecord.objects.count()} usage rows, {settings.DATABASES[settings.LEDGER_DATABASE]['ENGINE']}")
    measure_pages(rounds=arguments.rounds)
    measure_settling(attempts=arguments.attempts)


if __name__ == "__main__":
    main()
