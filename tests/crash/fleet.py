"""Gateways on one database that die and start again, stand-ins with ledgers, and a watch on budgets."""

import asyncio
import contextlib
import os
import random
import signal
import sqlite3
import subprocess
import sys
import threading
from pathlib import Path

import httpx
import orjson
import psycopg

from clusters.demo.standin import StandinSettings
from tests.crash.clients import Callers
from tests.crash.points import INJECTED
from tests.fakes.gateway_server import ROOT, Control, is_error, new_databases
from tests.fakes.ports import free_port
from tests.fakes.standin_server import run_standin

START_S_MAX = 30.0
DEATH_S_MAX = 10.0
POLL_S = 0.01
SAMPLE_S = 0.005
PRICE = (1_500_000, 7_300_000)
# Name, models, price factor, pace. `frail` serves its model first, `backup` after it.
SITES = (
    ("site-main", "main", 1, {"tokens_per_s": 20_000.0, "request_tokens_per_s": 400.0}),
    ("site-slow", "slow", 1, {"tokens_per_s": 20_000.0, "request_tokens_per_s": 20.0}),
    ("site-frail", "frail", 1, {}),
    ("site-backup", "frail", 2, {}),
)
ROOMY_NANOUSD = 10**13
# Room for about seven holds: callers of such a key are refused now and then, and more and more often.
TIGHT_NANOUSD = 7_000_000


class Books(Control):
    """tests.crash.control in a process of its own."""

    def __init__(self, env):
        self.env = env
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.crash.control"],
            cwd=ROOT,
            env=env,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert self._process.stdout.readline() == b"ready\n"


class Nursery:
    """tests.crash.server: forks a gateway for each order."""

    def __init__(self, env):
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.crash.server"],
            cwd=ROOT,
            env={**env, "DJANGO_SETTINGS_MODULE": "tests.e2e.gateway_settings"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert self._process.stdout.readline() == b"ready\n"

    def start(self, **order):
        self._process.stdin.write(orjson.dumps(order) + b"\n")
        self._process.stdin.flush()
        return int(self._process.stdout.readline())

    def close(self):
        self._process.stdin.close()
        self._process.wait(DEATH_S_MAX)
        self._process.stdout.close()


class Worker:
    """One place for a gateway: always the same port, one process after the other."""

    def __init__(self, *, nursery, log):
        self._nursery = nursery
        self._log = log
        self._client = httpx.AsyncClient(timeout=START_S_MAX, verify=False)  # no TLS here, and none to load
        self._descriptor = None
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.is_live = False

    async def start(self, *, point=None):
        """Start it; False where it died before it was ready."""
        assert self._descriptor is None, "the one before has not ended"
        process_id = self._nursery.start(port=self.port, log=str(self._log), point=point)
        try:
            self._descriptor = os.pidfd_open(process_id)
        except ProcessLookupError:
            return False
        self._process_id = process_id
        self.is_live = await asyncio.wait_for(self._becomes_ready(), START_S_MAX)
        return self.is_live

    async def wait_for_death(self, *, within_s=DEATH_S_MAX):
        """False where it lives on."""
        if self._descriptor is None:
            return True
        died = asyncio.Event()
        loop = asyncio.get_running_loop()
        loop.add_reader(self._descriptor, died.set)
        try:
            await asyncio.wait_for(died.wait(), within_s)
        except TimeoutError:
            return False
        finally:
            loop.remove_reader(self._descriptor)
        os.close(self._descriptor)
        self._descriptor = None
        self.is_live = False
        return True

    async def aclose(self):
        await self.kill()
        await self._client.aclose()

    async def kill(self):
        self._signal(signal.SIGKILL)
        assert await self.wait_for_death()

    async def terminate(self):
        self._signal(signal.SIGTERM)
        assert await self.wait_for_death()

    def _signal(self, number):
        if self._descriptor is not None:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._descriptor, number)

    async def _becomes_ready(self):
        while not await self.wait_for_death(within_s=POLL_S):
            with contextlib.suppress(httpx.TransportError):
                if (await self._client.get(self.url + "/health/ready")).status_code == httpx.codes.OK:
                    return True
        return False


