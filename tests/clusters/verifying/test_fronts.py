"""What holds of each front alike: ASGI, WSGI, and the service as nginx and as Envoy ask it."""

import random
import time

import pytest

from clusters.verifying.signatures import FileVerifier, Verifier
from tests.clusters.verifying.requests import mutated, signed
from tests.fakes.verifying_fronts import FRONTS, run_front


def fresh(**values):
    return signed(now_s=int(time.time()), **values)  # noqa: TID251 -- the fronts read the clock


@pytest.fixture(params=FRONTS)
def kind(request):
    return request.param


def is_another_request(request, original, *, kind):
    """White space around a value is no part of it on the wire, and nginx does not show the body."""
    seen, before = (
        {
            **{name: one[name].strip() for name in ("method", "authority", "path", "query")},
            "body": b"" if kind == "nginx" else one["body"],
            "headers": {
                name: value.strip()
                for name, value in one["headers"].items()
                if kind != "nginx" or not name.startswith("x-")
            },
        }
        for one in (request, original)
    )
    return seen != before


def test_front_accepts_what_was_signed_and_only_once(kind):
    request = fresh()

    with run_front(kind, verifier=Verifier(secrets=["s3cret"])) as ask:
        statuses = [ask(request) for _ in range(5)]

    assert statuses == [200, 401, 401, 401, 401]


def test_front_accepts_none_of_a_thousand_mutations(kind):
    chance = random.Random(9421)
    accepted, refused_count = [], 0

    with run_front(kind, verifier=Verifier(secrets=["s3cret", "other"])) as ask:
        for number in range(1200):
            original = fresh(nonce=f"nonce-{number:08}")
            request = mutated(original, chance)
            if not is_another_request(request, original, kind=kind):
                continue
            if ask(request) == 200:
                accepted.append(request)
            else:
                refused_count += 1
        untouched = ask(fresh(nonce="nonce-untouched"))

    assert accepted == []
    assert untouched == 200
    assert refused_count >= (700 if kind == "nginx" else 1000)


def test_front_accepts_both_secrets_of_a_rotation_and_not_the_retired_one(kind, tmp_path):
    path = tmp_path / "secrets"
    path.write_text("new\nold\n")

    with run_front(kind, verifier=FileVerifier(path=path)) as ask:
        both = [ask(fresh(secret=secret, nonce=f"nonce-{secret}-1")) for secret in ("old", "new")]
        path.write_text("new\n")
        after = [ask(fresh(secret=secret, nonce=f"nonce-{secret}-2")) for secret in ("old", "new")]

    assert (both, after) == ([200, 200], [401, 200])


@pytest.mark.parametrize("apart_s", [-65, 65])
def test_front_refuses_clocks_too_far_apart(kind, apart_s):
    now_s = int(time.time())  # noqa: TID251 -- the fronts read the clock

    with run_front(kind, verifier=Verifier(secrets=["s3cret"])) as ask:
        assert ask(signed(now_s=now_s + apart_s)) == 401


def test_front_refuses_a_body_that_is_not_the_one_of_the_digest(kind):
    request = {**fresh(), "body": b'{"model":"llama-3-8b","messages":[1]}'}

    with run_front(kind, verifier=Verifier(secrets=["s3cret"])) as ask:
        status = ask(request)

    # nginx does not pass the body on: what is not seen cannot be compared, and the docs say so.
    assert status == (200 if kind == "nginx" else 401)
