"""Measures the data plane: CPU per request, latency, memory, beside the bare upstream and other gateways."""

import asyncio
import sys
import tempfile
from argparse import ArgumentParser
from pathlib import Path
from typing import Any

import uvloop
from django.core.management.base import BaseCommand, CommandError

from gateway.bench.load import LoadError, Sample, closed_loop, percentile
from gateway.bench.own_gateway import GatewayPlan, OwnGateway
from gateway.bench.processes import BenchError, Cores, Running, free_port, pinned, wait_for_status
from gateway.bench.stub import MODEL
from gateway.bench.target import Target


class Command(BaseCommand):
    help = "Measure the gateway on this machine beside its bare upstream, in turns, pinned to a core each."
    requires_system_checks: list[str] = []

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--rounds", type=int, default=3)
        parser.add_argument("--seconds", type=float, default=3)
        parser.add_argument("--connections", type=int, default=32)

    def handle(self, *_args: Any, **options: Any) -> None:
        cores = Cores.of_this_machine()
        with tempfile.TemporaryDirectory(prefix="tollgate-bench-") as folder:
            port = free_port()
            stub = Running(
                [sys.executable, "-m", "gateway.bench.stub", str(port)],
                name="stub",
                cores=cores.load,
                log=Path(folder) / "stub.log",
            )
            try:
                wait_for_status(stub, port=port, path="/v1/models", timeout_s=10)
                gateway = OwnGateway(
                    GatewayPlan(), folder=Path(folder) / "gateway", upstream_port=port, cores=cores
                )
                direct = Target(name="direct", port=port, model=MODEL)
                with gateway.started() as target, pinned(cores.load):
                    self.stdout.write(f"ready in {target.ready_s:.2f} s")
                    for _ in range(options["rounds"]):
                        for each in (direct, target):
                            self._measure(each, stub=stub, options=options)
            except (BenchError, LoadError) as error:
                raise CommandError(str(error)) from error
            finally:
                stub.stop()

    def _measure(self, target: Target, *, stub: Running, options: dict[str, Any]) -> None:
        before_s, stub_before_s = target.cpu_s(), stub.cpu_s()
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            sample: Sample = runner.run(
                closed_loop(
                    port=target.port,
                    requests=target.chat(),
                    connection_count=options["connections"],
                    seconds=options["seconds"],
                )
            )
        count = max(sample.answered_count, 1)
        cpu_us = (target.cpu_s() - before_s) / count * 1e6
        stub_us = (stub.cpu_s() - stub_before_s) / count * 1e6
        self.stdout.write(
            f"{target.name:10} {cpu_us:8.1f} us CPU  {sample.per_s:8.0f}/s  "
            f"p50 {percentile(sample.latencies_s, 50) * 1e3:7.2f} ms  "
            f"p99 {percentile(sample.latencies_s, 99) * 1e3:7.2f} ms  stub {stub_us:.1f} us  "
            f"{sample.statuses}"
        )
        self.stdout.flush()