class BudgetWatch:
    """Reads the budgets' windows all the time, past the gateway, and notes each moment above a limit."""

    def __init__(self, env):
        self.limits = {}
        self.violations = []
        self.samples = 0
        self._env = env
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="budget-watch")
        self._thread.start()

    def close(self):
        self._is_over.set()
        self._thread.join()

    def _run(self):
        with contextlib.closing(open_ledger(self._env)) as connection:
            while not self._is_over.wait(SAMPLE_S):
                query = "SELECT id, spent_nanousd, held_nanousd FROM billing_budgetwindow"
                for window_id, spent, held in connection.execute(query).fetchall():
                    self._judge(window_id, spent, held)

    def _judge(self, window_id, spent, held):
        limit = self.limits.get(window_id.partition(":")[0])
        if limit is None:
            return
        self.samples += 1
        if spent + held > limit or held < 0:
            self.violations.append(f"window {window_id}: {spent} spent and {held} held of {limit}")


def open_ledger(env):
    """A connection of our own to the gateway's ledger."""
    if url := env.get("DATABASE_URL"):
        return psycopg.connect(url, autocommit=True)
    path = Path(env["GATEWAY_DATA_DIR"]) / "tollgate-ledger.sqlite3"
    return sqlite3.connect(path, timeout=20, isolation_level=None, check_same_thread=False)


class CrashFleet:
    """All of it. `workers` are the places for gateways; `keys` by name, each {"id", "key", "name"}."""

    def __init__(self, *, books, nursery, folder, worker_count, seed):
        self.books = books
        self.folder = folder
        self.log = folder / "gateway.log"
        self.workers = [Worker(nursery=nursery, log=self.log) for _ in range(worker_count)]
        self.standins = {}
        self.keys = {}
        self.callers = Callers()
        self.watch = BudgetWatch(books.env)
        self.draw = random.Random(seed)

    @property
    def upstream_ledger(self):
        return self.folder / "upstream.jsonl"

    def any_live_worker(self):
        live = [worker for worker in self.workers if worker.is_live]
        return self.draw.choice(live) if live else None

    def upstream_lines(self):
        return [orjson.loads(line) for line in self.upstream_ledger.read_bytes().splitlines()]

    def logged_errors(self):
        lines = self.log.read_text().splitlines()
        return [line for line in lines if is_error(line) and INJECTED not in line]

    def issue_key(self, name, *, limit_nanousd=ROOMY_NANOUSD):
        """A key with a hard budget for ever, and a soft one per month: each hold counts against both."""
        budgets = [
            {"limit_nanousd": limit_nanousd, "window": "total", "is_hard": True},
            {"limit_nanousd": limit_nanousd, "window": "month", "is_hard": False},
        ]
        self.keys[name] = self.books.call("issue_key", name=name, team="crash", budgets=budgets)
        self.watch.limits = self.books.call("load_limits")
        return self.keys[name]

    def add_sites(self, stack):
        for name, model, price_factor, pace in SITES:
            settings = StandinSettings(name=name, models=(model,), ledger_path=self.upstream_ledger, **pace)
            self.standins[name] = stack.enter_context(run_standin(settings))
            self.books.call(
                "add_cluster",
                name=name,
                values={
                    "kind": "provider",
                    "provider": "openai",
                    "region": "eu",
                    "endpoint": self.standins[name].url,
                    "backend": "openai",
                    "allow_private_network": True,
                    "billing": "metered",
                    "cost_per_hour_nanousd": 0,
                    "tokens_per_s": None,
                },
                model=model,
                deployment={"context_window": 65_536},
                price=[price * price_factor for price in PRICE],
                secret=None,
            )

    async def aclose(self):
        for worker in self.workers:
            await worker.aclose()
        await self.callers.aclose()
        self.watch.close()


@contextlib.asynccontextmanager
async def crash_fleet(folder, *, worker_count, seed):
    with contextlib.ExitStack() as stack:
        data = folder / "data"
        data.mkdir()
        env = stack.enter_context(new_databases(data))
        nursery = Nursery(env)
        stack.callback(nursery.close)
        books = Books(env)
        stack.callback(books.close)
        fleet = CrashFleet(books=books, nursery=nursery, folder=folder, worker_count=worker_count, seed=seed)
        try:
            fleet.add_sites(stack)
            yield fleet
        finally:
            await fleet.aclose()
