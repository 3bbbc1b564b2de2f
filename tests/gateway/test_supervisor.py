import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from gateway import supervisor as supervising
from gateway.supervisor import ChildFailedError, ChildSpec, Supervisor
from gateway.watchdog import end_groups, surviving_groups

ROOT = Path(__file__).resolve().parent.parent.parent
SLEEPER = "import time; print('up', flush=True); time.sleep(60)"
STUBBORN = f"import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); {SLEEPER}"


def spec(name, code, **changes):
    fields = {"stop_grace_s": 5.0, "restart": True, "env": dict(os.environ)} | changes
    return ChildSpec(name=name, argv=(sys.executable, "-S", "-c", code), **fields)


def is_alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    status = Path(f"/proc/{pid}/stat")
    # A zombie has ended; whoever adopted it has not looked yet.
    try:
        return status.read_text().rpartition(")")[2].split()[0] != "Z"
    except ProcessLookupError:
        return False  # it ended while it was looked at
    except FileNotFoundError:
        return not status.parent.parent.exists()  # no /proc to ask


def wait_for(condition, timeout_s=10.0):
    deadline_s = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline_s, "waited in vain"
        time.sleep(0.02)


def has_logged(supervisor, name, text="up"):
    log = supervisor.log_dir / f"{name}.log"
    return lambda: log.exists() and text in log.read_text()


@pytest.fixture
def said():
    return []


@pytest.fixture
def supervisor(tmp_path, said):
    with Supervisor(log_dir=tmp_path / "logs", say=said.append) as supervisor:
        yield supervisor


def test_leaving_the_context_ends_every_child(tmp_path, said):
    with Supervisor(log_dir=tmp_path / "logs", say=said.append) as supervisor:
        supervisor.start(spec("one", SLEEPER))
        supervisor.start(spec("two", SLEEPER))
        pids = [supervisor.group_of("one"), supervisor.group_of("two")]
        assert [is_alive(pid) for pid in pids] == [True, True]

    assert [is_alive(pid) for pid in pids] == [False, False]
    assert said == []


def test_child_log_of_the_start_before_is_kept_aside(tmp_path, said):
    logs = tmp_path / "logs"
    for word in ("first", "second"):
        with Supervisor(log_dir=logs, say=said.append) as supervisor:
            supervisor.start(spec("child", f"import time; print('{word}', flush=True); time.sleep(60)"))
            assert supervisor.wait_until(has_logged(supervisor, "child", word), timeout_s=10)

    assert {path.name: path.read_text() for path in logs.iterdir()} == {
        "child.log": "second\n",
        "child.log.1": "first\n",
    }


def test_fallen_child_is_started_again_and_its_last_words_are_said(supervisor, said, monkeypatch):
    monkeypatch.setattr(supervising, "RESTART_PAUSE_S_MAX", 0.1)
    supervisor.start(spec("worker", "print('no broker'); raise SystemExit(7)"))

    def has_fallen_twice():
        return len(said) >= 2

    assert supervisor.wait_until(has_fallen_twice, timeout_s=10)
    assert said[0] == (
        "worker ended with exit code 7; starting it again in 0.1 s. "
        f"The end of {supervisor.log_dir}/worker.log:\n    no broker"
    )


def test_pause_before_a_restart_doubles_up_to_its_limit(supervisor, said, monkeypatch):
    monkeypatch.setattr(supervising, "POLL_S", 0)
    child = supervising._Child(spec=spec("worker", "raise SystemExit(1)"))
    supervisor._children["worker"] = child

    for _fall in range(supervising.RESTARTS_MAX):
        supervisor._spawn(child)
        child.process.wait()
        supervisor._handle_fall(child, exit_code=1)

    pauses = [text.partition(" again in ")[2].partition(" s.")[0] for text in said]
    assert pauses == ["1", "2", "4", "8", "16", "30", "30", "30"]


def test_child_that_always_falls_is_given_up(supervisor, said, monkeypatch):
    monkeypatch.setattr(supervising, "RESTART_PAUSE_S_MAX", 0)
    monkeypatch.setattr(supervising, "RESTARTS_MAX", 2)
    supervisor.start(spec("worker", "raise SystemExit(1)"))

    def is_given_up():
        return any("going on without it" in text for text in said)

    assert supervisor.wait_until(is_given_up, timeout_s=10)
    assert len(said) == 3
    assert said[-1].startswith("worker ended with exit code 1 3 times in a row; going on without it.")


