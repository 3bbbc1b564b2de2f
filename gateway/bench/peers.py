"""The gateways and proxies to compare with: how each is installed, in a folder of its own, and started."""

import contextlib
import json
import os
import secrets
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from gateway.bench import proxies
from gateway.bench.processes import HOST, BenchError, Cores, Running, free_port, wait_for_status
from gateway.bench.stub import MODEL
from gateway.bench.target import Target

START_TIMEOUT_S = 120
INSTALL_TIMEOUT_S = 1800
LITELLM_CONFIG = """model_list:
  - model_name: {model}
    litellm_params: {{model: openai/{model}, api_base: "http://127.0.0.1:{port}/v1", api_key: none}}
litellm_settings: {{telemetry: false}}
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Launch:
    """How to start a peer on a port, and how to call it."""

    argv: Sequence[str]
    health_path: str
    env: Mapping[str, str] = field(default_factory=dict, repr=False)
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    key: str = field(default="none", repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a peer is, where it shall listen, and what it shall call."""

    home: Path
    scratch: Path
    port: int
    upstream_port: int

    @property
    def upstream(self) -> str:
        return f"http://{HOST}:{self.upstream_port}"


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerKind:
    """A peer that can be had: `program` is found in its home, or on the machine where it needs none."""

    name: str
    program: str
    launch: Callable[[str, Place], Launch]
    python_package: str = ""
    node_package: str = ""
    is_streaming: bool = True

    def find(self, peers_dir: Path) -> str:
        """The program's path; empty where it is not installed."""
        if not self.python_package and not self.node_package:
            return shutil.which(self.program) or ""
        path = peers_dir / self.name / self.program
        return str(path) if path.exists() else ""


class Peer:
    """One that is installed; started as often as wanted."""

    def __init__(
        self, kind: PeerKind, *, peers_dir: Path, folder: Path, upstream_port: int, cores: Cores
    ) -> None:
        self.name = kind.name
        self._kind = kind
        self._home = peers_dir / kind.name
        self._program = kind.find(peers_dir)
        self._scratch = folder / kind.name
        self._scratch.mkdir(exist_ok=True)
        # nginx's workers have other rights.
        self._scratch.chmod(0o777)
        self._upstream_port = upstream_port
        self._cores = cores

    @contextlib.contextmanager
    def started(self) -> Iterator[Target]:
        port = free_port()
        place = Place(home=self._home, scratch=self._scratch, port=port, upstream_port=self._upstream_port)
        launch = self._kind.launch(self._program, place)
        begun_s = time.monotonic()
        running = Running(
            launch.argv,
            name=self.name,
            cores=self._cores.subject,
            log=self._scratch / "log",
            env={**os.environ, **launch.env},
            cwd=self._scratch,
        )
        try:
            wait_for_status(running, port=port, path=launch.health_path, timeout_s=START_TIMEOUT_S)
            ready_s = time.monotonic() - begun_s
            yield Target(
                name=self.name,
                port=port,
                model=MODEL,
                running=running,
                keys=(launch.key,),
                headers=launch.headers,
                is_streaming=self._kind.is_streaming,
                ready_s=ready_s,
            )
        finally:
            running.stop()


def install(kind: PeerKind, *, peers_dir: Path, log: Path) -> None:
    """Into a virtual environment or an npm prefix of its own. Raises BenchError where that fails."""
    home = peers_dir / kind.name
    if kind.python_package:
        _run([sys.executable, "-m", "venv", "--clear", str(home)], name=kind.name, log=log)
        _run([str(home / "bin/python"), "-m", "pip", "install", kind.python_package], name=kind.name, log=log)
    elif kind.node_package:
        npm = shutil.which("npm")
        if npm is None:
            raise BenchError(f"{kind.name} needs npm: install Node.js first")
        home.mkdir(parents=True, exist_ok=True)
        _run([npm, "install", "--prefix", str(home), kind.node_package], name=kind.name, log=log)
    else:
        raise BenchError(f"{kind.name} comes with your system: install it there")


