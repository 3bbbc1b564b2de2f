"""The control plane and the ledger as a process of their own, on the databases of the gateway under test.

The tests' own process has other databases. `python -m tests.e2e.control` migrates, says `ready`, and
then answers a line of JSON with a line of JSON: {"call": name, "arguments": {...}}.
"""

import os
import sys
import time
import traceback
from datetime import UTC, datetime, timedelta
from uuid import UUID

import django
import orjson

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "gateway.settings")
django.setup()

from django.conf import settings  # noqa: E402 -- apps first
from django.contrib.auth import BACKEND_SESSION_KEY, HASH_SESSION_KEY, SESSION_KEY  # noqa: E402
from django.contrib.auth.models import User  # noqa: E402
from django.contrib.sessions.backends.db import SessionStore  # noqa: E402
from django.core.management import call_command  # noqa: E402
from django.db import connections  # noqa: E402
from django.forms import model_to_dict  # noqa: E402

from billing import keys, prices  # noqa: E402
from billing.budgets import override_budget, put_budget  # noqa: E402
from billing.experiment_report import load_sums  # noqa: E402
from billing.models import (  # noqa: E402
    ApiKey,
    Budget,
    BudgetWindow,
    Reservation,
    SpendRollup,
    Team,
    UsageRecord,
)
from billing.placements import PlacementWords  # noqa: E402
from clusters import catalogue, experiments, inventory, monitor, waking  # noqa: E402
from clusters.health import Observation  # noqa: E402
from clusters.models import Cluster, Route, Waking  # noqa: E402
from gateway import experiment_guard  # noqa: E402
from routing.cost import cost_nanousd  # noqa: E402
from routing.types import Rate, Usage  # noqa: E402

QUIET_S_MAX = 8.0
POLL_S = 0.02
PROBES = 2
ROLLUP_SUMS = (
    "requests",
    "failures",
    "estimates",
    "input_tokens",
    "cache_read_tokens",
    "output_tokens",
    "cost_nanousd",
)


def now():
    return datetime.now(UTC)  # noqa: TID251 -- a program of its own: an edge


# --- Writes, through the packages' own doors.


def add_cluster(*, name, values, model, deployment, price, secret, certificates=None):
    """A cluster with one deployment; `price` is (input, output) in micro-USD per million tokens.

    `secret` are secrets of its authentication by label, `certificates` what TLS needs by purpose.
    """
    catalogue.put_cluster(name=name, values=values)
    for label, text in (secret or {}).items():
        catalogue.put_secret(cluster_name=name, purpose=values["auth_type"], plaintext=text, label=label)
    for purpose, pem in (certificates or {}).items():
        catalogue.put_secret(cluster_name=name, purpose=purpose, plaintext=pem, label="test")
    catalogue.put_deployment(cluster_name=name, model=model, values=deployment)
    if price:
        # A price that comes into force while the gateway reads waits for its next look.
        set_price(cluster_name=name, model=model, price=price, since_s=60)


def set_price(*, cluster_name, model, price, since_s=0):
    prices.put_price(
        model=model,
        cluster_name=cluster_name,
        input_microusd_per_mtok=price[0],
        output_microusd_per_mtok=price[1],
        effective_at=now() - timedelta(seconds=since_s),
        source="test",
    )


def add_route(*, model, candidates, fallbacks=(), **values):
    models = {"candidates": list(candidates), "fallbacks": list(fallbacks)}
    catalogue.put_route(model=model, values={**models, **values})


def add_deployment(*, cluster, model, context_window):
    catalogue.put_deployment(cluster_name=cluster, model=model, values={"context_window": context_window})


def add_experiment(*, name, route, arms, **values):
    """A running one; `arms` are (model, weight)."""
    listed = [{"model": model, "weight": weight} for model, weight in arms]
    catalogue.put_experiment(name=name, route=route, values={"arms": listed, **values})
    experiments.start_experiment(name=name, now=now())


def get_experiment(*, name):
    view = experiments.get_experiment(name=name)
    return {"state": view.state, "stopped_reason": view.stopped_reason}


def guard_experiments():
    """What beat does each minute."""
    return list(experiment_guard.check_experiments(now=now()))


def arm_sums(*, name):
    return load_sums(experiment=name)


def set_cluster_state(*, name, state):
    inventory.set_cluster_state(cluster_id=Cluster.objects.get(name=name).id, state=state)


def set_cluster_health(*, name, is_healthy):
    """What so many probes in a row would leave, as the prober books them."""
    cluster_id = Cluster.objects.get(name=name).id
    observation = Observation(is_healthy=is_healthy, reason="" if is_healthy else "as the test wants it")
    for _ in range(PROBES):
        inventory.record_health(cluster_id=cluster_id, observation=observation, now=now())