def test_child_killed_by_a_signal_is_named_so(supervisor, said):
    supervisor.start(spec("worker", SLEEPER))
    os.kill(supervisor.group_of("worker"), signal.SIGKILL)

    assert supervisor.wait_until(lambda: said, timeout_s=10)
    assert said[0].startswith("worker ended with signal SIGKILL; starting it again in 1 s.")


def test_essential_child_with_a_fatal_exit_code_ends_all(supervisor, said):
    web = spec(
        "web",
        "print('port 8000 is taken'); raise SystemExit(2)",
        is_essential=True,
        fatal_exit_codes=frozenset({2, 3}),
    )
    supervisor.start(web)

    with pytest.raises(ChildFailedError) as caught:
        supervisor.watch()

    assert str(caught.value) == (
        f"web ended with exit code 2. The end of {supervisor.log_dir}/web.log:\n    port 8000 is taken"
    )
    assert caught.value.exit_code == 2


def test_wait_until_gives_up_after_its_time(supervisor):
    assert supervisor.wait_until(lambda: False, timeout_s=0.05) is False


def test_signal_ends_the_watch(supervisor):
    supervisor.start(spec("web", SLEEPER))
    signal.raise_signal(signal.SIGTERM)

    supervisor.watch()

    assert supervisor.is_stopping


def test_higher_stages_end_first(tmp_path, said):
    trace = tmp_path / "trace"
    code = (
        "import signal, sys, time\n"
        "def end(*_):\n"
        "    time.sleep(0.2)\n"
        f"    open({str(trace)!r}, 'a').write('{{name}}\\n')\n"
        "    sys.exit(0)\n"
        "signal.signal(signal.SIGTERM, end)\n"
        "print('up', flush=True)\n"
        "time.sleep(60)\n"
    )
    with Supervisor(log_dir=tmp_path / "logs", say=said.append) as supervisor:
        for stage, name in enumerate(("valkey", "worker", "web")):
            supervisor.start(spec(name, code.replace("{name}", name), stage=stage))
        for name in ("valkey", "worker", "web"):
            assert supervisor.wait_until(has_logged(supervisor, name), timeout_s=10)

    assert trace.read_text().split() == ["web", "worker", "valkey"]


def test_child_that_ignores_the_stop_is_killed_after_its_grace(tmp_path, said):
    with Supervisor(log_dir=tmp_path / "logs", say=said.append) as supervisor:
        supervisor.start(spec("stubborn", STUBBORN, stop_grace_s=0.2))
        assert supervisor.wait_until(has_logged(supervisor, "stubborn"), timeout_s=10)
        pid = supervisor.group_of("stubborn")

    assert not is_alive(pid)
    assert said == ["stubborn did not end within 0.2 s: killed"]


def test_second_signal_hurries_the_stop(tmp_path, said, monkeypatch):
    monkeypatch.setattr(supervising, "HURRIED_GRACE_S", 0.1)
    begun_s = time.monotonic()

    with Supervisor(log_dir=tmp_path / "logs", say=said.append) as supervisor:
        supervisor.start(spec("stubborn", STUBBORN, stop_grace_s=60))
        assert supervisor.wait_until(has_logged(supervisor, "stubborn"), timeout_s=10)
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)

    assert said == []  # SIGINT, which a hurried stop sends, ends it before the kill
    assert time.monotonic() - begun_s < 10


def test_children_of_a_fallen_child_fall_with_it(supervisor, said):
    code = (
        "import subprocess, sys\n"
        f"child = subprocess.Popen([sys.executable, '-S', '-c', {SLEEPER!r}])\n"
        "print('grandchild', child.pid, flush=True)\n"
        "raise SystemExit(1)\n"
    )
    supervisor.start(spec("worker", code))
    assert supervisor.wait_until(lambda: said, timeout_s=10)

    words = (supervisor.log_dir / "worker.log").read_text().split()
    grandchild = int(words[words.index("grandchild") + 1])

    wait_for(lambda: not is_alive(grandchild))


