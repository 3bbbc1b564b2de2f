"""Measures the data plane: CPU per request, latency, memory, beside the bare upstream and other gateways."""

import io
import json
import os
import resource
import sys
from argparse import SUPPRESS, ArgumentParser, ArgumentTypeError
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from django.core.management import call_command
from django.core.management.base import BaseCommand, CommandError
from django.db import connections, transaction
from django.utils import timezone

from billing import budgets, keys
from gateway.bench import machine, peers, tables
from gateway.bench.campaign import Campaign, Setting
from gateway.bench.interruption import BrokenOffError, Interruption
from gateway.bench.load import LoadError
from gateway.bench.plan import DEFAULT_PARTS, PARTS, QUICK, STANDARD, Plan
from gateway.bench.plot import plot_svg
from gateway.bench.processes import BenchError
from gateway.bench.record import Record
from gateway.bench.scene import UPSTREAMS, Scene

QUICK_PARTS = ("plain", "latency", "stream", "memory")
# A seeded key's limits and budget are all in force, and none is ever reached.
REQUESTS_PER_MINUTE, TOKENS_PER_MINUTE, CONCURRENT = 100_000_000, 1_000_000_000, 100_000
BUDGET_NANOUSD = 10**15
KEYS_PER_TEAM = 100
NUMBERS = {
    "seconds": "seconds",
    "rounds": "rounds",
    "connections": "connection_count",
    "rate": "rate_per_s",
    "streams": "idle_stream_count",
    "soak": "soak_count",
    "workers": "worker_count",
}


class Command(BaseCommand):
    help = (
        "Measure the gateway on this machine (Linux), beside its bare upstream and other gateways, in turns, "
        "what is measured on one core and load and upstream on another: CPU time, latency, memory. "
        "Everything is started for it on 127.0.0.1 and ended after it. Parts: "
        + "; ".join(f"{part}: {words}" for part, words in PARTS.items())
        + "."
    )
    requires_system_checks: list[str] = []

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument(
            "--only", type=part_names, metavar="PART,…", help="these parts; left out: all but soak"
        )
        parser.add_argument("--quick", action="store_true", help="a look whether it works: short runs, once")
        parser.add_argument("--seconds", type=positive, help=f"of each run ({STANDARD.seconds:g})")
        parser.add_argument("--rounds", type=count, help=f"of each part ({STANDARD.rounds})")
        parser.add_argument("--connections", type=count, help="of the closed loop (32)")
        parser.add_argument("--rate", type=positive, help="requests/s of the open loop (100)")
        parser.add_argument("--streams", type=count, help="idle streams held open (1000)")
        parser.add_argument(
            "--soak", type=count, metavar="REQUESTS", help="measure the growth of memory over so many"
        )
        parser.add_argument("--workers", type=count, help="processes of the part workers (2)")
        parser.add_argument("--upstream", choices=UPSTREAMS, default="stub", help="nginx: plain answers only")
        parser.add_argument("--database", choices=("sqlite", "postgres"), default="sqlite")
        parser.add_argument(
            "--durability", choices=("normal", "full"), default="", help="left out: as the gateway is shipped"
        )
        parser.add_argument(
            "--valkey", action="store_true", help="limits through the embedded Valkey, as under `up`"
        )
        parser.add_argument(
            "--peers", type=peer_names, metavar="NAME,…", help=f"of {', '.join(peers.KINDS)}, or all"
        )
        parser.add_argument("--peers-dir", type=Path, help="where they are (the user's cache folder)")
        parser.add_argument(
            "--install-peers", action="store_true", help="install them there first, from the network"
        )
        parser.add_argument("--json", type=Path, metavar="FILE", help="all values, for programs")
        parser.add_argument("--markdown", type=Path, metavar="FILE", help="the tables, for a page")
        parser.add_argument("--plot", type=Path, metavar="FILE.svg")
        # In the measured gateway's own environment: prepare its data and show its keys, as a list.
        parser.add_argument("--seed", type=Path, help=SUPPRESS)
        parser.add_argument("--seed-keys", type=count, default=1, help=SUPPRESS)

    def handle(self, *_args: Any, **options: Any) -> None:
        if options["seed"]:
            self.stdout.write(json.dumps(seeded_keys(options["seed"], key_count=options["seed_keys"])))
            return
        if not sys.platform.startswith("linux"):
            raise CommandError("the benchmark reads /proc: run it on Linux")
        setting, plan = chosen(options)
        if options["install_peers"]:
            self._install(setting)
        record = Record(self._say)
        campaign = Campaign(setting, plan=plan, record=record)
        _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        try:
            with (
                Interruption() as interruption,
                Scene.opened(
                    upstream=setting.upstream, warm_up_s=plan.warm_up_s, interruption=interruption
                ) as scene,
            ):
                described = machine.describe(cores=scene.cores)
                self._say("\n".join(f"{name:9} {value}" for name, value in described.items()))
                campaign.run(scene)
        except (BenchError, LoadError) as error:
            raise CommandError(str(error)) from error
        except (BrokenOffError, KeyboardInterrupt) as error:
            raise CommandError("broken off; what was started has ended", returncode=130) from error
        self._say(f"\nRounds: {plan.rounds}; least to most\n\n{tables.text(record)}")
        self._write(options, campaign=campaign, record=record, described=described, plan=plan)

    def _say(self, words: str) -> None:
        self.stdout.write(words)
        self.stdout.flush()

    def _install(self, setting: Setting) -> None:
        setting.peers_dir.mkdir(parents=True, exist_ok=True)
        for name in setting.peer_names:
            kind = peers.KINDS[name]
            if kind.find(setting.peers_dir):
                continue
            self._say(f"Installing {name} into {setting.peers_dir / name}")
            try:
                peers.install(kind, peers_dir=setting.peers_dir, log=setting.peers_dir / f"{name}.log")
            except BenchError as error:
                self.stderr.write(str(error))

    def _write(
        self,
        options: dict[str, Any],
        *,
        campaign: Campaign,
        record: Record,
        described: dict[str, str],
        plan: Plan,
    ) -> None:
        date = timezone.now().date().isoformat()
        makers: dict[str, Callable[[], str]] = {
            "json": lambda: json.dumps(
                {
                    "date": date,
                    "machine": described,
                    "peers": campaign.peer_versions,
                    "plan": asdict(plan),
                    **tables.document(record),
                },
                indent=2,
            ),
            "markdown": lambda: tables.markdown(
                record, machine=described, versions=campaign.peer_versions, date=date
            ),
            "plot": lambda: plot_svg(record),
        }
        for name, make in makers.items():
            if options[name] is not None:
                try:
                    options[name].write_text(make())
                except OSError as error:
                    raise CommandError(f"--{name} {options[name]}: {error.strerror}") from error