def put_wake_secret(*, cluster, secret):
    catalogue.put_secret(cluster_name=cluster, purpose="wake", plaintext=secret, label="test")


def tick():
    """What beat does every other second; gives back the clusters whose hooks took a call."""
    monitor.probe_due_clusters(now=now())
    return waking.wake_due_clusters(now=now(), clock=now)


def open_staff_session():
    """The cookie of an administrator's session in the admin."""
    user, _ = User.objects.get_or_create(username="watcher", is_staff=True, is_superuser=True)
    session = SessionStore()
    session[SESSION_KEY] = str(user.pk)
    session[BACKEND_SESSION_KEY] = settings.AUTHENTICATION_BACKENDS[0]
    session[HASH_SESSION_KEY] = user.get_session_auth_hash()
    session.create()
    return f"{settings.SESSION_COOKIE_NAME}={session.session_key}"


def put_administrator(*, username, password):
    User.objects.create_superuser(username=username, password=password)


def put_warnings(*, key_id, webhook, email):
    """Who is told from one percent on of what the key's budgets allow."""
    Budget.objects.filter(key_id=UUID(key_id)).update(
        warning_percents=[1], warning_webhook=webhook, warning_emails=[email]
    )


def get_cluster(*, name):
    cluster = Cluster.objects.get(name=name)
    woken = Waking.objects.filter(cluster=cluster).first() or Waking()
    return {"temperature": cluster.temperature, **model_to_dict(cluster), "woken": model_to_dict(woken)}


def issue_key(*, name, team, team_weight=1, budgets=(), expires_in_s=None, placement=None, **limits):
    """A key of a team of that name; each budget is {limit_nanousd, window, is_hard}."""
    organisation_id = keys.put_organisation(name="tests")
    team_id = keys.put_team(organisation_id=organisation_id, name=team)
    if team_weight != 1:
        record = Team.objects.get(id=team_id)
        record.weight = team_weight
        keys.save_record(record=record)
    expires_at = None
    if expires_in_s is not None:
        expires_at = now() + timedelta(seconds=expires_in_s)
    placement = PlacementWords(**(placement or {}))
    issued = keys.issue_key(team_id=team_id, name=name, expires_at=expires_at, placement=placement, **limits)
    for budget in budgets:
        put_budget(key_id=issued.id, **budget)
    return {"id": issued.id, "key": issued.key, "name": name}


def override_budgets(*, key_id, limit_nanousd, for_s):
    """Another limit for each of the key's own budgets, for so many seconds."""
    until = now() + timedelta(seconds=for_s)
    for budget in Budget.objects.filter(key_id=UUID(key_id)):
        override_budget(
            budget_id=budget.id, limit_nanousd=limit_nanousd, until=until, reason="test", now=now()
        )


def revoke_key(*, key_id):
    keys.revoke_key(key_id=UUID(key_id), now=now())


def forget(*, clusters, routes):
    inventory.delete_records(
        records=[*Cluster.objects.filter(name__in=clusters), *Route.objects.filter(model__in=routes)]
    )


# --- Reads.


def key_id_of(*, token):
    """The id of the key with this SHA-256."""
    return ApiKey.objects.get(digest=token).id


def load_rows(*, key_id):
    """The key's usage rows, oldest first."""
    rows = UsageRecord.objects.filter(key_id=UUID(key_id)).order_by("attempt_id")
    return [model_to_dict(row) for row in rows]


def load_reservations(*, key_id):
    reservations = Reservation.objects.filter(attribution__key_id=key_id).order_by("attempt_id")
    return [model_to_dict(reservation) for reservation in reservations]


def load_windows(*, key_id):
    """What the windows of the key's own budgets say, with each budget's limit."""
    budgets = {budget.id: budget for budget in Budget.objects.filter(key_id=UUID(key_id))}
    windows = BudgetWindow.objects.filter(budget_id__in=budgets).order_by("id")
    return [
        {
            "limit_nanousd": budgets[window.budget_id].limit_nanousd,
            "spent_nanousd": window.spent_nanousd,
            "held_nanousd": window.held_nanousd,
        }
        for window in windows
    ]


# --- What must hold of any key once nothing runs any more.


