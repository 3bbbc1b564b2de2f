import sqlite3
from concurrent.futures import ThreadPoolExecutor

import pytest

from clusters.verifying.nonces import NonceFile, NonceMemory

NOW_S = 1_900_000_000
KEPT_S = 120


@pytest.fixture(params=["memory", "file"])
def make_store(request, tmp_path):
    def make(*, nonces_max):
        if request.param == "memory":
            return NonceMemory(nonces_max=nonces_max)
        return NonceFile(tmp_path / "nonces", nonces_max=nonces_max)

    return make


def asked(store, nonce, *, now_s=NOW_S):
    return store.problem(nonce=nonce, now_s=now_s, kept_s=KEPT_S)


def test_nonce_is_good_once_until_it_is_forgotten(make_store):
    store = make_store(nonces_max=10)

    reasons = [asked(store, "a", now_s=NOW_S + later) for later in (0, 0, 1, KEPT_S, KEPT_S + 1)]

    assert reasons == [None, *["nonce was used before"] * 3, None]


def test_store_when_full_refuses_rather_than_forgets(make_store):
    store = make_store(nonces_max=2)

    reasons = [asked(store, nonce) for nonce in ("a", "b", "c", "c")]
    later = asked(store, "c", now_s=NOW_S + KEPT_S + 1)

    assert reasons == [None, None, *["too many requests within the replay window"] * 2]
    assert later is None


def test_store_lets_one_of_many_threads_in(make_store):
    store = make_store(nonces_max=1000)

    with ThreadPoolExecutor(8) as pool:
        reasons = list(pool.map(lambda number: asked(store, f"n{number % 20}"), range(160)))

    assert reasons.count(None) == 20
    assert set(reasons) == {None, "nonce was used before"}


def test_nonce_file_is_shared_and_outlives_its_process(tmp_path):
    first, second = NonceFile(tmp_path / "nonces"), NonceFile(tmp_path / "nonces")

    reasons = [asked(first, "a"), asked(second, "a"), asked(second, "b"), asked(first, "b")]

    assert reasons == [None, "nonce was used before", None, "nonce was used before"]
    assert asked(NonceFile(tmp_path / "nonces"), "a") == "nonce was used before"


def test_nonce_file_that_cannot_be_used_refuses(tmp_path):
    (tmp_path / "nonces").write_text("no database, and long enough to be told from an empty file" * 20)

    assert asked(NonceFile(tmp_path / "nonces"), "a") == "the memory of nonces cannot be used"


def test_nonce_file_bounds_what_it_keeps(tmp_path):
    store = NonceFile(tmp_path / "nonces", nonces_max=50)

    for number in range(500):
        asked(store, f"n{number}", now_s=NOW_S + number)

    connection = sqlite3.connect(tmp_path / "nonces")
    count = connection.execute("SELECT count(*) FROM nonces").fetchone()[0]
    connection.close()
    assert count <= 50
