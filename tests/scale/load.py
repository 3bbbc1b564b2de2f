"""Fills an empty ledger with attempts, all its sums right: `python -m tests.scale.load --rows 10000000`.

Without DATABASE_URL it makes a folder and says its name: set GATEWAY_DATA_DIR to it to look at what was made.
The same rows each time but for --until, their last moment, which is this hour where nothing is said.
"""

import argparse
import contextlib
import os
import random
import sys
import tempfile
import time
from collections import defaultdict
from datetime import UTC, datetime, timedelta
from uuid import UUID

if "GATEWAY_DATA_DIR" not in os.environ:
    os.environ["GATEWAY_DATA_DIR"] = tempfile.mkdtemp(prefix="tollgate-scale-")
os.environ.setdefault("DJANGO_SETTINGS_MODULE", "gateway.settings")
os.environ.setdefault("LOG_LEVEL", "WARNING")

import django

django.setup()

import orjson  # noqa: E402 -- apps first
from django.conf import settings  # noqa: E402
from django.core.management import call_command  # noqa: E402
from django.db import connections  # noqa: E402
from django.utils import timezone  # noqa: E402

from billing import rollups  # noqa: E402
from billing.models import (  # noqa: E402
    ApiKey,
    Budget,
    BudgetWindow,
    CapacityHour,
    Organisation,
    Reservation,
    SpendRollup,
    Team,
    UsageRecord,
)
from billing.rollup_key import rollup_id  # noqa: E402
from billing.windows import window_of  # noqa: E402
from routing.capacity import split_cost  # noqa: E402
from tests.scale import world  # noqa: E402

DAYS = 390
HOUR = timedelta(hours=1)
HOURS_PER_BATCH = 24
OWNER = UUID(int=99).hex
LIMIT_NANOUSD = 10**15
SUMS = ("requests", "failures", "estimates", "input_tokens", "output_tokens", "cost_nanousd")
ROLLUP_COLUMNS = (
    "id",
    "period",
    "starts_at",
    "organisation",
    "team",
    "key_id",
    "key_name",
    "model",
    "cluster",
    "cluster_kind",
    "provider",
    *SUMS,
    "cache_read_tokens",
    "reported_cost_nanousd",
    "compared_cost_nanousd",
    "amortised_nanousd",
    "updated_at",
)
RESERVATION_COLUMNS = (
    "attempt_id",
    "request_id",
    "owner",
    "state",
    "held_nanousd",
    "windows",
    "attribution",
    "output_tokens_checkpoint",
    "created_at",
    "updated_at",
)
USAGE_COLUMNS = (
    "attempt_id",
    "request_id",
    "attempt_number",
    "started_at",
    "settled_at",
    "organisation",
    "team",
    "key_id",
    "key_name",
    "model",
    "served_model",
    "cluster",
    "cluster_kind",
    "provider",
    "surface",
    "is_stream",
    "outcome",
    "error_code",
    "input_fresh_tokens",
    "cache_read_tokens",
    "cache_write_5m_tokens",
    "cache_write_1h_tokens",
    "output_text_tokens",
    "reasoning_tokens",
    "audio_tokens",
    "input_audio_tokens",
    "input_image_tokens",
    "is_estimate",
    "rate",
    "held_nanousd",
    "cost_nanousd",
    "variance_nanousd",
    "service_tier",
    "ttft_ms",
    "duration_ms",
    "decision",
)