def audit(*, key_ids):
    """Wait until none of the keys has an open reservation; then say what of the ledger does not add up."""
    deadline_s = time.monotonic() + QUIET_S_MAX
    while True:
        held = sum(
            Reservation.objects.filter(attribution__key_id=key_id, state="held").count() for key_id in key_ids
        )
        if not held or time.monotonic() > deadline_s:
            break
        time.sleep(POLL_S)
    return [problem for key_id in key_ids for problem in problems_of(key_id)]


def problems_of(key_id):
    rows = list(UsageRecord.objects.filter(key_id=UUID(key_id)))
    reservations = {r.attempt_id: r for r in Reservation.objects.filter(attribution__key_id=key_id)}
    name = ApiKey.objects.get(id=UUID(key_id)).name
    problems = [
        f"{name}: attempt {r.attempt_id} is still {r.state}"
        for r in reservations.values()
        if r.state not in {"settled", "void"}
    ]
    if sorted(row.attempt_id for row in rows) != sorted(reservations):
        problems.append(f"{name}: {len(rows)} rows for {len(reservations)} reservations")
    for row in rows:
        cost = cost_nanousd(usage=usage_of(row), rate=Rate(**row.rate))
        if (row.cost_nanousd + row.variance_nanousd, row.variance_nanousd >= 0) != (cost, True):
            problems.append(f"{name}: {row.attempt_id} costs {row.cost_nanousd}, by its rate {cost}")
        if row.cost_nanousd > row.held_nanousd:
            problems.append(f"{name}: {row.attempt_id} cost more than was held")
    return problems + rollup_problems(name, key_id, rows) + window_problems(name, key_id, rows)


def usage_of(row):
    return Usage(
        **{field: getattr(row, field) for field in Usage.__slots__ if field != "is_estimate"},
        is_estimate=row.is_estimate,
    )


def rollup_problems(name, key_id, rows):
    expected = {}
    for row in rows:
        group = (row.model, row.cluster)
        usage = usage_of(row)
        addition = {
            "requests": 1,
            "failures": int(row.outcome == "failed"),
            "estimates": int(row.is_estimate),
            "input_tokens": usage.input_tokens,
            "cache_read_tokens": row.cache_read_tokens,
            "output_tokens": usage.output_tokens,
            "cost_nanousd": row.cost_nanousd,
        }
        sums = expected.setdefault(group, dict.fromkeys(ROLLUP_SUMS, 0))
        for column in ROLLUP_SUMS:
            sums[column] += addition[column]
    found = {}
    for rollup in SpendRollup.objects.filter(key_id=UUID(key_id), period="hour"):
        sums = found.setdefault((rollup.model, rollup.cluster), dict.fromkeys(ROLLUP_SUMS, 0))
        for column in ROLLUP_SUMS:
            sums[column] += getattr(rollup, column)
    return [] if found == expected else [f"{name}: rollups {found} instead of {expected}"]


def window_problems(name, key_id, rows):
    spent = sum(row.cost_nanousd for row in rows)
    problems = []
    for budget in Budget.objects.filter(key_id=UUID(key_id)):
        windows = BudgetWindow.objects.filter(budget_id=budget.id)
        found = (sum(w.spent_nanousd for w in windows), sum(w.held_nanousd for w in windows))
        if found != (spent, 0):
            problems.append(f"{name}: budget window has spent, held {found} instead of {(spent, 0)}")
    return problems


CALLS = {
    function.__name__: function
    for function in (
        add_cluster,
        add_deployment,
        set_price,
        add_route,
        set_cluster_state,
        set_cluster_health,
        put_wake_secret,
        tick,
        get_cluster,
        open_staff_session,
        put_administrator,
        put_warnings,
        issue_key,
        override_budgets,
        revoke_key,
        forget,
        key_id_of,
        load_rows,
        load_reservations,
        load_windows,
        audit,
        add_experiment,
        get_experiment,
        guard_experiments,
        arm_sums,
    )
}


def answer(line):
    question = orjson.loads(line)
    try:
        return {"result": CALLS[question["call"]](**question["arguments"])}
    except Exception:  # noqa: BLE001 -- the edge: the test shows it
        return {"error": traceback.format_exc()}


def main():
    # What Django prints must not mix with the answers.
    answers, sys.stdout = sys.stdout, sys.stderr
    for alias in connections:
        call_command("migrate", database=alias, verbosity=0)
    # By average cost, so that a test's clusters are preferred in the order of their costs; routes may differ.
    # Nobody waits: most tests ask what happens at once where all is full.
    catalogue.put_router_settings(values={"policy": "cost", "queue_places_max": 0})
    answers.write("ready\n")
    answers.flush()
    for line in sys.stdin:
        answers.write(orjson.dumps(answer(line), default=str).decode() + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
