import os
import sys
import time
from pathlib import Path

import pytest

from gateway.bench.processes import BenchError, Cores, Running, free_port, pinned, tree, wait_for_status

CORES = frozenset(os.sched_getaffinity(0))
# A parent that works for a while, and a child that only waits.
WORKING = """
import subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
while time.process_time() < 0.3: pass
print(child.pid, flush=True)
time.sleep(60)
"""


def started(script, tmp_path, *, cores=CORES):
    return Running([sys.executable, "-c", script], name="script", cores=cores, log=tmp_path / "log")


@pytest.fixture
def working(tmp_path):
    running = started(WORKING, tmp_path)
    deadline_s = time.monotonic() + 20
    while not running.last_words():
        assert time.monotonic() < deadline_s
        time.sleep(0.01)
    yield running, int(running.last_words())
    running.stop()


def is_alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_tree_is_counted_whole(working):
    running, child = working

    assert tree(running.pid) == [running.pid, child]
    assert 0.25 <= running.cpu_s() < 5
    assert running.thread_count() == 2
    assert running.pss_bytes() > 2 * 1024 * 1024


def test_stop_leaves_nobody(working):
    running, child = working

    running.stop()

    with pytest.raises(ProcessLookupError):
        os.kill(running.pid, 0)
    # It was killed; who reaps it is another's business.
    deadline_s = time.monotonic() + 20
    while is_alive(child):
        assert time.monotonic() < deadline_s
        time.sleep(0.01)


def test_cores_are_those_it_was_started_on(tmp_path):
    one = frozenset([min(CORES)])
    running = started("import time; time.sleep(60)", tmp_path, cores=one)
    try:
        assert os.sched_getaffinity(running.pid) == one
        assert os.sched_getaffinity(0) == CORES
    finally:
        running.stop()


def test_pinning_ends_with_its_block():
    with pinned(frozenset([max(CORES)])):
        assert os.sched_getaffinity(0) == {max(CORES)}

    assert os.sched_getaffinity(0) == CORES


def test_one_core_is_shared():
    assert Cores(subject=frozenset([0]), load=frozenset([0])).are_shared
    assert not Cores(subject=frozenset([0]), load=frozenset([1])).are_shared


def test_a_process_that_ends_too_early_is_quoted(tmp_path):
    running = started("raise SystemExit('the port is taken')", tmp_path)
    try:
        with pytest.raises(BenchError, match=r"script ended with exit code 1:\nthe port is taken"):
            wait_for_status(running, port=free_port(), path="/", timeout_s=20)
    finally:
        running.stop()


def test_a_process_that_never_answers_is_given_up(tmp_path):
    running = started("import time; time.sleep(60)", tmp_path)
    try:
        with pytest.raises(BenchError, match="script was not ready within 0 s"):
            wait_for_status(running, port=free_port(), path="/", timeout_s=0.1)
    finally:
        running.stop()


def test_a_program_that_is_not_there_is_named(tmp_path):
    with pytest.raises(BenchError, match="ghost: cannot start /nowhere/ghost: No such file or directory"):
        Running(["/nowhere/ghost"], name="ghost", cores=CORES, log=tmp_path / "log")
