"""The benchmark's upstream in a process of its own, for the tests that need one."""

import sys
from dataclasses import dataclass

import orjson
import pytest

from gateway.bench.processes import Cores, Running, call, free_port, wait_for_status
from gateway.bench.stub import MODE_PATH
from gateway.bench.target import Target


@dataclass(frozen=True)
class RunningStub:
    port: int
    running: Running

    @property
    def target(self):
        return Target(name="direct", port=self.port, model="bench-model")

    def set_mode(self, **values):
        answer = call(port=self.port, method="POST", path=MODE_PATH.decode(), body=orjson.dumps(values))
        return orjson.loads(answer[1])


@pytest.fixture(scope="module")
def stub_process(tmp_path_factory):
    port = free_port()
    argv = [sys.executable, "-m", "gateway.bench.stub", str(port)]
    log = tmp_path_factory.mktemp("stub") / "log"
    running = Running(argv, name="stub", cores=Cores.of_this_machine().load, log=log)
    try:
        wait_for_status(running, port=port, path="/v1/models", timeout_s=20)
        yield RunningStub(port=port, running=running)
    finally:
        running.stop()


@pytest.fixture
def stub(stub_process):
    stub_process.set_mode()
    return stub_process
