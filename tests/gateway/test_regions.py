"""Regions of shared memory: rows arrive whole, also from a process that writes without a pause."""

import os
import signal
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest

from gateway import regions
from gateway.regions import OwnRegion, PeerRegion, RegionError
from routing.sharing import FIELDS

ROOT = Path(__file__).resolve().parent.parent.parent
# Writes rows whose fields are all alike, as fast as it can, until it is killed.
HAMMER = """
import sys
from pathlib import Path
from gateway.regions import OwnRegion
from routing.sharing import FIELDS

own = OwnRegion(Path(sys.argv[1]))
print("ready", flush=True)
number = 0
while True:
    number += 1
    own.publish(f"d{number % 3}", (number * 1_000_000_007,) * FIELDS)
"""


@contextmanager
def hammering(path):
    with subprocess.Popen(
        [sys.executable, "-c", HAMMER, str(path)], cwd=ROOT, stdout=subprocess.PIPE
    ) as process:
        try:
            assert process.stdout.readline() == b"ready\n"
            yield process
        finally:
            process.kill()


@pytest.fixture
def own(tmp_path):
    made = OwnRegion(tmp_path / "own.process")
    yield made
    made.close()


def row_of(number):
    return (number,) * FIELDS


def test_peer_reads_what_was_published_and_only_what_changed_since(own):
    own.publish("first", row_of(1))
    own.publish("second", row_of(2))
    with PeerRegion(own.path) as peer:
        first = dict(peer.changed())
        own.publish("second", row_of(-3))
        second = dict(peer.changed())
        third = peer.changed()

        assert first == {"first": row_of(1), "second": row_of(2)}
        assert second == {"second": row_of(-3)}
        assert third == []


def test_peer_that_slept_through_the_ring_reads_all_rows(own):
    for name in ("rare", "often"):
        own.publish(name, row_of(0))
    with PeerRegion(own.path) as peer:
        peer.changed()
        own.publish("rare", row_of(7))
        for number in range(regions.RING_WORDS * 3):
            own.publish("often", row_of(number))

        assert dict(peer.changed()) == {"rare": row_of(7), "often": row_of(regions.RING_WORDS * 3 - 1)}


def test_row_that_is_being_written_is_read_later(own):
    own.publish("d", row_of(1))
    version_at = regions.FIRST_ROW_AT + regions.VERSION_AT
    with PeerRegion(own.path) as peer:
        own._words[version_at] += 1  # as if its owner had stopped in the middle
        during = peer.changed()
        own._words[version_at] += 1
        after = peer.changed()

        assert (during, after) == ([], [("d", row_of(1))])


def test_rows_of_a_hammering_process_are_never_torn(tmp_path):
    path = tmp_path / "hammer.process"
    with hammering(path), PeerRegion(path) as peer:
        latest = {}
        read_count = 0
        while read_count < 30_000:
            for name, row in peer.changed():
                assert row == row_of(row[0])
                assert row[0] >= latest.get(name, 0)
                latest[name] = row[0]
                read_count += 1

        assert sorted(latest) == ["d0", "d1", "d2"]


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGTERM])
def test_owner_is_dead_when_its_lock_is_free(tmp_path, end):
    path = tmp_path / "hammer.process"
    with hammering(path) as process, PeerRegion(path) as peer:
        before = peer.is_dead()
        os.kill(process.pid, end)
        process.wait()

        assert (before, peer.is_dead()) == (False, True)


def test_stopped_process_is_not_dead(tmp_path):
    path = tmp_path / "hammer.process"
    with hammering(path) as process, PeerRegion(path) as peer:
        os.kill(process.pid, signal.SIGSTOP)

        assert not peer.is_dead()


def test_closed_region_is_gone(own):
    with PeerRegion(own.path) as peer:
        own.close()
        own.close()

        assert (peer.is_dead(), own.path.exists()) == (True, False)


@pytest.mark.parametrize(
    "content",
    [b"", b"short", bytes(regions.SIZE_BYTES), b"\xff" * regions.SIZE_BYTES],
    ids=["empty", "short", "zeros", "ones"],
)
def test_file_that_is_no_region_is_refused(tmp_path, content):
    path = tmp_path / "x.process"
    path.write_bytes(content)

    with pytest.raises(RegionError, match=r"x\.process (is not \d+ bytes long|has another layout)"):
        PeerRegion(path)


def test_deployments_beyond_the_room_and_long_ids_are_kept_to_oneself(own):
    accepted = [own.publish(f"d{number}", row_of(number)) for number in range(regions.ROWS_MAX + 2)]

    assert accepted == [True] * regions.ROWS_MAX + [False] * 2
    assert not own.publish("x" * (regions.ID_BYTES + 1), row_of(0))
    with PeerRegion(own.path) as peer:
        assert len(peer.changed()) == regions.ROWS_MAX


def test_folder_without_room_is_refused_at_the_start(tmp_path, monkeypatch):
    def full(descriptor, offset, size):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)

    with pytest.raises(OSError, match="No space left"):
        OwnRegion(tmp_path / "own.process")
    assert list(tmp_path.iterdir()) == []
