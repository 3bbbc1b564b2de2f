"""Runs real llama.cpp, through xllamacpp, on one model file.

Chat, completions and embeddings (mean pooling) work side by side on this version, and so do
/v1/responses, /v1/messages, /metrics and /slots. With a key all but /health and /v1/models ask for it.
"""

import os
import select
import signal
import stat
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import xllamacpp

from clusters.demo.tiny_model import CONTEXT_TOKENS_MAX, MODEL_NAME


def serve(
    *,
    model_path: Path,
    host: str,
    port: int,
    api_key: str | None,
    parallel: int,
    ready: Callable[[str], None],
) -> NoReturn:
    """Serve until SIGTERM, SIGINT or the end of stdin, then end the process with exit code 0.

    Port 0 takes a free one; `ready` is called with the base URL once the model answers. Must run in
    the main thread, which receives the signals.
    """
    # The handlers stand before the server does: a signal while the model loads is not lost.
    wakeup = listen_for_signals()
    server = xllamacpp.Server(
        parameters(model_path=model_path, host=host, port=port, api_key=api_key, parallel=parallel)
    )
    ready(server.listening_address)
    wait_for_end(wakeup=wakeup)
    # The destructor of xllamacpp.Server deadlocks, and keeps the GIL, while a stream is open. So it
    # never runs: the kernel takes back threads, sockets and memory at once.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


def parameters(
    *, model_path: Path, host: str, port: int, api_key: str | None, parallel: int
) -> xllamacpp.CommonParams:
    chosen = xllamacpp.CommonParams()
    chosen.model.path = str(model_path)
    chosen.model_alias = {MODEL_NAME}
    chosen.hostnames = [host]
    chosen.port = port
    chosen.api_keys = [api_key] if api_key else []
    chosen.n_ctx = CONTEXT_TOKENS_MAX
    chosen.n_parallel = parallel
    chosen.endpoint_metrics = True
    chosen.endpoint_slots = True
    chosen.embedding = True
    chosen.pooling_type = xllamacpp.llama_pooling_type.LLAMA_POOLING_TYPE_MEAN
    # The model is so small that a second thread costs more than it brings.
    chosen.cpuparams.n_threads = 1
    chosen.cpuparams_batch.n_threads = 1
    chosen.warmup = False
    # Warnings and errors; more would drown the demo's own lines.
    chosen.verbosity = 2
    return chosen


def listen_for_signals() -> int:
    """A file descriptor that becomes readable when SIGTERM or SIGINT arrives."""
    wakeup, tell = os.pipe()
    os.set_blocking(tell, False)
    signal.set_wakeup_fd(tell, warn_on_full_buffer=False)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda _number, _frame: None)
    return wakeup


def wait_for_end(*, wakeup: int) -> None:
    """Wait for a signal, or for the parent that holds the other end of our stdin to go.

    A terminal or /dev/null is not watched: the one is not ours to read in the background, the other
    is at its end from the beginning.
    """
    watched = [wakeup]
    if stat.S_ISFIFO(os.fstat(sys.stdin.fileno()).st_mode):
        watched.append(sys.stdin.fileno())
    while True:
        readable, _, _ = select.select(watched, [], [])
        if wakeup in readable or not os.read(sys.stdin.fileno(), 4096):
            return