def test_watchdog_that_dies_is_replaced(supervisor, said):
    supervisor.start(spec("worker", SLEEPER))
    os.kill(supervisor._watchdog.pid, signal.SIGKILL)

    assert supervisor.wait_until(lambda: said, timeout_s=10)
    assert said == ["the watchdog ended; starting another"]
    assert is_alive(supervisor._watchdog.pid)


def test_long_log_is_cut_and_kept_aside(supervisor, monkeypatch):
    monkeypatch.setattr(supervising, "LOG_BYTES_MAX", 10)
    supervisor.start(spec("worker", "import time; print('x' * 20, flush=True); time.sleep(60)"))
    assert supervisor.wait_until(has_logged(supervisor, "worker", "x" * 20), timeout_s=10)

    supervisor._cut_logs()

    assert (supervisor.log_dir / "worker.log").read_text() == ""
    assert (supervisor.log_dir / "worker.log.1").read_text() == "x" * 20 + "\n"


PARENT = textwrap.dedent("""
    import os, sys
    from pathlib import Path
    from gateway.supervisor import ChildSpec, Supervisor

    with Supervisor(log_dir=Path(sys.argv[1]), say=print, is_death_signal_on={death_signal},
                    is_watchdog_on={watchdog}) as supervisor:
        for name in ("one", "two"):
            argv = (sys.executable, "-S", "-c", "import time; print('up', flush=True); time.sleep(60)")
            spec = ChildSpec(name=name, argv=argv, env=dict(os.environ), stop_grace_s=5, restart=True)
            supervisor.start(spec)
        watchdog = supervisor._watchdog.pid if supervisor._watchdog else 0
        print(supervisor.group_of("one"), supervisor.group_of("two"), watchdog, flush=True)
        supervisor.watch()
""")


@pytest.mark.parametrize(
    ("death_signal", "watchdog"),
    [
        pytest.param(
            True,
            False,
            id="death-signal-alone",
            marks=pytest.mark.skipif(sys.platform != "linux", reason="prctl is Linux's"),
        ),
        pytest.param(False, True, id="watchdog-alone"),
        pytest.param(True, True, id="both"),
    ],
)
def test_killed_parent_leaves_no_orphan(tmp_path, death_signal, watchdog):
    code = PARENT.format(death_signal=death_signal, watchdog=watchdog)
    with subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True, cwd=ROOT
    ) as parent:
        pids = [int(word) for word in parent.stdout.readline().split() if word != "0"]
        assert [is_alive(pid) for pid in pids] == [True] * len(pids)

        parent.kill()

    assert len(pids) == (3 if watchdog else 2)
    wait_for(lambda: not any(is_alive(pid) for pid in pids))


def test_watchdog_forgets_groups_that_ended():
    assert surviving_groups([b"+10\n", b"+11\n", b"-10\n", b"+12\n"]) == {11, 12}


def test_watchdog_kills_what_ignores_its_request():
    with subprocess.Popen(
        [sys.executable, "-S", "-c", STUBBORN], start_new_session=True, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout.readline() == b"up\n"

        end_groups({process.pid}, grace_s=0.1)

        assert process.wait() == -signal.SIGKILL


def test_children_without_a_folder_of_logs_write_where_we_do(said, capfd):
    with Supervisor(log_dir=None, say=said.append) as supervisor:
        supervisor.start(spec("one", "print('up', flush=True); raise SystemExit(3)", restart=False))
        assert supervisor.wait_until(lambda: bool(said), timeout_s=10)

    assert capfd.readouterr().out == "up\n"
    assert said == ["one ended with exit code 3; going on without it. Its log is above."]


def test_end_of_each_process_is_told(supervisor):
    ended = []
    supervisor.start(spec("one", SLEEPER, on_end=ended.append))
    first = supervisor.group_of("one")
    os.kill(first, signal.SIGKILL)
    assert supervisor.wait_until(lambda: supervisor.group_of("one") not in {None, first}, timeout_s=10)
    second = supervisor.group_of("one")
    supervisor.stop_all()

    assert ended == [first, second]
