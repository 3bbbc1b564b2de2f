"""The tests' gateway, with a bug where a secret is at hand: signing a marked request raises."""

from collections.abc import Callable
from typing import Any

from clusters.signing import BearerSigner, NoneSigner, Rfc9421Signer
from clusters.sigv4 import SigV4Signer
from tests.e2e.gateway_settings import *  # noqa: F403 -- a settings module adds to another

MARK = b"case:raises"


def failing(headers: Callable[..., Any]) -> Callable[..., Any]:
    def signed(self: object, **request: Any) -> Any:
        if MARK in request["body"]:
            shown = headers(self, **request)
            raise RuntimeError(f"a bug beside {len(shown)} headers")
        return headers(self, **request)

    return signed


for signer in (BearerSigner, NoneSigner, Rfc9421Signer, SigV4Signer):
    signer.headers = failing(signer.headers)  # type: ignore[method-assign]  # a bug, put in
