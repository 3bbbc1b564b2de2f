"""Looks at the whole installation and says what is wrong, what is only worth knowing, and what to do."""

import platform
import shutil
import sqlite3
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from statistics import median

import django
import redis
from celery import Celery
from django.conf import settings
from django.core.checks import WARNING, Tags, run_checks
from django.db import DEFAULT_DB_ALIAS, connections
from redis.backoff import NoBackoff
from redis.retry import Retry

from billing import grants, overview
from clusters.report import ClusterReport, report_clusters
from gateway import embedded_valkey, preflight
from gateway.fleet import FleetSnapshot, load_snapshot
from gateway.glance import load_glance
from gateway.preflight import PreflightError

OK, INFO, WARN, FAIL = "ok", "info", "warn", "fail"
DISK_BYTES_MIN = 200 * 1024 * 1024
DISK_BYTES_WARN = 2 * 1024 * 1024 * 1024
KEY_CHARACTERS_MIN = 16
CLOCK_SKEW_S_MAX = 5
WEB_TIMEOUT_S = 3
STORE_TIMEOUT_S = 2
WORKER_TIMEOUT_S = 2  # each look takes all of it: nobody knows how many workers there are
BEAT_LOOKS_MAX = 4
BEAT_TASK = "clusters.tasks.probe_due_clusters"
WEB_BYTES_MAX = 4 * 1024 * 1024
NAMES_MAX = 5
# Of Django's checks: what settings.HTTPS sets, DEBUG, and a secret key that is weak.
HTTPS_CHECKS = {f"security.{number}" for number in ("W004", "W005", "W008", "W012", "W016", "W021")}
DEBUG_CHECK, SECRET_KEY_CHECK = "security.W018", "security.W009"


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing that was looked at; `status` is ok, info, warn or fail, and `text` says what to do."""

    status: str
    subject: str
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Patient:
    """Where to look: the data folder, the web process, our clock, and whether clusters are asked."""

    data_dir: Path
    web_url: str
    clock: Callable[[], datetime]
    is_probing: bool


def examine(patient: Patient) -> list[Finding]:
    """All findings, machine first. What needs the database is left out where that cannot be read."""
    findings = [
        *_guarded(preflight.check_python, sys.version_info[:3], subject="Python", good=_versions()),
        *_data_folder(patient.data_dir),
        *_secret_strength(),
        *_deployment(),
        *_databases(),
    ]
    if any(finding.status == FAIL and finding.subject == "Database" for finding in findings):
        return [*findings, Finding(status=INFO, subject="Rest", text="Not looked at: it is in the database.")]
    now = patient.clock()
    reports = report_clusters(now=now, is_probing=patient.is_probing)
    store_url = settings.REDIS_URL or embedded_valkey.running_url(data_dir=patient.data_dir)
    return [
        *findings,
        *_ledger(),
        *_store(store_url),
        *_web(patient.web_url),
        *_clock(reports, store_url=store_url, clock=patient.clock),
        *_clusters(reports),
        *_notices(reports, now=now),
        *_models(load_snapshot(now=now, now_s=0.0)),
        *_budgets(),
    ]


def _guarded(check: Callable[..., None], *arguments: object, subject: str, good: str) -> Iterator[Finding]:
    """A preflight's refusal as a finding."""
    try:
        check(*arguments)
    except PreflightError as error:
        yield Finding(status=FAIL, subject=subject, text=str(error))
    else:
        yield Finding(status=OK, subject=subject, text=good)


def _versions() -> str:
    return f"Python {platform.python_version()}, Django {django.__version__}, SQLite {sqlite3.sqlite_version}"


def _data_folder(data_dir: Path) -> Iterator[Finding]:
    checked = list(
        _guarded(preflight.check_data_dir, data_dir, subject="Data folder", good=f"{data_dir} is writable")
    )
    yield from checked
    if checked[0].status == FAIL:
        return
    free = shutil.disk_usage(data_dir).free
    text = f"{free / 1024**3:.1f} GiB are free where {data_dir} is"
    if free < DISK_BYTES_WARN:
        status = FAIL if free < DISK_BYTES_MIN else WARN
        yield Finding(status=status, subject="Disk", text=f"{text}: make room, the ledger is written there")
    else:
        yield Finding(status=OK, subject="Disk", text=text)


def _secret_strength() -> Iterator[Finding]:
    short = [key for key in settings.ENCRYPTION_KEYS if 0 < len(key.strip()) < KEY_CHARACTERS_MIN]
    if not any(key.strip() for key in settings.ENCRYPTION_KEYS):
        text = "none is set: set GATEWAY_ENCRYPTION_KEYS, newest first"
        yield Finding(status=FAIL, subject="Encryption keys", text=text)
    elif short:
        yield Finding(
            status=FAIL,
            subject="Encryption keys",
            text=f"{len(short)} have fewer than {KEY_CHARACTERS_MIN} characters: put a new one first "
            "(`manage.py rotate_secrets --new-key`), then seal all secrets anew (`rotate_secrets`)",
        )
    else:
        yield Finding(status=OK, subject="Encryption keys", text="long enough")
    yield from _guarded(
        lambda: preflight.check_master_key(
            settings.MASTER_KEY, characters_min=settings.MASTER_KEY_CHARACTERS_MIN
        ),
        subject="Master key",
        good="long enough" if settings.MASTER_KEY else "not set: LiteLLM's key management is off",
    )


