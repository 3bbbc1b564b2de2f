import subprocess
import tempfile
import threading
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from celery import Celery
from celery.contrib.testing.worker import start_worker
from django.conf import settings
from django.db import connections

from billing import budgets, keys
from billing.models import Budget
from clusters import inventory
from clusters.demo.standin import StandinSettings
from clusters.health import Observation
from clusters.models import Deployment, Route
from gateway import doctor
from gateway.doctor import Finding, Patient, examine
from gateway.embedded_valkey import is_answering, plan_server, running_url
from tests.clusters.rows import add_cluster
from tests.fakes.standin_server import run_standin

FRESH = b"gateway_snapshot_age_seconds 0.2\ngateway_snapshot_stale 0.0\n"
STALE = b"gateway_snapshot_age_seconds 71.0\ngateway_snapshot_stale 1.0\n"
IDLE_TASK = "tests.idle"  # not the real one, which would probe
pytestmark = pytest.mark.django_db(databases="__all__", transaction=True)


def wall_clock():
    return datetime.now(UTC)  # noqa: TID251 -- compared with other clocks


def examined(data_dir, *, web_url="http://127.0.0.1:9", clock=wall_clock, is_probing=False):
    patient = Patient(data_dir=data_dir, web_url=web_url, clock=clock, is_probing=is_probing)
    return examine(patient)


def told(findings, subject):
    return [(finding.status, finding.text) for finding in findings if finding.subject == subject]


@contextmanager
def web_process(exposition):
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.end_headers()
            self.wfile.write(exposition if self.path == "/metrics" else b"")

        def log_message(self, format, *args):  # noqa: A002 -- the base class's name
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture
def valkey_dir():
    """A data folder with a running Valkey, its path short enough for a socket."""
    with tempfile.TemporaryDirectory(prefix="tg-", dir="/tmp") as folder:
        plan = plan_server(data_dir=Path(folder))
        with subprocess.Popen(plan.argv, stdout=subprocess.DEVNULL) as process:
            while not is_answering(plan.url):
                assert process.poll() is None
            yield Path(folder)
            process.terminate()


def test_bare_installation_is_told_what_it_lacks(tmp_path):
    findings = examined(tmp_path)

    failing = {finding.subject: finding.text for finding in findings if finding.status == "fail"}
    assert failing == {
        "Valkey": "no REDIS_URL is set and no embedded Valkey answers here, so no worker can be reached: "
        "start `manage.py up`, or set REDIS_URL",
        "Web process": "none answers at http://127.0.0.1:9 ([Errno 111] Connection refused): start "
        "`manage.py serve`, or name it by --url",
        "Clusters": "there is none in use: add one in Admin > Clusters, or by `manage.py import_config`",
    }
    assert told(findings, "HTTPS") == [
        ("warn", "cookies and redirects do without it: set GATEWAY_HTTPS=1 once TLS is in front")
    ]
    # On PostgreSQL the tests' role may delete usage rows, which is worth knowing.
    [(status, _)] = told(findings, "Ledger")
    assert (status, told(findings, "Database")[0][0]) in {("ok", "ok"), ("info", "ok")}


def test_installation_that_serves_has_no_failure_but_its_missing_worker(valkey_dir):
    with run_standin(StandinSettings()) as standin, web_process(FRESH) as url:
        add_cluster(endpoint=standin.url, tokens_per_s=10)
        findings = examined(valkey_dir, web_url=url, is_probing=True)

    assert [finding for finding in findings if finding.status in {"warn", "fail"}] == [
        Finding(
            status="warn",
            subject="HTTPS",
            text="cookies and redirects do without it: set GATEWAY_HTTPS=1 once TLS is in front",
        ),
        Finding(
            status="fail",
            subject="Worker",
            text="none answers, so no cluster is probed: start `manage.py up`, or a worker and beat",
        ),
    ]
    assert told(findings, "Models") == [("ok", "1 can be asked for, each priced where it is metered")]


@contextmanager
def worker_of(url):
    """A real worker, in a thread of its own, whose tasks do nothing."""
    app = Celery("probed", broker=url.replace("unix://", "redis+socket://", 1), set_as_current=False)

    @app.task(name=IDLE_TASK, shared=False)
    def probe_nothing():
        pass

    with start_worker(app, pool="solo", perform_ping_check=False, shutdown_timeout=20):
        while not app.control.ping(timeout=0.2):
            assert is_answering(url)
        yield app


def test_task_that_is_counted_is_one_that_beat_sends():
    assert doctor.BEAT_TASK in {each["task"] for each in settings.CELERY_BEAT_SCHEDULE.values()}


def test_worker_without_beat_is_a_failure(valkey_dir, monkeypatch):
    monkeypatch.setattr(doctor, "WORKER_TIMEOUT_S", 1)
    monkeypatch.setattr(doctor, "BEAT_TASK", IDLE_TASK)
    url = running_url(data_dir=valkey_dir)

    with worker_of(url):
        findings = examined(valkey_dir)

    assert told(findings, "Worker") == [("ok", "1 answer")]
    assert told(findings, "Beat") == [
        ("fail", "sends nothing to the worker, so no cluster is probed: start `manage.py up`, or celery beat")
    ]


