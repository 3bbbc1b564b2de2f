"""Signs requests to clusters: RFC 9421, bearer token, TLS identity."""

import base64
import hashlib
import hmac
import re
import ssl
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Protocol

import certifi
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key

from clusters.sigv4 import SigV4Signer
from clusters.verifying.signatures import BASE_LINE_BREAKS, COMPONENTS, content_digest, signature_base

SESSIONS_MAX = 2_000
AUTHORIZATION = "authorization"
CONCEALED = "(concealed)"
# Fewer say nothing of a secret, and end many a word.
SECRET_BEGINNING_CHARACTERS = 6
_KEY_ID = re.compile(r"[A-Za-z0-9._:-]{1,64}")


class SigningError(ValueError):
    """The secrets do not make a signer, or the request cannot be signed; no secret is in the message."""


class Signer(Protocol):
    """Makes the headers that prove to a cluster who asks."""

    def headers(
        self, *, method: str, authority: str, path: str, query: str, body: bytes, now_s: int, nonce: str
    ) -> list[tuple[str, str]]:
        """The headers to add. `authority` as in Host; `path` as sent, encoded; `query` without its `?`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NoneSigner:
    """Adds nothing: the cluster asks for nothing, or TLS says who we are."""

    def headers(
        self, *, method: str, authority: str, path: str, query: str, body: bytes, now_s: int, nonce: str
    ) -> list[tuple[str, str]]:
        return []


@dataclass(frozen=True, slots=True)
class BearerSigner:
    """Sends a token; `header` is where it goes, for providers that have a header of their own."""

    token: str = field(repr=False)
    header: str = AUTHORIZATION

    def headers(
        self, *, method: str, authority: str, path: str, query: str, body: bytes, now_s: int, nonce: str
    ) -> list[tuple[str, str]]:
        if self.header == AUTHORIZATION:
            return [(AUTHORIZATION, f"Bearer {self.token}")]
        return [(self.header, self.token)]


class Rfc9421Signer:
    """Signs by RFC 9421 with HMAC-SHA256 under the first secret, and by the simple scheme beside it.

    The simple scheme is X-Signature = hex HMAC-SHA256 of timestamp, method, path and body, each on its
    own line; it does not cover the query, so a verifier that can should check the RFC 9421 signature.
    """

    __slots__ = ("_key_ids", "_keyed")

    def __init__(self, *, secrets: Sequence[tuple[str, str]]) -> None:
        """`secrets` are (key id, secret), the one to sign with first."""
        if not secrets or not all(secret for _, secret in secrets):
            raise SigningError("an HMAC signer needs a secret that is not empty")
        if not all(_KEY_ID.fullmatch(key_id) for key_id, _ in secrets):
            raise SigningError("a key id is made of letters, digits and '.', '_', ':', '-', at most 64")
        self._key_ids = tuple(key_id for key_id, _ in secrets)
        # The key schedule is done once; each request copies it.
        self._keyed = hmac.new(secrets[0][1].encode(), digestmod=hashlib.sha256)

    def __repr__(self) -> str:
        return f"Rfc9421Signer(key_ids={self._key_ids!r})"

    def headers(
        self, *, method: str, authority: str, path: str, query: str, body: bytes, now_s: int, nonce: str
    ) -> list[tuple[str, str]]:
        digest = content_digest(body)
        parameters = (
            f'{COMPONENTS};created={now_s};nonce="{nonce}";keyid="{self._key_ids[0]}";alg="hmac-sha256"'
        )
        base = signature_base(
            method=method, authority=authority, path=path, query=query, digest=digest, parameters=parameters
        )
        if base.count("\n") != BASE_LINE_BREAKS:
            raise SigningError("a request with a line break in its method, authority, path or query")
        signature = self._keyed.copy()
        signature.update(base.encode())
        simple = self._keyed.copy()
        simple.update(f"{now_s}\n{method}\n{path}\n".encode())
        # By itself: joined to the line it would be copied.
        simple.update(body)
        return [
            ("content-digest", digest),
            ("signature-input", f"sig1={parameters}"),
            ("signature", f"sig1=:{base64.b64encode(signature.digest()).decode()}:"),
            ("x-timestamp", str(now_s)),
            ("x-signature", simple.hexdigest()),
        ]


@dataclass(frozen=True, slots=True, kw_only=True)
class TlsIdentity:
    """What TLS to a cluster needs besides the public roots: our certificate with its key, its authority."""

    client_pem: bytes | None = field(default=None, repr=False)
    ca_pem: bytes | None = field(default=None, repr=False)
    expires_at: datetime | None = None  # the client certificate's
    ca_expires_at: datetime | None = None  # of the authorities' certificates the one that ends first


@dataclass(frozen=True, slots=True, kw_only=True)
class Key:
    """One of a provider's API keys, each with its own limits; None: it has none that we know."""

    id: str
    label: str
    signer: Signer
    rpm_max: int | None = None
    tpm_max: int | None = None


