import random
import time

import pytest

from clusters.verifying.nonces import NonceMemory
from clusters.verifying.signatures import FileVerifier, Verifier, VerifierError, make_verifier
from tests.clusters.rows import CANARY
from tests.clusters.verifying.requests import NOW_S, mutated, signed


def test_verifier_accepts_what_was_signed():
    assert Verifier(secrets=["s3cret"]).verify(**signed(), now_s=NOW_S) is None


def test_verifier_accepts_requests_without_query_and_body():
    request = signed(method="GET", path="/health", query="", body=b"")

    assert Verifier(secrets=["s3cret"]).verify(**request, now_s=NOW_S) is None


def test_verifier_accepts_old_and_new_secret_in_a_rotation():
    verifier = Verifier(secrets=["new", "old"])

    reasons = [
        verifier.verify(**signed(secret=secret, nonce=f"nonce-{secret}-1"), now_s=NOW_S)
        for secret in ("new", "old", "older")
    ]

    assert reasons == [None, None, "signature does not match"]


def test_verifier_refuses_replays():
    verifier = Verifier(secrets=["s3cret"])
    request = signed()
    assert verifier.verify(**request, now_s=NOW_S) is None

    reasons = {verifier.verify(**request, now_s=NOW_S + later) for later in range(61)}

    assert reasons == {"nonce was used before"}


@pytest.mark.parametrize(
    ("late_s", "reason"),
    [(-61, "created is too far from now"), (-60, None), (60, None), (61, "created is too far from now")],
)
def test_verifier_refuses_what_is_too_old_or_too_new(late_s, reason):
    assert Verifier(secrets=["s3cret"]).verify(**signed(), now_s=NOW_S + late_s) == reason


def test_verifier_when_full_refuses_rather_than_forgets():
    verifier = Verifier(secrets=["s3cret"], nonces=NonceMemory(nonces_max=2))
    requests = [signed(nonce=f"nonce-{number:08}") for number in range(3)]

    reasons = [verifier.verify(**request, now_s=NOW_S) for request in requests]
    later = verifier.verify(**signed(nonce="nonce-later", now_s=NOW_S + 200), now_s=NOW_S + 200)

    assert reasons == [None, None, "too many requests within the replay window"]
    assert later is None


def test_verifier_needs_the_simple_signature_to_match_where_it_is_sent():
    request = signed()
    request["headers"]["x-signature"] = "0" * 64

    assert Verifier(secrets=["s3cret"]).verify(**request, now_s=NOW_S) == "x-signature does not match"


def test_verifier_does_not_take_the_simple_signature_alone():
    request = signed()
    request["headers"] = {name: request["headers"][name] for name in ("x-timestamp", "x-signature")}

    reason = Verifier(secrets=["s3cret"]).verify(**request, now_s=NOW_S)

    assert reason == "signature-input is missing or not of the expected form"


def test_verifier_accepts_none_of_a_thousand_mutations():
    chance = random.Random(9421)
    verifier = Verifier(secrets=["s3cret", "other"])

    accepted = []
    for number in range(1000):
        request = mutated(signed(nonce=f"nonce-{number:08}"), chance)
        if verifier.verify(**request, now_s=NOW_S) is None:
            accepted.append(request)

    assert accepted == []
    assert verifier.verify(**signed(), now_s=NOW_S) is None


@pytest.mark.parametrize("moved", [{"path": "/v1/chat/completions?a=1&b=2", "query": ""}, {"method": "post"}])
def test_verifier_refuses_another_reading_of_the_same_text(moved):
    reason = Verifier(secrets=["s3cret"]).verify(**{**signed(), **moved}, now_s=NOW_S)

    assert reason == "signature does not match"


def test_made_verifier_reads_host_and_clock_itself():
    verify = make_verifier(secret="s3cret")
    request = signed(now_s=int(time.time()))  # noqa: TID251 -- the verifier reads the clock
    headers = {**{name.title(): value for name, value in request["headers"].items()}}
    headers["Host"] = request["authority"]

    def ask(path_and_query):
        return verify("POST", path_and_query, headers, request["body"])

    assert ask("/v1/chat/completions?a=1") == "signature does not match"
    assert ask("/v1/chat/completions?a=1&b=2") is None
    assert ask("/v1/chat/completions?a=1&b=2") == "nonce was used before"


def test_verifier_without_the_body_checks_all_but_the_digest():
    request = signed()
    verifier = Verifier(secrets=["s3cret"])

    reasons = [
        verifier.verify(**{**request, "body": None, "path": path}, now_s=NOW_S)
        for path in ("/v1/embeddings", "/v1/chat/completions", "/v1/chat/completions")
    ]

    assert reasons == ["signature does not match", None, "nonce was used before"]


def test_head_is_judged_without_keeping_its_nonce():
    request = signed()
    head = {name: value for name, value in request.items() if name != "body"}
    verifier = Verifier(secrets=["s3cret"])

    assert verifier.head_problem(**head, now_s=NOW_S) is None
    assert verifier.verify(**request, now_s=NOW_S) is None


def test_file_verifier_follows_its_file(tmp_path):
    path = tmp_path / "secrets"
    path.write_text("old\n")
    verifier = FileVerifier(path=path)
    nonces = iter(range(100))

    def accepted():
        secrets = ("old", "new")
        requests = [signed(secret=secret, nonce=f"nonce-{next(nonces):08}") for secret in secrets]
        return [
            secret
            for secret, request in zip(secrets, requests, strict=True)
            if verifier.verify(**request, now_s=NOW_S) is None
        ]

    seen = [accepted()]
    for text in ("new\nold\n", "new\n", "", "\n\n"):
        path.write_text(text)
        seen.append(accepted())
    path.unlink()
    seen.append(accepted())

    assert seen == [["old"], ["old", "new"], ["new"], ["new"], ["new"], ["new"]]


@pytest.mark.parametrize("text", ["", " \n", "\n".join(f"secret-{number}" for number in range(9))])
def test_file_verifier_needs_one_to_eight_secrets(tmp_path, text):
    (tmp_path / "secrets").write_text(text)

    with pytest.raises(VerifierError, match="1 to 8 secrets"):
        FileVerifier(path=tmp_path / "secrets")


def test_file_verifier_says_which_file_is_missing_and_quotes_none(tmp_path):
    binary = tmp_path / "binary"
    binary.write_bytes(CANARY.encode() + b"\xff\xfe")

    for path in (tmp_path / "missing", binary):
        with pytest.raises(VerifierError, match=f"{path.name} cannot be read") as caught:
            FileVerifier(path=path)
        assert CANARY not in str(caught.value)
        assert caught.value.__cause__ is None


def test_verifier_hides_its_secrets(tmp_path):
    path = tmp_path / "secrets"
    path.write_text(CANARY)

    assert CANARY not in repr([Verifier(secrets=[CANARY]), FileVerifier(path=path)])