def chosen(options: dict[str, Any]) -> tuple[Setting, Plan]:
    is_quick = options["quick"]
    parts = list(options["only"] or (QUICK_PARTS if is_quick else DEFAULT_PARTS))
    if options["soak"] and "soak" not in parts:
        parts.append("soak")
    if "soak" in parts and not options["soak"]:
        raise CommandError("the part soak needs a number: --soak 1000000")
    given = {field: options[name] for name, field in NUMBERS.items() if options[name] is not None}
    setting = Setting(
        parts=parts,
        upstream=options["upstream"],
        database=options["database"],
        durability=options["durability"],
        has_valkey=options["valkey"],
        peer_names=options["peers"] or (),
        peers_dir=options["peers_dir"] or default_peers_dir(),
    )
    return setting, replace(QUICK if is_quick else STANDARD, **given)


def default_peers_dir() -> Path:
    """XDG_CACHE_HOME, else ~/.cache, as the XDG Base Directory Specification says."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "tollgate-bench"


def seeded_keys(configuration: Path, *, key_count: int) -> list[str]:
    """Fill empty databases: the fleet of the file, and keys in teams of 100; the keys.

    Each key has every kind of limit and a hard budget.
    """
    for alias in connections:
        call_command("migrate", database=alias, interactive=False, verbosity=0)
    call_command("import_config", str(configuration), stdout=io.StringIO())
    with transaction.atomic():
        return _issued_keys(key_count)


def _issued_keys(key_count: int) -> list[str]:
    organisation_id = keys.put_organisation(name="bench")
    issued = []
    for number in range(key_count):
        team_name = f"bench-{number // KEYS_PER_TEAM}"
        key = keys.issue_key(
            team_id=keys.put_team(organisation_id=organisation_id, name=team_name),
            name=f"bench-{number}",
            rpm_max=REQUESTS_PER_MINUTE,
            tpm_max=TOKENS_PER_MINUTE,
            concurrent_max=CONCURRENT,
        )
        budgets.put_budget(key_id=key.id, limit_nanousd=BUDGET_NANOUSD, window="month", is_hard=True)
        issued.append(key.key)
    return issued


def part_names(text: str) -> tuple[str, ...]:
    return _names(text, known=PARTS)


def peer_names(text: str) -> tuple[str, ...]:
    return tuple(peers.KINDS) if text == "all" else _names(text, known=peers.KINDS)


def _names(text: str, *, known: Any) -> tuple[str, ...]:
    names = tuple(filter(None, text.split(",")))
    for name in names:
        if name not in known:
            raise ArgumentTypeError(f"{name!r} is not one of {', '.join(known)}")
    return names


def count(text: str) -> int:
    if not text.isdecimal() or not int(text):
        raise ArgumentTypeError(f"{text!r} is no number above 0")
    return int(text)


def positive(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < 100_000:
        raise ArgumentTypeError(f"{text!r} is no number above 0 and below 100,000")
    return value