def _deployment() -> Iterator[Finding]:
    """Django's own checks before a deployment: DEBUG, the secret key, cookies, HTTPS."""
    found = {
        message.id or "": " ".join(str(message.msg).split())
        for message in run_checks(include_deployment_checks=True, tags=[Tags.security])
        if message.level >= WARNING and not message.is_silenced()
    }
    if settings.DEBUG:
        text = "it is on, and shows settings to whoever causes an error: unset it"
        yield Finding(status=FAIL, subject="DEBUG", text=text)
    if not settings.HTTPS:
        text = "cookies and redirects do without it: set GATEWAY_HTTPS=1 once TLS is in front"
        yield Finding(status=WARN, subject="HTTPS", text=text)
    told = HTTPS_CHECKS if not settings.HTTPS else set()
    for check_id in sorted(found.keys() - told - {DEBUG_CHECK}):
        status = FAIL if check_id == SECRET_KEY_CHECK else WARN
        yield Finding(status=status, subject="Deployment", text=f"{found[check_id]} ({check_id})")


def _databases() -> Iterator[Finding]:
    checked = list(_guarded(preflight.check_databases, subject="Database", good=_database_versions()))
    if checked[0].status == OK:
        checked = list(_guarded(preflight.check_migrations, subject="Database", good=checked[0].text))
    yield from checked


def _database_versions() -> str:
    return "reachable and migrated: " + ", ".join(
        f"{alias} ({connections[alias].vendor})" for alias in connections
    )


def _ledger() -> Iterator[Finding]:
    problem = grants.rights_problem()
    if problem:
        yield Finding(status=FAIL, subject="Ledger", text=problem)
    elif connections[settings.LEDGER_DATABASE].vendor == "postgresql" and grants.may_delete_usage():
        text = (
            "this role may also delete usage rows: `manage.py ledger_grants` gives web processes fewer rights"
        )
        yield Finding(status=INFO, subject="Ledger", text=text)
    else:
        yield Finding(status=OK, subject="Ledger", text="usage rows can be added, never changed")


def _store(url: str) -> Iterator[Finding]:
    if not url:
        yield Finding(
            status=FAIL,
            subject="Valkey",
            text="no REDIS_URL is set and no embedded Valkey answers here, so no worker can be reached: "
            "start `manage.py up`, or set REDIS_URL",
        )
        return
    if not embedded_valkey.is_answering(url):
        text = (
            "it does not answer: start it, or correct REDIS_URL. Until then each process counts limits alone"
        )
        yield Finding(status=FAIL, subject="Valkey", text=text)
        return
    yield Finding(status=OK, subject="Valkey", text="answers")
    yield from _workers(url)


def _workers(url: str) -> Iterator[Finding]:
    """Workers say how often they got each task; what beat sends every other second has to become more."""
    workers_count, tick_counts = 0, []
    app = Celery("doctor", broker=url.replace("unix://", "redis+socket://", 1))
    try:
        for _ in range(BEAT_LOOKS_MAX):
            answers = app.control.inspect(timeout=WORKER_TIMEOUT_S).stats() or {}
            workers_count = len(answers)
            tick_counts.append(sum(told["total"].get(BEAT_TASK, 0) for told in answers.values()))
            if not answers or tick_counts[-1] > tick_counts[0]:
                break
    finally:
        app.close()
    if not workers_count:
        text = "none answers, so no cluster is probed: start `manage.py up`, or a worker and beat"
        yield Finding(status=FAIL, subject="Worker", text=text)
        return
    yield Finding(status=OK, subject="Worker", text=f"{workers_count} answer")
    if tick_counts[-1] > tick_counts[0]:
        yield Finding(status=OK, subject="Beat", text="sends what is due")
    else:
        text = "sends nothing to the worker, so no cluster is probed: start `manage.py up`, or celery beat"
        yield Finding(status=FAIL, subject="Beat", text=text)


def _web(url: str) -> Iterator[Finding]:
    try:
        with urllib.request.urlopen(f"{url}/metrics", timeout=WEB_TIMEOUT_S) as answer:  # noqa: S310 -- ours
            told = _gauges(answer.read(WEB_BYTES_MAX).decode(errors="replace"))
    except (urllib.error.URLError, OSError, ValueError) as error:
        reason = str(getattr(error, "reason", error))
        text = f"none answers at {url} ({reason}): start `manage.py serve`, or name it by --url"
        yield Finding(status=FAIL, subject="Web process", text=text)
        return
    if told.get("gateway_snapshot_stale", 0.0) > 0:
        age_s = told.get("gateway_snapshot_age_seconds", 0.0)
        text = f"it last read the control plane {age_s:.0f} s ago: see its log for the database's error"
        yield Finding(status=FAIL, subject="Web process", text=text)
    else:
        yield Finding(status=OK, subject="Web process", text=f"answers at {url}, its snapshot is fresh")


