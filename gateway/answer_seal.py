"""Seals answers that are kept for an Idempotency-Key: AES-256-GCM, bound to their row."""

import hashlib
import os
from collections.abc import Sequence

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

# Keys for this alone: what opens a cluster's secret opens no answer, and the other way round.
KEY_PURPOSE = b"tollgate kept answers v1"
KEY_BYTES = 32
KEY_ID_BYTES = 8
NONCE_BYTES = 12
TAG_BYTES = 16
PREFIX_BYTES = KEY_ID_BYTES + NONCE_BYTES


class SealError(Exception):
    """An answer cannot be opened; the message says which key is missing, never what is sealed."""


class AnswerSeal:
    """The keys, newest first: the newest seals, each opens what it sealed."""

    def __init__(self, *, keys: Sequence[str]) -> None:
        derived = [_derived(key) for key in keys if key.strip()]
        self._ciphers = {_key_id(key): AESGCM(key) for key in derived}
        self._newest = _key_id(derived[0]) if derived else b""

    def __repr__(self) -> str:
        return f"AnswerSeal({len(self._ciphers)} keys)"

    @property
    def has_keys(self) -> bool:
        return bool(self._ciphers)

    def seal(self, *, plaintext: bytes, row_id: str) -> bytes:
        """The newest key's id, a nonce, the ciphertext and its tag; only this row opens it again."""
        nonce = os.urandom(NONCE_BYTES)
        sealed = self._ciphers[self._newest].encrypt(nonce, plaintext, _row_binding(row_id))
        return self._newest + nonce + sealed

    def open(self, *, sealed: bytes, row_id: str) -> bytes:
        """The plaintext; raises SealError."""
        cipher = self._ciphers.get(sealed[:KEY_ID_BYTES])
        if cipher is None or len(sealed) < PREFIX_BYTES + TAG_BYTES:
            raise SealError(f"the key that sealed the answer {row_id} is not in GATEWAY_ENCRYPTION_KEYS")
        nonce, ciphertext = sealed[KEY_ID_BYTES:PREFIX_BYTES], sealed[PREFIX_BYTES:]
        try:
            return cipher.decrypt(nonce, ciphertext, _row_binding(row_id))
        except InvalidTag as error:
            raise SealError(f"the answer {row_id} was not sealed for its row, or was changed") from error


def _derived(key: str) -> bytes:
    derivation = HKDF(algorithm=SHA256(), length=KEY_BYTES, salt=None, info=KEY_PURPOSE)
    return derivation.derive(key.strip().encode())


def _key_id(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()[:KEY_ID_BYTES]


def _row_binding(row_id: str) -> bytes:
    """Authenticated, not encrypted: table, row and column, so that no row opens another's answer."""
    return f"billing_idempotentrequest|{row_id}|answer".encode()