def build_signer(
    *,
    auth_type: str,
    secrets: Sequence[tuple[str, str, str]],
    token_header: str = AUTHORIZATION,
    region: str = "",
) -> Signer:
    """The signer of a cluster; `secrets` are (purpose, label or id, plaintext), newest first.

    `region` is for AWS alone. Raises `SigningError` where the secret that the kind of authentication needs
    is not among them.
    """
    if auth_type not in SIGNERS:
        raise SigningError(f"authentication {auth_type!r} is unknown: use one of {', '.join(SIGNERS)}")
    return SIGNERS[auth_type](secrets, region if auth_type == "sigv4" else token_header)


def build_tls_identity(*, auth_type: str, secrets: Sequence[tuple[str, str, str]]) -> TlsIdentity | None:
    """The TLS identity of a cluster, `None` where the public roots suffice; `secrets` newest first.

    All live authorities are trusted; the newest certificate that has its key among the secrets is used.
    Mutual TLS asks for one; beside a signature or a token it is shown where one is stored.
    """
    authorities = [text for purpose, _, text in secrets if purpose == "ca"]
    ca_pem = "\n".join(authorities).encode() if authorities else None
    ca_expires_at = min((_expiry(text) for text in authorities), default=None)
    keys = [text for purpose, _, text in secrets if purpose == "client_key"]
    for certificate in (text for purpose, _, text in secrets if purpose == "client_certificate"):
        for key in keys:
            if _public_key_of_certificate(certificate) == _public_key_of_key(key):
                return TlsIdentity(
                    client_pem=f"{certificate.strip()}\n{key.strip()}\n".encode(),
                    ca_pem=ca_pem,
                    ca_expires_at=ca_expires_at,
                    expires_at=_expiry(certificate),
                )
    if auth_type == "mtls":
        raise SigningError(
            "no live client certificate has its key stored beside it; store both in Admin > Clusters"
        )
    return TlsIdentity(ca_pem=ca_pem, ca_expires_at=ca_expires_at) if ca_pem else None


def concealed(text: str, *, signer: Signer) -> str:
    """The text without the secrets that this signer sends: an upstream may repeat them in a refusal.

    A text that was cut ends before the beginning of one.
    """
    for secret in _sent_secrets(signer):
        text = text.replace(secret, CONCEALED)
        for length in range(len(secret) - 1, SECRET_BEGINNING_CHARACTERS - 1, -1):
            text = text.removesuffix(secret[:length])
    return text


def check_pem(*, purpose: str, plaintext: str) -> None:
    """Raise `SigningError` unless the text is what a secret of this purpose must be."""
    try:
        if purpose == "client_key":
            load_pem_private_key(plaintext.encode(), password=None)
        else:
            x509.load_pem_x509_certificates(plaintext.encode())
    except (ValueError, TypeError) as error:
        kind = "an unencrypted private key" if purpose == "client_key" else "a certificate"
        # The cause may quote the input: it is not chained.
        raise SigningError(f"this is not {kind} in PEM form ({type(error).__name__})") from None


