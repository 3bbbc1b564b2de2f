"""Seals and opens the clusters' secrets: AES-256-GCM, bound to their row; nothing else decrypts."""

import hashlib
import hmac
import os
from dataclasses import dataclass
from typing import Protocol
from uuid import UUID

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from django.conf import settings

NONCE_BYTES = 12
TAG_BYTES = 16
KEY_ID_CHARACTERS = 8


class VaultError(Exception):
    """A secret cannot be sealed or opened; the message says which key is missing, never what is sealed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sealed:
    """A nonce, the ciphertext and its tag, in this order, and the id of the key that sealed them."""

    ciphertext: bytes
    key_id: str


def encrypt(*, plaintext: str, record_id: UUID) -> Sealed:
    """Seal under the newest key; only the row of this id can open it again."""
    key = _keys()[0]
    nonce = os.urandom(NONCE_BYTES)
    sealed = AESGCM(key).encrypt(nonce, plaintext.encode(), _row_binding(record_id))
    return Sealed(ciphertext=nonce + sealed, key_id=_key_id(key))


def decrypt(*, ciphertext: bytes, key_id: str, record_id: UUID) -> str:
    """The plaintext; `VaultError` where the key is missing or the row is not what was sealed."""
    key = next((key for key in _keys() if _key_id(key) == key_id), None)
    if key is None:
        raise VaultError(
            f"encryption key {key_id or '(none)'} is missing: add the key that sealed this secret "
            f"to GATEWAY_ENCRYPTION_KEYS, after the newest one, or store the secret anew"
        )
    if len(ciphertext) < NONCE_BYTES + TAG_BYTES:
        raise VaultError(f"secret {record_id} is cut short: store it anew")
    try:
        plaintext = AESGCM(key).decrypt(
            ciphertext[:NONCE_BYTES], ciphertext[NONCE_BYTES:], _row_binding(record_id)
        )
    except InvalidTag as error:
        raise VaultError(
            f"secret {record_id} was not sealed for this row by key {key_id}: store it anew"
        ) from error
    return plaintext.decode()


class SealedSecret(Protocol):
    """A row of the secrets."""

    @property
    def id(self) -> UUID: ...
    @property
    def purpose(self) -> str: ...
    @property
    def label(self) -> str: ...
    @property
    def ciphertext(self) -> bytes | memoryview: ...
    @property
    def encryption_key_id(self) -> str: ...


def opened(secret: SealedSecret) -> tuple[str, str, str]:
    """Purpose, label or id, and plaintext, as clusters.signing takes them; raises `VaultError`."""
    plaintext = decrypt(
        ciphertext=bytes(secret.ciphertext), key_id=secret.encryption_key_id, record_id=secret.id
    )
    return secret.purpose, secret.label or str(secret.id), plaintext


def reencrypt(*, ciphertext: bytes, key_id: str, record_id: UUID) -> Sealed:
    """The same secret, sealed under the newest key."""
    plaintext = decrypt(ciphertext=ciphertext, key_id=key_id, record_id=record_id)
    return encrypt(plaintext=plaintext, record_id=record_id)


def is_same(*, plaintext: str, ciphertext: bytes, key_id: str, record_id: UUID) -> bool:
    """Whether this is what was sealed; a secret that cannot be opened is not the same."""
    try:
        opened = decrypt(ciphertext=ciphertext, key_id=key_id, record_id=record_id)
    except VaultError:
        return False
    return hmac.compare_digest(opened.encode(), plaintext.encode())


def newest_key_id() -> str:
    """The id of the key that seals from now on."""
    return _key_id(_keys()[0])


def _keys() -> list[bytes]:
    """Newest first, each hashed to 32 bytes; read anew each time, so that nothing of them is kept."""
    keys = [hashlib.sha256(key.strip().encode()).digest() for key in settings.ENCRYPTION_KEYS if key.strip()]
    if not keys:
        raise VaultError("no encryption key is set: set GATEWAY_ENCRYPTION_KEYS, newest first")
    return keys


def _key_id(key: bytes) -> str:
    return hashlib.sha256(key).hexdigest()[:KEY_ID_CHARACTERS]


def _row_binding(record_id: UUID) -> bytes:
    """Authenticated, not encrypted: table, row and column, so that no row opens another's secret."""
    return f"clusters_clustersecret|{record_id}|ciphertext".encode()
