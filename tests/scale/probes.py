"""What watching many clusters takes: `python -m tests.scale.probes --clusters 100 --seconds 180`.

Registers clusters of several kinds against stand-ins of this process, runs the prober's task in processes of
its own, as beat would have it run, and prints what it took of a core, how often each cluster was asked, how
soon one that went down or came back was known to have, and whether anything but the free endpoints was asked.
"""

import argparse
import asyncio
import os
import random
import shutil
import ssl
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from clusters.demo.vllm_metrics import VllmMetrics
from gateway.bench.processes import TICKS_PER_S

FREE = frozenset({"/health", "/metrics", "/v1/models"})
WARM_UP_S = 10
FLIPPED_SHARE = 10  # one of so many goes down, and comes back
POLL_S = 0.25
MODEL = "scale-model"
LISTING = b'{"object":"list","data":[{"id":"scale-model","object":"model","max_model_len":8192}]}'
# The other histograms that a vLLM of today exports, so that its page is as long as a real one: some 60 KB.
OTHER_HISTOGRAMS = 25
OTHER_BUCKETS = 20
LLAMA_METRICS = b"llamacpp:requests_processing 0\nllamacpp:requests_deferred 0\n"


@dataclass(eq=False, kw_only=True)
class Site:
    """A stand-in that answers the free endpoints and notes what it was asked, and when."""

    number: int
    backend: str
    is_tls: bool
    metrics: bytes
    is_down: bool = False
    port: int = 0
    probed_at_s: list = field(default_factory=list)
    asked: Counter = field(default_factory=Counter)

    @property
    def name(self):
        return f"site-{self.number:03}"

    @property
    def endpoint(self):
        return f"http{'s' if self.is_tls else ''}://localhost:{self.port}"

    async def serve(self, reader, writer):
        try:
            while line := await reader.readline():
                method, path, _ = line.decode().split()
                while await reader.readline() not in {b"\r\n", b""}:
                    pass
                writer.write(self._answer(method, path))
                await writer.drain()
        except (ConnectionError, ssl.SSLError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    def _answer(self, method, path):
        if not self.asked or path == self._first_path:
            self.probed_at_s.append(time.monotonic())
        self.asked[method, path] += 1
        status, body = (503, b"{}") if self.is_down else (200, b"{}")
        if path == "/metrics":
            body = self.metrics
        elif path == "/v1/models":
            body = LISTING
        return b"HTTP/1.1 %d OK\r\ncontent-length: %d\r\n\r\n%s" % (status, len(body), body)

    @property
    def _first_path(self):
        return "/v1/models" if self.backend == "openai" else "/health"


def make_sites(count):
    """vLLM (half of it busy, a fifth behind TLS), llama.cpp and providers, in turn."""
    metrics = VllmMetrics(models=(MODEL,))
    others = other_histograms()
    idle = metrics.render(running=(), waiting=(), kv_cache_usage=0.0) + others
    busy = metrics.render(running=(MODEL,) * 4, waiting=(MODEL,), kv_cache_usage=0.5) + others
    kinds = (("vllm", idle), ("vllm", busy), ("llamacpp", LLAMA_METRICS), ("vllm", busy), ("openai", b""))
    sites = []
    for number in range(count):
        backend, text = kinds[number % len(kinds)]
        is_tls = number % len(kinds) == 1
        sites.append(Site(number=number, backend=backend, is_tls=is_tls, metrics=text))
    return sites


def other_histograms():
    lines = []
    for number in range(OTHER_HISTOGRAMS):
        name = f"vllm:request_figure_{number}_seconds"
        labels = f'engine="0",model_name="{MODEL}"'
        lines.append(f"# HELP {name} Histogram of something else, in seconds.")
        lines.append(f"# TYPE {name} histogram")
        lines += [f'{name}_bucket{{{labels},le="{edge}.5"}} {edge * 100}.0' for edge in range(OTHER_BUCKETS)]
        lines += [f"{name}_count{{{labels}}} 2000.0", f"{name}_sum{{{labels}}} 12345.6789"]
    return "".join(f"{line}\n" for line in lines).encode()


@contextmanager
def served(sites, *, tls):
    """All of them, in a thread of their own."""
    loop, ready = asyncio.new_event_loop(), threading.Event()

    async def listen():
        for site in sites:
            server = await asyncio.start_server(
                site.serve, "127.0.0.1", 0, ssl=tls if site.is_tls else None, backlog=16
            )
            site.port = server.sockets[0].getsockname()[1]
        ready.set()

    thread = threading.Thread(target=lambda: (loop.run_until_complete(listen()), loop.run_forever()))
    thread.start()
    try:
        assert ready.wait(30)
        yield
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()


def register(sites, *, certificate):
    """The inventory's own door; each is of an interval that the settings say."""
    from clusters import inventory  # noqa: PLC0415 -- app ready
    from clusters.models import Cluster  # noqa: PLC0415

    for site in sites:
        is_provider = site.backend == "openai"
        has_token = is_provider or site.backend == "llamacpp"
        cluster = Cluster(
            name=site.name,
            endpoint=site.endpoint,
            backend=site.backend,
            kind="provider" if is_provider else "own",
            billing="metered" if is_provider else "committed",
            auth_type="bearer" if has_token else "hmac",
            default_model=MODEL if is_provider else "",
            allow_private_network=True,
        )
        inventory.save_record(record=cluster)
        secrets = {"bearer" if has_token else "hmac": "scale-secret-scale-secret-scale-secret"}
        if site.is_tls:
            secrets["ca"] = certificate
        for purpose, text in secrets.items():
            inventory.store_secret(cluster_id=cluster.id, purpose=purpose, plaintext=text)


def run_prober():
    """The task, every PROBE_TICK_S, until this process is ended."""
    import django  # noqa: PLC0415 -- its settings are named by the process that started this one

    django.setup()
    from django.conf import settings  # noqa: PLC0415

    from clusters import monitor  # noqa: PLC0415

    due_s = time.monotonic()
    while True:
        monitor.probe_due_clusters(now=datetime.now(UTC))  # noqa: TID251 -- the edge
        due_s = max(due_s + settings.PROBE_TICK_S, time.monotonic())
        time.sleep(max(0.0, due_s - time.monotonic()))


def cpu_s(pid):
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS_PER_S


class Flips:
    """Takes some down and later up again, and notes after how long the inventory says so."""

    def __init__(self, sites, *, seconds):
        self._flipped = random.Random(1).sample(sites, max(1, len(sites) // FLIPPED_SHARE))
        self._seconds = seconds
        self.down_s, self.up_s = {}, {}

    def run(self):
        """Half of the time they are down."""
        started_s = time.monotonic()
        self._turn(is_down=True, seen=self.down_s, until_s=started_s + self._seconds / 2)
        self._turn(is_down=False, seen=self.up_s, until_s=started_s + self._seconds)
        return len(self._flipped)

    def _turn(self, *, is_down, seen, until_s):
        from clusters.models import Cluster  # noqa: PLC0415 -- app ready

        began_s = time.monotonic()
        wanted = "unhealthy" if is_down else "healthy"
        # What was never known to be down cannot come back.
        names = [site.name for site in self._flipped if is_down or site.name in self.down_s]
        for site in self._flipped:
            site.is_down = is_down
        while time.monotonic() < until_s:
            rows = Cluster.objects.filter(name__in=names, health=wanted).values_list("name", flat=True)
            for name in rows:
                seen.setdefault(name, time.monotonic() - began_s)
            time.sleep(POLL_S)


def measure(*, cluster_count, seconds, prober_count):
    import django  # noqa: PLC0415 -- its settings are named first

    django.setup()
    from django.core.management import call_command  # noqa: PLC0415

    from clusters import inventory  # noqa: PLC0415
    from tests.clusters.rows import certificate_and_key  # noqa: PLC0415

    call_command("migrate", verbosity=0)
    folder = Path(os.environ["GATEWAY_DATA_DIR"])
    certificate, key = certificate_and_key(name="localhost", now=datetime.now(UTC))  # noqa: TID251 -- the edge
    (folder / "site.pem").write_text(certificate + key)
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(folder / "site.pem")
    sites = make_sites(cluster_count)
    interval_s = inventory.get_router_settings().health_check_interval_s
    with served(sites, tls=tls):
        register(sites, certificate=certificate)
        probers = [
            subprocess.Popen([sys.executable, "-m", "tests.scale.probes", "--prober"])
            for _ in range(prober_count)
        ]
        try:
            time.sleep(WARM_UP_S)
            before = [cpu_s(prober.pid) for prober in probers]
            started_s = time.monotonic()
            flips = Flips(sites, seconds=seconds)
            flipped_count = flips.run()
            passed_s = time.monotonic() - started_s
            used_s = sum(cpu_s(prober.pid) for prober in probers) - sum(before)
        finally:
            for prober in probers:
                prober.terminate()
                prober.wait()
    report(sites, flips, flipped_count=flipped_count, interval_s=interval_s, used_s=used_s, passed_s=passed_s)


def report(sites, flips, *, flipped_count, interval_s, used_s, passed_s):
    steady = [site for site in sites if site.name not in {*flips.down_s, *flips.up_s}]
    gaps = [b - a for site in steady for a, b in zip(site.probed_at_s, site.probed_at_s[1:], strict=False)]
    probes = sum(len(site.probed_at_s) for site in sites)
    paid = sum(n for site in sites for (method, path), n in site.asked.items() if _is_paid(method, path))
    say(f"{len(sites)} clusters, interval {interval_s} s, {passed_s:.0f} s, {probes} probes")
    say(f"CPU of the prober: {100 * used_s / passed_s:.2f} % of a core")
    if gaps:
        say(
            f"between two probes of a healthy cluster: {min(gaps):.1f} to {max(gaps):.1f} s "
            f"(mean {statistics.mean(gaps):.1f}); an interval lasts {0.9 * interval_s:.1f} at least"
        )
    for word, seen in (("down", flips.down_s), ("up", flips.up_s)):
        latest = f"{max(seen.values()):.1f} s" if seen else "never"
        say(f"gone {word}: {len(seen)} of {flipped_count} known, the latest after {latest}")
    say(f"requests beyond {', '.join(sorted(FREE))}: {paid}")


def say(text):
    sys.stdout.write(f"{text}\n")


def _is_paid(method, path):
    return method != "GET" or path not in FREE


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--clusters", type=int, default=100)
    parser.add_argument("--seconds", type=int, default=180, help="half of it with a tenth of them down")
    parser.add_argument("--probers", type=int, default=1, help="processes that run the task")
    parser.add_argument("--prober", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "gateway.settings")
    os.environ.setdefault("LOG_LEVEL", "ERROR")
    if options.prober:
        run_prober()
        return
    folder = tempfile.mkdtemp(prefix="tollgate-probes-")
    os.environ["GATEWAY_DATA_DIR"] = folder
    try:
        measure(cluster_count=options.clusters, seconds=options.seconds, prober_count=options.probers)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
