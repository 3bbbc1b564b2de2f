"""Verifies signatures of requests by RFC 9421, HMAC-SHA256, as the gateway makes them."""

import base64
import hashlib
import hmac
import json
import logging
import os
import re
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from clusters.verifying.nonces import NonceFile, NonceMemory, NonceStore

logger = logging.getLogger("tollgate.verifying")

SKEW_S = 60
SECRETS_MAX = 8
BODY_BYTES_MAX = 64 * 1024 * 1024
BASE_LINE_BREAKS = 5
# What RFC 3986 lets a path have as it is; the rest travels encoded.
PATH_CHARACTERS = "/:@!$&'()*+,;=~"
COMPONENTS = '("@method" "@authority" "@path" "@query" "content-digest")'
_SIGNATURE_PARAMETERS = re.compile(
    re.escape(COMPONENTS) + r';created=([0-9]{1,12});nonce="([A-Za-z0-9._:-]{8,128})"'
    r';keyid="([A-Za-z0-9._:-]{1,64})";alg="hmac-sha256"'
)


class VerifierError(ValueError):
    """The secrets do not make a verifier; no secret is in the message."""


class Verifier:
    """Says whether a request was signed by one of the live secrets, once, just now."""

    def __init__(
        self, *, secrets: Sequence[str], skew_s: int = SKEW_S, nonces: NonceStore | None = None
    ) -> None:
        """`skew_s` is how far the clocks may be apart; a nonce is remembered for twice as long."""
        self._keyed = _keyed(secrets)
        self._skew_s = skew_s
        self._nonces = nonces or NonceMemory()

    def __repr__(self) -> str:
        return f"{type(self).__name__}(secrets={len(self._keyed)})"

    def verify(
        self,
        *,
        method: str,
        authority: str,
        path: str,
        query: str,
        headers: Mapping[str, str],
        body: bytes | None,
        now_s: int,
    ) -> str | None:
        """Why the request is refused; `None` if it is genuine. Header names are read in any case.

        The RFC 9421 signature is required; the simple one is checked too where it is sent. Without the
        body (None) its digest is taken for granted and the simple signature, which covers it, is not checked.
        """
        lower = {name.lower(): value for name, value in headers.items()}
        head = {"method": method, "authority": authority, "path": path, "query": query}
        problem = self.head_problem(**head, headers=lower, now_s=now_s)
        if problem is not None:
            return problem
        parameters = _parameters(lower)
        assert parameters is not None
        if body is not None:
            if not _is_same(content_digest(body), lower.get("content-digest", "")):
                return "content-digest does not match the body"
            simple = f"{parameters[1]}\n{method}\n{path}\n".encode(errors="surrogatepass") + body
            problem = self._simple_problem(message=simple, created=int(parameters[1]), headers=lower)
        return problem or self._nonces.problem(nonce=parameters[2], now_s=now_s, kept_s=2 * self._skew_s)

    def head_problem(
        self, *, method: str, authority: str, path: str, query: str, headers: Mapping[str, str], now_s: int
    ) -> str | None:
        """The part that needs no body, so that who cannot sign is not read from; keeps no nonce.

        `headers` are by names in lower case.
        """
        parameters = _parameters(headers)
        if parameters is None:
            return "signature-input is missing or not of the expected form"
        if abs(now_s - int(parameters[1])) > self._skew_s:
            return "created is too far from now"
        base = signature_base(
            method=method,
            authority=authority,
            path=path,
            query=query,
            digest=headers.get("content-digest", ""),
            parameters=parameters[0],
        )
        if base.count("\n") != BASE_LINE_BREAKS:
            return "a line break in method, authority, path, query or digest"
        macs = self._macs(base.encode(errors="surrogatepass"))
        expected = [f"sig1=:{base64.b64encode(mac).decode()}:" for mac in macs]
        return None if _is_any(expected, headers.get("signature", "")) else "signature does not match"

    def _simple_problem(self, *, message: bytes, created: int, headers: Mapping[str, str]) -> str | None:
        if "x-signature" not in headers and "x-timestamp" not in headers:
            return None
        if not _is_same(str(created), headers.get("x-timestamp", "")):
            return "x-timestamp does not match"
        expected = [mac.hex() for mac in self._macs(message)]
        return None if _is_any(expected, headers.get("x-signature", "")) else "x-signature does not match"

    def _macs(self, message: bytes) -> list[bytes]:
        """One for each live secret."""
        macs = []
        for keyed in self._keyed:
            copy = keyed.copy()
            copy.update(message)
            macs.append(copy.digest())
        return macs


