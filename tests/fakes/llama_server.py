"""The real llama.cpp server for tests, in a process of its own, on a tiny model."""

import os
import subprocess
import sys
from contextlib import contextmanager
from dataclasses import dataclass

from clusters.demo.tiny_model import write_tiny_model

RUN = """
import sys
from pathlib import Path
from clusters.demo.llama_server import serve
def ready(url):
    print(url, flush=True)
serve(model_path=Path(sys.argv[1]), host="127.0.0.1", port=0, api_key=sys.argv[2], parallel=2, ready=ready)
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Llama:
    url: str
    process: subprocess.Popen[str]


@contextmanager
def llama_starter(folder, *, api_key=""):
    """A function that starts a server; those that still run are ended at last."""
    path = folder / "tiny.gguf"
    write_tiny_model(path=path)
    started = []

    def start(*, stdin=subprocess.DEVNULL):
        process = subprocess.Popen(
            [sys.executable, "-c", RUN, str(path), api_key],
            stdin=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        )
        started.append(process)
        assert process.stdout is not None
        return Llama(url=process.stdout.readline().strip(), process=process)

    try:
        yield start
    finally:
        for process in started:
            process.kill()
            process.wait()
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    pipe.close()
