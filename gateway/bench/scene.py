"""The scene of a run: cores, the upstream, a folder that goes with it, and how a target is put under load."""

import asyncio
import contextlib
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Coroutine, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import orjson
import uvloop

from gateway.bench import proxies
from gateway.bench.interruption import Interruption
from gateway.bench.load import HeldStreams, Sample, closed_loop, open_loop
from gateway.bench.processes import BenchError, Cores, Running, call, free_port, pinned, wait_for_status
from gateway.bench.record import DIRECT
from gateway.bench.stub import COMPLETION, MODE_PATH, MODEL, Mode
from gateway.bench.target import Target

START_TIMEOUT_S = 20
UPSTREAMS = ("stub", "nginx")
WARM_UP_CONNECTIONS = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """What a run saw, and the seconds of CPU time that each side took for it."""

    sample: Sample
    cpu_s: float
    servers_cpu_s: float
    upstream_cpu_s: float
    load_cpu_s: float

    def cpu_us_each(self, count: int | None = None) -> float:
        """The target's microseconds of CPU per answer, or per whatever there were `count` of."""
        return self.cpu_s / max(count or self.sample.answered_count, 1) * 1e6


class Scene:
    """One for each run of the command; `opened` starts the upstream and ends it."""

    def __init__(
        self,
        *,
        folder: Path,
        cores: Cores,
        upstream: Running,
        port: int,
        is_streaming: bool,
        warm_up_s: float,
        interruption: Interruption,
    ) -> None:
        self.folder = folder
        self.cores = cores
        self.upstream_port = port
        self.is_streaming = is_streaming
        self._warm_up_s = warm_up_s
        self._upstream = upstream
        self.interruption = interruption
        self._runner = asyncio.Runner(loop_factory=uvloop.new_event_loop)

    @classmethod
    @contextlib.contextmanager
    def opened(cls, *, upstream: str, warm_up_s: float, interruption: Interruption) -> "Iterator[Scene]":
        """Raises BenchError where the upstream does not start."""
        cores = Cores.of_this_machine()
        port = free_port()
        with (
            tempfile.TemporaryDirectory(prefix="tollgate-bench-", ignore_cleanup_errors=True) as name,
            pinned(cores.load),
        ):
            folder = Path(name)
            # nginx's workers leave root's rights, and its temporary folders are in there.
            folder.chmod(0o755)
            argv = _upstream_argv(upstream, port=port, folder=folder)
            running = Running(argv, name=upstream, cores=cores.load, log=folder / "upstream.log")
            try:
                wait_for_status(running, port=port, path="/v1/models", timeout_s=START_TIMEOUT_S)
                scene = cls(
                    folder=folder,
                    cores=cores,
                    upstream=running,
                    port=port,
                    is_streaming=upstream == "stub",
                    warm_up_s=warm_up_s,
                    interruption=interruption,
                )
                with scene._runner:
                    yield scene
            finally:
                running.stop()

    @contextlib.contextmanager
    def direct(self) -> Iterator[Target]:
        """The upstream itself, with nothing before it."""
        yield Target(name=DIRECT, port=self.upstream_port, model=MODEL)

    def set_mode(self, mode: Mode) -> None:
        status, _ = call(
            port=self.upstream_port,
            method="POST",
            path=MODE_PATH.decode(),
            body=orjson.dumps(asdict(mode)),
        )
        assert status == 200

    def warm_up(self, target: Target, *, is_stream: bool = False) -> Reading:
        """A little load before the first measurement."""
        return self.closed(
            target,
            connection_count=WARM_UP_CONNECTIONS,
            seconds=self._warm_up_s,
            is_stream=is_stream,
        )

    def closed(
        self,
        target: Target,
        *,
        connection_count: int,
        seconds: float,
        is_stream: bool = False,
        requests: Sequence[bytes] = (),
        request_count_max: int | None = None,
    ) -> Reading:
        """A closed loop of chats, or of `requests`. Raises BenchError where nothing is answered with 200."""
        load = partial(
            closed_loop,
            port=target.port,
            requests=requests or target.chat(is_stream=is_stream),
            connection_count=connection_count,
            seconds=seconds,
            request_count_max=request_count_max,
            is_stream=is_stream,
        )
        return self._read(target, load)

    def open(self, target: Target, *, per_s: float, seconds: float, is_stream: bool = False) -> Reading:
        load = partial(
            open_loop,
            port=target.port,
            requests=target.chat(is_stream=is_stream),
            per_s=per_s,
            seconds=seconds,
            is_stream=is_stream,
        )
        return self._read(target, load)

    @contextlib.contextmanager
    def held_streams(self, target: Target, *, count: int) -> Iterator[int]:
        """So many open streams on which nothing comes, or as many as the target opens: how many."""
        self.set_mode(Mode(is_held=True))
        streams = HeldStreams(port=target.port, request=target.chat(is_stream=True)[0])
        try:
            self.interruption.run(self._runner, partial(streams.open, count))
            yield streams.begun_count
        finally:
            self._runner.run(streams.close())
            self.set_mode(Mode())

    def _read(self, target: Target, load: Callable[[], Coroutine[None, None, Sample]]) -> Reading:
        cpu_s, servers_s = target.cpu_s(), target.servers_cpu_s()
        upstream_s, load_s = self._upstream.cpu_s(), time.process_time()
        sample = self.interruption.run(self._runner, load)
        if target.running is not None:
            target.running.check()
        if not sample.answered_count:
            words = target.running.last_words() if target.running is not None else ""
            raise BenchError(f"{target.name} answers with {sample.statuses} (0: no whole answer)\n{words}")
        return Reading(
            sample=sample,
            cpu_s=target.cpu_s() - cpu_s,
            servers_cpu_s=target.servers_cpu_s() - servers_s,
            upstream_cpu_s=self._upstream.cpu_s() - upstream_s,
            load_cpu_s=time.process_time() - load_s,
        )


def _upstream_argv(kind: str, *, port: int, folder: Path) -> list[str]:
    if kind == "stub":
        return [sys.executable, "-m", "gateway.bench.stub", str(port)]
    program = shutil.which("nginx")
    if program is None:
        raise BenchError("--upstream nginx: there is no nginx here; install it, or use the stub")
    return proxies.nginx_argv(
        program, proxies.nginx_upstream(port=port, answer=COMPLETION, folder=folder), folder=folder
    )