class Loader:
    def __init__(self, *, rows, until):
        self.hours = DAYS * 24
        self.per_hour = -(-rows // self.hours)
        self.rows = rows
        self.first_hour = until - HOUR * self.hours
        self.made = 0
        self.everybody = world.spenders()
        self.budgets = {}
        self.windows = defaultdict(int)
        self.spans = {}
        self.ids = {}

    def run(self):
        call_command("migrate", verbosity=0)
        for alias in settings.DATABASES:
            call_command("migrate", database=alias, verbosity=0)
        assert not Reservation.objects.exists(), "the ledger is not empty: nothing was loaded"
        self._make_accounts()
        sink = CopySink() if connections[settings.LEDGER_DATABASE].vendor == "postgresql" else InsertSink()
        with sink.without_indexes():
            for start in range(0, self.hours, HOURS_PER_BATCH):
                sink.write(*self._day(range(start, min(start + HOURS_PER_BATCH, self.hours))))
                if start % (HOURS_PER_BATCH * 30) == 0:
                    say(f"{self.made} attempts")
        BudgetWindow.objects.bulk_create(self._window_rows(), batch_size=500)
        say("folding days")
        while (
            rollups.fold_days(now=self.first_hour + HOUR * self.hours, again_from=None) and self._unfolded()
        ):
            pass
        sink.finish()

    def _unfolded(self):
        days = SpendRollup.objects.filter(period="day").order_by("-starts_at")
        hours = SpendRollup.objects.filter(period="hour").order_by("-starts_at")
        return days.first().starts_at.date() < hours.first().starts_at.date()

    def _make_accounts(self):
        for number in range(world.KEYS):
            organisation, _ = Organisation.objects.get_or_create(name=world.organisation_of(number))
            team, _ = Team.objects.get_or_create(name=world.team_of(number), organisation=organisation)
            key_id = world.key_id_of(number)
            ApiKey.objects.create(
                id=key_id, team=team, name=f"key-{number:03}", prefix="sk-scale", digest=key_id.hex
            )
            key_budget = Budget.objects.create(key_id=key_id, limit_nanousd=LIMIT_NANOUSD, window="month")
            team_budget = Budget.objects.filter(team=team).first() or Budget.objects.create(
                team=team, limit_nanousd=LIMIT_NANOUSD, window="total", is_hard=False
            )
            self.budgets[key_id] = (key_budget, team_budget)

    def _window_rows(self):
        return [
            BudgetWindow(
                id=window_id,
                budget_id=window_id.partition(":")[0],
                starts_at=self.spans[window_id].starts_at,
                ends_at=self.spans[window_id].ends_at,
                spent_nanousd=spent,
            )
            for window_id, spent in self.windows.items()
        ]

    def _day(self, hours):
        usage, reservations, rollup_rows, capacity = [], [], [], []
        for hour in hours:
            sums = self._hour(hour, usage, reservations)
            self._close(hour, sums, rollup_rows, capacity)
        return reservations, usage, rollup_rows, capacity

    def _hour(self, hour, usage, reservations):
        """The attempts of an hour, in the order of time; gives back the sums by spender."""
        draw = random.Random(hour)
        awake = world.spenders_of_hour(self.everybody, hour=hour)
        starts_at = self.first_hour + HOUR * hour
        if starts_at.hour == 0 or not self.ids:
            self.ids = {key_id: self._windows_of(key_id, starts_at) for key_id in self.budgets}
        windows = self.ids
        texts = {one.key_id: orjson.dumps(windows[one.key_id]).decode() for one in awake}
        sums = defaultdict(lambda: [0] * len(SUMS))
        count = min(self.per_hour, self.rows - self.made)
        base_ms = round(starts_at.timestamp()) * 1000
        for number in range(count):
            one = awake[int(draw.random() * len(awake))]
            offset_ms = 3_590_000 * number // count
            attempt_id = f"{base_ms + offset_ms:012x}7000{0x8000000000000000 | self.made:016x}"
            started_at, settled_at = moment(starts_at, offset_ms), moment(starts_at, offset_ms + 9_000)
            is_failed, is_estimate = number % 97 == 0, number % 89 == 0
            given = 0 if is_failed else 100 + int(draw.random() * 4_000)
            made = 0 if is_failed else 1 + int(draw.random() * 900)
            cost = given * world.INPUT_NANOUSD + made * world.OUTPUT_NANOUSD
            held, request_id = 3_000_000, f"req_{self.made:024x}"
            state = "void" if is_failed else "settled"
            outcome, error = ("failed", "upstream_error") if is_failed else ("ok", "")
            ids = texts[one.key_id]
            reservations.append(
                (attempt_id, request_id, OWNER, state, held, ids, one.attribution, 0, started_at, settled_at)
            )
            usage.append(
                (
                    attempt_id,
                    request_id,
                    1,
                    started_at,
                    settled_at,
                    one.organisation,
                    one.team,
                    one.key_id.hex,
                    one.key_name,
                    one.model,
                    one.model,
                    one.site[0],
                    one.site[1],
                    one.site[2],
                    "chat",
                    number & 1,
                    outcome,
                    error,
                    given,
                    0,
                    0,
                    0,
                    made,
                    0,
                    0,
                    0,
                    0,
                    int(is_estimate),
                    one.rate,
                    held,
                    cost,
                    0,
                    "",
                    210,
                    9_000,
                    one.decision,
                )
            )
            for window_id in windows[one.key_id]:
                self.windows[window_id] += cost
            row = sums[one.key_id, one.site[0]]
            for place, value in enumerate((1, is_failed, is_estimate, given, made, cost)):
                row[place] += value
            self.made += 1
        by_name = {(one.key_id, one.site[0]): one for one in awake}
        return [(by_name[name], row) for name, row in sorted(sums.items())]

    def _windows_of(self, key_id, starts_at):
        ids = []
        for budget in self.budgets[key_id]:
            span = window_of(window=budget.window, timezone="UTC", now=starts_at)
            window_id = f"{budget.id}:{span.key}"
            self.spans[window_id] = span
            ids.append(window_id)
        return ids

    def _close(self, hour, sums, rollup_rows, capacity):
        starts_at = self.first_hour + HOUR * hour
        for site in world.SITES:
            chosen = [(one, row) for one, row in sums if one.site == site]
            tokens = [row[SUMS.index("output_tokens")] for _, row in chosen]
            parts, idle = split_cost(
                cost_nanousd=site[3], tokens=tokens, capacity_tokens=world.CAPACITY_TOKENS
            )
            if site[1] == "provider":
                parts = [0] * len(chosen)
            else:
                capacity.append(capacity_row(site, starts_at=starts_at, tokens=sum(tokens), idle=idle))
            rollup_rows += [
                rollup_row(one, row, part, starts_at=starts_at)
                for (one, row), part in zip(chosen, parts, strict=True)
            ]


def moment(starts_at, offset_ms):
    """As Django writes it: SQLite compares the text."""
    return str((starts_at + timedelta(milliseconds=offset_ms)).replace(tzinfo=None))


def rollup_row(one, row, part, *, starts_at):
    group = {
        "period": "hour",
        "starts_at": starts_at,
        "organisation": one.organisation,
        "team": one.team,
        "key_id": str(one.key_id),
        "model": one.model,
        "cluster": one.site[0],
    }
    names = (one.organisation, one.team, one.key_id.hex, one.key_name, one.model)
    at, updated_at = moment(starts_at, 0), moment(starts_at + HOUR, 0)
    site = one.site[:3]
    return (rollup_id(**group), "hour", at, *names, *site, *map(int, row), 0, 0, 0, part, updated_at)


def capacity_row(site, *, starts_at, tokens, idle):
    return CapacityHour(
        id=f"{site[0]}:{starts_at:%Y-%m-%dT%H}",
        cluster=site[0],
        starts_at=starts_at,
        cost_nanousd=site[3],
        capacity_tokens=world.CAPACITY_TOKENS,
        used_tokens=tokens,
        used_nanousd=site[3] - idle,
        idle_nanousd=idle,
        sample_count=60,
        is_closed=True,
        updated_at=starts_at + HOUR,
    )


class Sink:
    """Writes a day at a time, in one transaction."""

    def __init__(self):
        self.connection = connections[settings.LEDGER_DATABASE]
        self.connection.ensure_connection()

    def write(self, reservations, usage, rollup_rows, capacity):
        self.write_rows(Reservation._meta.db_table, RESERVATION_COLUMNS, reservations)
        self.write_rows(UsageRecord._meta.db_table, USAGE_COLUMNS, usage)
        self.write_rows(SpendRollup._meta.db_table, ROLLUP_COLUMNS, rollup_rows)
        CapacityHour.objects.bulk_create(capacity, batch_size=500)

    @contextlib.contextmanager
    def without_indexes(self):
        """Building an index at the end is quicker than growing it with random keys."""
        indexes = [(model, index) for model in (UsageRecord, Reservation) for index in model._meta.indexes]
        with self.connection.schema_editor() as editor:
            for model, index in indexes:
                editor.remove_index(model, index)
        yield
        say("building indexes")
        with self.connection.schema_editor() as editor:
            for model, index in indexes:
                editor.add_index(model, index)


class InsertSink(Sink):
    def write_rows(self, table, columns, rows):
        marks = ", ".join("?" * len(columns))
        raw = self.connection.connection
        raw.execute("BEGIN")
        raw.executemany(f"INSERT INTO {table} ({', '.join(columns)}) VALUES ({marks})", rows)
        raw.execute("COMMIT")

    def finish(self):
        with self.connection.cursor() as cursor:
            cursor.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            cursor.execute("PRAGMA optimize")


class CopySink(Sink):
    def write_rows(self, table, columns, rows):
        copy_sql = f"COPY {table} ({', '.join(columns)}) FROM STDIN"
        with self.connection.connection.cursor() as cursor, cursor.copy(copy_sql) as copy:
            for start in range(0, len(rows), 5_000):
                lines = ("\t".join(map(str, row)) for row in rows[start : start + 5_000])
                copy.write("\n".join(lines) + "\n")

    def finish(self):
        with self.connection.cursor() as cursor:
            cursor.execute("VACUUM ANALYZE")


def say(text):
    sys.stderr.write(f"{time.monotonic() - STARTED_S:6.0f} s  {text}\n")


STARTED_S = time.monotonic()


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--until", type=datetime.fromisoformat, help="such as 2026-11-23T12:00+00:00")
    arguments = parser.parse_args()
    until = arguments.until or timezone.now().replace(  # noqa: TID251
        minute=0, second=0, microsecond=0
    )
    Loader(rows=arguments.rows, until=until.astimezone(UTC)).run()
    say(f"{arguments.rows} attempts are there")
    sys.stdout.write(f"GATEWAY_DATA_DIR={os.environ['GATEWAY_DATA_DIR']}\n")


if __name__ == "__main__":
    main()