class ResumingContext(ssl.SSLContext):
    """Offers each server the session it gave us last: a new connection then needs no full handshake.

    asyncio and uvloop take no session of their own. Keeps at most `SESSIONS_MAX`, the latest.
    """

    def __init__(self, _protocol: int) -> None:
        self._sessions: dict[str, ssl.SSLSession] = {}

    def remember(self, *, server: str, session: ssl.SSLSession) -> None:
        """The session of a connection whose certificate was verified for this name."""
        self._sessions.pop(server, None)
        if len(self._sessions) >= SESSIONS_MAX:
            self._sessions.pop(next(iter(self._sessions)))
        self._sessions[server] = session

    def wrap_bio(
        self,
        incoming: ssl.MemoryBIO,
        outgoing: ssl.MemoryBIO,
        server_side: bool = False,
        server_hostname: str | bytes | None = None,
        session: ssl.SSLSession | None = None,
    ) -> ssl.SSLObject:
        if session is None and isinstance(server_hostname, str):
            session = self._sessions.get(server_hostname)
        return super().wrap_bio(incoming, outgoing, server_side, server_hostname, session)


def ssl_context(*, tls: TlsIdentity | None) -> ResumingContext:
    """TLS 1.2 or newer to a cluster; with an authority of its own, that one alone is trusted.

    `load_cert_chain` takes paths only: the key passes through a file that only we can read, which is
    gone when this returns.
    """
    context = ResumingContext(ssl.PROTOCOL_TLS_CLIENT)  # demands a certificate for the host's name
    if tls is None or tls.ca_pem is None:
        context.load_verify_locations(cafile=certifi.where())
    else:
        context.load_verify_locations(cadata=tls.ca_pem.decode())
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    if tls is not None and tls.client_pem is not None:
        with tempfile.NamedTemporaryFile(prefix="tollgate-") as file:  # made with mode 0600
            file.write(tls.client_pem)
            file.flush()
            context.load_cert_chain(file.name)
    return context


def _sent_secrets(signer: Signer) -> tuple[str, ...]:
    if isinstance(signer, BearerSigner):
        return (signer.token,)
    if isinstance(signer, SigV4Signer):
        return tuple(filter(None, (signer.access_key_id, signer.session_token)))
    return ()


def _expiry(pem: str) -> datetime:
    """When the first of the certificates ends; `SigningError` where there is none in the text."""
    try:
        certificates = x509.load_pem_x509_certificates(pem.encode())
    except ValueError:
        # The cause may quote the input: it is not chained.
        raise SigningError("a stored certificate is not in PEM form: store it anew") from None
    return min(certificate.not_valid_after_utc for certificate in certificates)


def _public_key_of_certificate(pem: str) -> bytes:
    certificate = x509.load_pem_x509_certificate(pem.encode())
    return certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def _public_key_of_key(pem: str) -> bytes:
    key = load_pem_private_key(pem.encode(), password=None, unsafe_skip_rsa_key_validation=True)
    return key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def _none(_secrets: Sequence[tuple[str, str, str]], _token_header: str) -> Signer:
    return NoneSigner()


def _bearer(secrets: Sequence[tuple[str, str, str]], token_header: str) -> Signer:
    for purpose, _, text in secrets:
        if purpose == "bearer":
            return BearerSigner(text, token_header)
    raise SigningError("no live bearer token is stored: add one in Admin > Clusters")


def _hmac(secrets: Sequence[tuple[str, str, str]], _token_header: str) -> Signer:
    keys = [(label, text) for purpose, label, text in secrets if purpose == "hmac"]
    if not keys:
        raise SigningError("no live HMAC secret is stored: add one in Admin > Clusters")
    # A label that is no key id (spaces, accents) is replaced by its hash.
    named = [
        (label if _KEY_ID.fullmatch(label) else hashlib.sha256(label.encode()).hexdigest()[:16], text)
        for label, text in keys
    ]
    return Rfc9421Signer(secrets=named)


def _sigv4(secrets: Sequence[tuple[str, str, str]], region: str) -> Signer:
    for purpose, _, text in secrets:
        if purpose == "sigv4":
            return SigV4Signer.of_text(text, region=region)
    raise SigningError("no live AWS access key is stored: add one in Admin > Clusters")


SIGNERS: Mapping[str, Callable[[Sequence[tuple[str, str, str]], str], Signer]] = {
    "none": _none,
    "bearer": _bearer,
    "hmac": _hmac,
    "mtls": _none,
    "sigv4": _sigv4,
}