def test_beat_is_known_by_what_workers_get(valkey_dir, monkeypatch):
    monkeypatch.setattr(doctor, "WORKER_TIMEOUT_S", 1)
    monkeypatch.setattr(doctor, "BEAT_TASK", IDLE_TASK)
    over = threading.Event()

    def beat(app):
        while not over.wait(0.2):
            app.send_task(IDLE_TASK)

    with worker_of(running_url(data_dir=valkey_dir)) as app:
        thread = threading.Thread(target=beat, args=(app,))
        thread.start()
        findings = examined(valkey_dir)
        over.set()
        thread.join()

    assert told(findings, "Beat") == [("ok", "sends what is due")]


def test_stale_snapshot_is_a_failure(tmp_path):
    with web_process(STALE) as url:
        findings = examined(tmp_path, web_url=url)

    assert told(findings, "Web process") == [
        ("fail", "it last read the control plane 71 s ago: see its log for the database's error")
    ]


@pytest.mark.parametrize(("apart_s", "which"), [(60, "ahead of"), (-60, "behind")])
def test_clock_is_compared_with_the_stores(valkey_dir, apart_s, which):
    findings = examined(valkey_dir, clock=lambda: wall_clock() + timedelta(seconds=apart_s))

    assert told(findings, "Clock")[0] == (
        "warn",
        f"this machine's is 60 s {which} that of the store: set both by NTP",
    )


def test_clusters_that_cannot_serve_fail_and_the_others_are_looked_at(tmp_path):
    add_cluster(name="refusing", auth_type="bearer")
    well = add_cluster(name="well", cost_per_hour_nanousd=0, tokens_per_s=10)
    inventory.save_record(record=Deployment(cluster=well, model="llama"))
    observation = Observation(is_healthy=True)
    inventory.record_health(cluster_id=well.id, observation=observation, now=wall_clock())

    findings = examined(tmp_path)

    assert told(findings, "Cluster refusing") == [
        ("fail", "no live bearer token is stored: add one in Admin > Clusters"),
    ]
    assert told(findings, "Cluster well") == [("warn", "it has no cost per hour: its tokens count as free")]
    assert told(findings, "Clusters") == [("ok", "1 of 2 can serve; `manage.py check_clusters` shows each")]


def test_models_without_price_or_cluster_are_named(tmp_path):
    provider = add_cluster(name="maker", kind="provider", endpoint="https://api.example")
    inventory.save_record(record=Deployment(cluster=provider, model="large"))
    inventory.save_record(record=Route(model="smart", candidates=["gone"]))

    findings = examined(tmp_path)

    assert told(findings, "Routes") == [
        ("fail", "smart: no cluster serves what the route names; correct it, or add a deployment")
    ]
    text = (
        "large on maker: no price, so what it serves is booked as free, and hard budgets do not use it; "
        "add prices in Admin > Prices, or by `manage.py import_prices`"
    )
    assert told(findings, "Prices") == [("warn", text)]


def test_weak_keys_and_debug_fail(tmp_path, settings):
    settings.ENCRYPTION_KEYS = ["short", "x" * 16]
    settings.MASTER_KEY = "sk-1234"
    settings.SECRET_KEY = "x" * 20
    settings.DEBUG = True

    findings = examined(tmp_path)

    failing = [finding.subject for finding in findings if finding.status == "fail"]
    assert failing[:4] == ["Encryption keys", "Master key", "DEBUG", "Deployment"]
    assert "security.W009" in told(findings, "Deployment")[0][1]


def test_full_disk_fails(tmp_path, monkeypatch):
    monkeypatch.setattr(doctor, "DISK_BYTES_MIN", 1 << 60)
    monkeypatch.setattr(doctor, "DISK_BYTES_WARN", 1 << 61)

    [(status, text)] = told(examined(tmp_path), "Disk")

    assert status == "fail"
    assert text.endswith("make room, the ledger is written there")


@contextmanager
def without_trigger():
    """Rows of the ledger can be changed."""
    connection = connections[settings.LEDGER_DATABASE]
    with connection.cursor() as cursor:
        if connection.vendor == "postgresql":
            off = "ALTER TABLE billing_usagerecord DISABLE TRIGGER usage_append_only"
            on = "ALTER TABLE billing_usagerecord ENABLE TRIGGER usage_append_only"
        else:
            cursor.execute("SELECT sql FROM sqlite_master WHERE name = 'usage_append_only'")
            off, on = "DROP TRIGGER usage_append_only", cursor.fetchone()[0]
        cursor.execute(off)
        try:
            yield
        finally:
            cursor.execute(on)


def test_ledger_whose_rows_could_be_changed_fails(tmp_path):
    with without_trigger():
        findings = examined(tmp_path)

    text = (
        "the trigger usage_append_only of billing_usagerecord is gone or off, so rows could be changed: "
        "make it anew as billing's migration 0004 does"
    )
    assert told(findings, "Ledger") == [("fail", text)]


def test_budgets_that_warn_nobody_are_worth_knowing(tmp_path):
    organisation_id = keys.put_organisation(name="acme")
    team_id = keys.put_team(organisation_id=organisation_id, name="red")
    limit = {"window": "month", "limit_nanousd": 10, "is_hard": True}
    budgets.put_budget(organisation_id=organisation_id, **limit)
    budget_id = budgets.put_budget(team_id=team_id, **limit)
    Budget.objects.filter(id=budget_id).update(warning_emails=["red@example.com"])

    assert told(examined(tmp_path), "Budgets") == [
        ("info", "organisation acme: nobody is told when it runs out; name an e-mail address or a webhook")
    ]
