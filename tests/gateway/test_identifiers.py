"""Identifiers: their form, their order, and that they do not repeat."""

import re
from uuid import RFC_4122

from gateway.identifiers import new_attempt_id, new_request_id


def test_request_id_is_96_random_bits():
    ids = {new_request_id() for _ in range(1000)}

    assert len(ids) == 1000
    assert all(re.fullmatch(r"req_[0-9a-f]{24}", one) for one in ids)


def test_attempt_id_is_a_uuid_of_version_7():
    now_ms = 1_795_000_000_123

    ids = [new_attempt_id(now_ms=now_ms) for _ in range(1000)]

    assert len(set(ids)) == 1000
    assert {(one.version, one.variant, one.int >> 80) for one in ids} == {(7, RFC_4122, now_ms)}


def test_attempt_id_varies_in_all_its_random_bits():
    ones, zeros = 0, 0
    for _ in range(500):
        value = new_attempt_id(now_ms=0).int
        ones |= value
        zeros |= ~value
    random_bits = 0xFFF << 64 | (2**62 - 1)

    assert ones & random_bits == random_bits
    assert zeros & random_bits == random_bits


def test_attempt_ids_are_ordered_by_time():
    ids = [new_attempt_id(now_ms=now_ms) for now_ms in range(1_795_000_000_000, 1_795_000_000_200)]

    assert ids == sorted(ids)