class FileVerifier(Verifier):
    """A verifier by a file of secrets, one a line; a change of the file is seen at the next request.

    A file that is gone or holds no secret is logged and changes nothing, as it may be about to be written.
    """

    def __init__(self, *, path: Path, skew_s: int = SKEW_S, nonces: NonceStore | None = None) -> None:
        """Raises `VerifierError` where the file has no usable secrets at the start."""
        self._path = path
        self._version = _version(path)
        super().__init__(secrets=_read_secrets(path), skew_s=skew_s, nonces=nonces)

    def head_problem(
        self, *, method: str, authority: str, path: str, query: str, headers: Mapping[str, str], now_s: int
    ) -> str | None:
        version = _version(self._path)
        if version != self._version:
            self._version = version
            try:
                self._keyed = _keyed(_read_secrets(self._path))
                logger.info("secrets_read file=%s count=%s", self._path, len(self._keyed))
            except VerifierError as error:
                logger.warning("secrets_kept file=%s reason=%s", self._path, error)
        return super().head_problem(
            method=method, authority=authority, path=path, query=query, headers=headers, now_s=now_s
        )


def verifier_of_environment() -> FileVerifier:
    """By TOLLGATE_SECRETS_FILE and, where several processes share their nonces, TOLLGATE_NONCES_FILE."""
    path = os.environ.get("TOLLGATE_SECRETS_FILE", "")
    if not path:
        raise VerifierError("set TOLLGATE_SECRETS_FILE to the file of secrets, one a line")
    nonces_path = os.environ.get("TOLLGATE_NONCES_FILE", "")
    return FileVerifier(path=Path(path), nonces=NonceFile(Path(nonces_path)) if nonces_path else None)


def open_paths_of_environment() -> tuple[str, ...]:
    """TOLLGATE_OPEN_PATHS: what a load balancer may GET unsigned, such as `/health`; by default nothing."""
    return tuple(path for path in os.environ.get("TOLLGATE_OPEN_PATHS", "").split(",") if path)


def make_verifier(*, secret: str) -> Callable[[str, str, dict[str, str], bytes], str | None]:
    """A function of (method, path and query, headers, body) that says why a request is refused.

    An edge: it reads the clock itself, for servers on the cluster's side.
    """
    verifier = Verifier(secrets=[secret])

    def verify(method: str, path_and_query: str, headers: dict[str, str], body: bytes) -> str | None:
        path, _, query = path_and_query.partition("?")
        lower = {name.lower(): value for name, value in headers.items()}
        return verifier.verify(
            method=method,
            authority=lower.get("host", ""),
            path=path,
            query=query,
            headers=lower,
            body=body,
            now_s=clock_s(),
        )

    return verify


def signature_base(
    *, method: str, authority: str, path: str, query: str, digest: str, parameters: str
) -> str:
    """RFC 9421, section 2.5."""
    return (
        f'"@method": {method}\n"@authority": {authority.lower()}\n'
        f'"@path": {path or "/"}\n"@query": ?{query}\n'
        f'"content-digest": {digest}\n"@signature-params": {parameters}'
    )


def content_digest(body: bytes) -> str:
    """RFC 9530."""
    return f"sha-256=:{base64.b64encode(hashlib.sha256(body).digest()).decode()}:"


def joined_headers(headers: Iterable[tuple[str, str]]) -> dict[str, str]:
    """A header sent twice is one list (RFC 9110, 5.3), so that nobody reads the other of the two."""
    joined: dict[str, str] = {}
    for name, value in headers:
        joined[name] = f"{joined[name]}, {value}" if name in joined else value
    return joined


def refusal_body(problem: str) -> bytes:
    return json.dumps({"error": {"message": problem, "type": "signature_refused"}}).encode()


def clock_s() -> int:
    return int(time.time())  # noqa: TID251 -- the cluster's side has no caller with a clock


def _keyed(secrets: Sequence[str]) -> tuple[hmac.HMAC, ...]:
    """The key schedules, done once; each request copies them."""
    if not 1 <= len(secrets) <= SECRETS_MAX or not all(secrets):
        raise VerifierError(f"a verifier needs 1 to {SECRETS_MAX} secrets, none empty")
    return tuple(hmac.new(secret.encode(), digestmod=hashlib.sha256) for secret in secrets)


def _read_secrets(path: Path) -> list[str]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        # A decoding error quotes the text: it is not chained.
        raise VerifierError(f"the file of secrets {path} cannot be read ({type(error).__name__})") from None
    return [line.strip() for line in lines if line.strip()]


def _version(path: Path) -> tuple[int, int, int]:
    try:
        seen = path.stat()
    except OSError:
        return (0, 0, 0)
    return (seen.st_mtime_ns, seen.st_size, seen.st_ino)


def _parameters(headers: Mapping[str, str]) -> re.Match[str] | None:
    """Of the one label that we use: (whole, created, nonce, key id)."""
    given = headers.get("signature-input", "")
    return _SIGNATURE_PARAMETERS.fullmatch(given.removeprefix("sig1=")) if given.startswith("sig1=") else None


def _is_same(expected: str, given: str) -> bool:
    """Compared as text, in constant time: another spelling of the same bytes is not the same."""
    return hmac.compare_digest(expected.encode(), given.encode(errors="surrogatepass"))


def _is_any(expected: Sequence[str], given: str) -> bool:
    """All are compared, whichever matches: the time taken says nothing."""
    return sum(_is_same(one, given) for one in expected) > 0
