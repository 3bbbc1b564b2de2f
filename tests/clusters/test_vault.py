import hashlib
from uuid import UUID

import pytest

from clusters import vault

ROW = UUID(int=1)
OTHER_ROW = UUID(int=2)


def key_id(key):
    return hashlib.sha256(hashlib.sha256(key.encode()).digest()).hexdigest()[:8]


def opened(sealed, row=ROW):
    return vault.decrypt(ciphertext=sealed.ciphertext, key_id=sealed.key_id, record_id=row)


def test_vault_opens_what_it_sealed():
    sealed = vault.encrypt(plaintext="geheim ✓", record_id=ROW)

    assert opened(sealed) == "geheim ✓"
    assert b"geheim" not in sealed.ciphertext


def test_vault_seals_the_same_differently_each_time():
    first = vault.encrypt(plaintext="x", record_id=ROW)
    second = vault.encrypt(plaintext="x", record_id=ROW)

    assert first.ciphertext != second.ciphertext


def test_vault_seals_under_the_newest_key_and_opens_under_the_older(settings):
    settings.ENCRYPTION_KEYS = ["old"]
    sealed = vault.encrypt(plaintext="x", record_id=ROW)
    settings.ENCRYPTION_KEYS = ["new", "old"]

    resealed = vault.reencrypt(ciphertext=sealed.ciphertext, key_id=sealed.key_id, record_id=ROW)

    assert (sealed.key_id, resealed.key_id) == (key_id("old"), key_id("new"))
    assert (opened(sealed), opened(resealed)) == ("x", "x")


def test_vault_names_the_missing_key(settings):
    settings.ENCRYPTION_KEYS = ["old"]
    sealed = vault.encrypt(plaintext="x", record_id=ROW)
    settings.ENCRYPTION_KEYS = ["new"]

    with pytest.raises(vault.VaultError, match=f"encryption key {key_id('old')} is missing"):
        opened(sealed)


def test_vault_refuses_another_rows_secret():
    sealed = vault.encrypt(plaintext="x", record_id=ROW)

    with pytest.raises(vault.VaultError, match="was not sealed for this row"):
        opened(sealed, row=OTHER_ROW)


def test_vault_refuses_every_flipped_bit():
    sealed = vault.encrypt(plaintext="x", record_id=ROW)

    for position in range(len(sealed.ciphertext)):
        damaged = bytearray(sealed.ciphertext)
        damaged[position] ^= 1
        with pytest.raises(vault.VaultError):
            vault.decrypt(ciphertext=bytes(damaged), key_id=sealed.key_id, record_id=ROW)


@pytest.mark.parametrize("length", [0, 1, 27])
def test_vault_refuses_what_is_cut_short(length):
    sealed = vault.encrypt(plaintext="", record_id=ROW)

    with pytest.raises(vault.VaultError, match="cut short"):
        vault.decrypt(ciphertext=sealed.ciphertext[:length], key_id=sealed.key_id, record_id=ROW)


def test_vault_fails_closed_without_keys(settings):
    settings.ENCRYPTION_KEYS = ["", " "]

    with pytest.raises(vault.VaultError, match="set GATEWAY_ENCRYPTION_KEYS"):
        vault.encrypt(plaintext="x", record_id=ROW)


def test_is_same_compares_and_never_raises(settings):
    settings.ENCRYPTION_KEYS = ["k"]
    sealed = vault.encrypt(plaintext="x", record_id=ROW)

    def is_same(plaintext):
        return vault.is_same(
            plaintext=plaintext, ciphertext=sealed.ciphertext, key_id=sealed.key_id, record_id=ROW
        )

    assert (is_same("x"), is_same("y")) == (True, False)
    settings.ENCRYPTION_KEYS = ["another"]
    assert is_same("x") is False