def version(kind: PeerKind, *, peers_dir: Path) -> str:
    """By the installer's own records; empty where there are none."""
    home = peers_dir / kind.name
    if kind.python_package:
        name = kind.python_package.partition("[")[0].replace("-", "_")
        found = sorted(home.glob(f"lib/python*/site-packages/{name}-*.dist-info"))
        return found[0].name.removeprefix(f"{name}-").removesuffix(".dist-info") if found else ""
    if kind.node_package:
        with contextlib.suppress(OSError, ValueError):
            text = (home / "node_modules" / kind.node_package / "package.json").read_text()
            return str(json.loads(text)["version"])
        return ""
    done = subprocess.run(  # noqa: S603 -- found before
        [kind.program, "-v"], capture_output=True, text=True, check=False
    )
    words = (done.stdout + done.stderr).replace("/", " ").split()
    return next((word for word in words if word[:1].isdigit()), "")


def _run(argv: list[str], *, name: str, log: Path) -> None:
    with log.open("ab") as output:
        try:
            done = subprocess.run(  # noqa: S603 -- an installer of the machine
                argv,
                stdout=output,
                stderr=output,
                stdin=subprocess.DEVNULL,
                timeout=INSTALL_TIMEOUT_S,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise BenchError(f"{name} cannot be installed: {error}") from error
    if done.returncode:
        last_words = "\n".join(log.read_text(errors="replace").splitlines()[-12:])
        raise BenchError(f"{name} cannot be installed:\n{last_words}")


def _litellm(program: str, place: Place) -> Launch:
    config = place.scratch / "config.yaml"
    config.write_text(LITELLM_CONFIG.format(model=MODEL, port=place.upstream_port))
    key = f"sk-{secrets.token_hex(32)}"
    return Launch(
        argv=[
            *(program, "--config", str(config), "--host", HOST, "--port", str(place.port)),
            *("--num_workers", "1", "--telemetry", "False"),
        ],
        health_path="/health/readiness",
        # Its list of prices would otherwise be fetched from the network, and each request logged.
        env={"LITELLM_MASTER_KEY": key, "LITELLM_LOCAL_MODEL_COST_MAP": "True", "LITELLM_LOG": "ERROR"},
        key=key,
    )


def _portkey(program: str, place: Place) -> Launch:
    node = shutil.which("node")
    if node is None:
        raise BenchError("portkey needs node: install Node.js first")
    return Launch(
        argv=[node, program, f"--port={place.port}", "--headless"],
        health_path="/",
        env={"NODE_ENV": "production"},
        headers={"x-portkey-provider": "openai", "x-portkey-custom-host": f"{place.upstream}/v1"},
    )


def _sglang_router(program: str, place: Place) -> Launch:
    return Launch(argv=[program, "launch", *_router_options(place, log_level="warn")], health_path="/health")


def _vllm_router(program: str, place: Place) -> Launch:
    return Launch(argv=[program, *_router_options(place, log_level="warning")], health_path="/health")


def _router_options(place: Place, *, log_level: str) -> list[str]:
    return [
        *("--worker-urls", place.upstream, "--host", HOST, "--port", str(place.port)),
        *("--policy", "round_robin", "--log-level", log_level, "--prometheus-port", str(free_port())),
    ]


def _nginx(program: str, place: Place) -> Launch:
    configuration = proxies.nginx_proxy(
        port=place.port, upstream_port=place.upstream_port, folder=place.scratch
    )
    return Launch(
        argv=proxies.nginx_argv(program, configuration, folder=place.scratch), health_path="/health"
    )


def _haproxy(program: str, place: Place) -> Launch:
    path = place.scratch / "haproxy.cfg"
    path.write_text(proxies.haproxy(port=place.port, upstream_port=place.upstream_port))
    return Launch(argv=[program, "-db", "-f", str(path)], health_path="/health")


KINDS = {
    kind.name: kind
    for kind in (
        PeerKind(name="nginx", program="nginx", launch=_nginx),
        PeerKind(name="haproxy", program="haproxy", launch=_haproxy),
        PeerKind(
            name="sglang-router",
            program="bin/sglang-router",
            launch=_sglang_router,
            python_package="sglang-router",
        ),
        PeerKind(
            name="vllm-router", program="bin/vllm-router", launch=_vllm_router, python_package="vllm-router"
        ),
        PeerKind(
            name="portkey",
            program="node_modules/@portkey-ai/gateway/build/start-server.js",
            launch=_portkey,
            node_package="@portkey-ai/gateway",
            # Its streams end with 500: version 1.15.2 adds headers where Node 20 and 22 allow none.
            is_streaming=False,
        ),
        PeerKind(name="litellm", program="bin/litellm", launch=_litellm, python_package="litellm[proxy]"),
    )
}