def _gauges(exposition: str) -> dict[str, float]:
    lines = (line.split() for line in exposition.splitlines() if line.startswith("gateway_snapshot_"))
    return {parts[0]: float(parts[1]) for parts in lines if len(parts) == 2}


def _clock(
    reports: Iterable[ClusterReport], *, store_url: str, clock: Callable[[], datetime]
) -> Iterator[Finding]:
    """Against the store's, PostgreSQL's and the middle one of the clusters' clocks."""
    skews: dict[str, float | None] = {
        "the store": _store_skew_s(store_url, clock=clock),
        "PostgreSQL": _postgres_skew_s(clock=clock),
    }
    seen = [report.clock_skew_s for report in reports if report.clock_skew_s is not None]
    if len(seen) > 1:
        skews["most clusters"] = median(seen)
    for who, skew_s in skews.items():
        if skew_s is not None and abs(skew_s) > CLOCK_SKEW_S_MAX:
            which = "behind" if skew_s > 0 else "ahead of"
            text = f"this machine's is {abs(skew_s):.0f} s {which} that of {who}: set both by NTP"
            yield Finding(status=WARN, subject="Clock", text=text)


def _store_skew_s(url: str, *, clock: Callable[[], datetime]) -> float | None:
    if not url:
        return None
    client = redis.Redis.from_url(
        url,
        socket_timeout=STORE_TIMEOUT_S,
        socket_connect_timeout=STORE_TIMEOUT_S,
        retry=Retry(NoBackoff(), retries=0),
    )
    try:
        seconds, microseconds = client.time()
    except redis.RedisError:
        return None
    finally:
        client.close()
    return float(seconds + microseconds / 1e6 - clock().timestamp())


def _postgres_skew_s(*, clock: Callable[[], datetime]) -> float | None:
    connection = connections[DEFAULT_DB_ALIAS]
    if connection.vendor != "postgresql":
        return None
    with connection.cursor() as cursor:
        cursor.execute("SELECT extract(epoch FROM clock_timestamp())")
        return float(cursor.fetchone()[0]) - clock().timestamp()


def _clusters(reports: Iterable[ClusterReport]) -> Iterator[Finding]:
    reports = [report for report in reports if report.state != "disabled"]
    if not reports:
        text = "there is none in use: add one in Admin > Clusters, or by `manage.py import_config`"
        yield Finding(status=FAIL, subject="Clusters", text=text)
        return
    for report in reports:
        status = WARN if report.is_usable else FAIL
        for text in report.advice:
            yield Finding(status=status, subject=f"Cluster {report.name}", text=text)
    usable = sum(report.is_usable for report in reports)
    text = f"{usable} of {len(reports)} can serve; `manage.py check_clusters` shows each"
    yield Finding(status=OK if usable else FAIL, subject="Clusters", text=text)


def _notices(reports: Iterable[ClusterReport], *, now: datetime) -> Iterator[Finding]:
    """What the console's first page tells: the prober, budgets, money in doubt; clusters were told above."""
    names = {report.name for report in reports}
    for notice in load_glance(gateway=None, now=now).notices:
        if notice.subject not in names:
            yield Finding(
                status=FAIL if notice.kind == "bad" and notice.subject != "Budget" else WARN,
                subject=notice.subject,
                text=notice.text,
            )


def _models(snapshot: FleetSnapshot) -> Iterator[Finding]:
    """What cannot be asked for, or is served as if it were free."""
    nowhere = sorted(
        model for model, plan in snapshot.fleet.routes.items() if not plan.candidates and not plan.fallbacks
    )
    if nowhere:
        text = (
            f"{_shortened(nowhere)}: no cluster serves what the route names; correct it, or add a deployment"
        )
        yield Finding(status=FAIL, subject="Routes", text=text)
    deployments = [target.deployment for target in snapshot.targets.values()]
    unpriced = sorted(
        f"{deployment.model} on {deployment.cluster}"
        for deployment in deployments
        if deployment.billing == "metered" and deployment.rate is None
    )
    if unpriced:
        text = (
            f"{_shortened(unpriced)}: no price, so what it serves is booked as free, and hard budgets do not "
            "use it; add prices in Admin > Prices, or by `manage.py import_prices`"
        )
        yield Finding(status=WARN, subject="Prices", text=text)
    if not nowhere and not unpriced:
        count = len(snapshot.fleet.routes)
        yield Finding(
            status=OK, subject="Models", text=f"{count} can be asked for, each priced where it is metered"
        )


def _budgets() -> Iterator[Finding]:
    owners = overview.load_unwarned_owners()
    if owners:
        text = f"{_shortened(owners)}: nobody is told when it runs out; name an e-mail address or a webhook"
        yield Finding(status=INFO, subject="Budgets", text=text)


def _shortened(names: Iterable[str]) -> str:
    names = list(names)
    more = len(names) - NAMES_MAX
    return ", ".join(names[:NAMES_MAX]) + (f" and {more} more" if more > 0 else "")
