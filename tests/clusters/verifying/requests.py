"""Signed requests, and their mutations, that the tests of the cluster's side begin with."""

import string

from clusters.signing import Rfc9421Signer

NOW_S = 1_900_000_000
REQUEST = {
    "method": "POST",
    "authority": "cluster.example:8000",
    "path": "/v1/chat/completions",
    "query": "a=1&b=2",
    "body": b'{"model":"llama-3-8b","messages":[]}',
}


def signed(*, secret="s3cret", nonce="nonce-00000001", now_s=NOW_S, **changes):
    signer = Rfc9421Signer(secrets=(("k1", secret),))
    request = {**REQUEST, **changes}
    headers = signer.headers(**request, now_s=now_s, nonce=nonce)
    return {**request, "headers": dict(headers)}


def mutated(request, chance):
    """The request with one place of it changed, inserted or cut out; never the same request."""
    alphabet = string.ascii_lowercase + string.digits + '/?&=.-:;"\n \x00é'
    target = chance.choice(["method", "authority", "path", "query", "body", *request["headers"]])
    old = request["headers"].get(target, request.get(target))
    text = old.decode() if target == "body" else old
    while True:
        place = chance.randrange(len(text) + 1)
        kind = chance.choice(["change", "insert", "cut", "drop"])
        new = {
            "change": text[:place] + chance.choice(alphabet) + text[place + 1 :],
            "insert": text[:place] + chance.choice(alphabet) + text[place:],
            "cut": text[:place] + text[place + 1 :],
            "drop": "",
        }[kind]
        if new != text:
            break
    if target == "body":
        return {**request, "body": new.encode()}
    if target in request["headers"]:
        return {**request, "headers": {**request["headers"], target: new}}
    return {**request, target: new}
