import json

import pytest

from clusters.probes.listing import Listing, read_listing


def read(document):
    return read_listing(json.dumps(document).encode())


@pytest.mark.parametrize(
    ("row", "name", "window"),
    [
        ({"id": "org/m", "max_model_len": 8192}, "org/m", 8192),
        ({"id": "m", "meta": {"n_ctx_train": 4096}}, "m", 4096),
        ({"id": "m", "meta": {"n_ctx_train": 131072, "n_ctx": 2048}}, "m", 2048),
        ({"id": "claude", "max_input_tokens": 200_000}, "claude", 200_000),
    ],
)
def test_listing_has_names_and_windows(row, name, window):
    assert read({"object": "list", "data": [row]}) == Listing(
        models=(name,), context_windows=((name, window),)
    )


def test_listing_of_gemini_is_read():
    document = {"models": [{"name": "models/gemini-pro", "inputTokenLimit": 1_000_000}]}

    assert read(document) == Listing(models=("gemini-pro",), context_windows=(("gemini-pro", 1_000_000),))


@pytest.mark.parametrize("window", [None, 0, -1, "8192", 1.5, True, 10**12])
def test_window_that_is_nonsense_is_unknown(window):
    assert read({"data": [{"id": "m", "max_model_len": window}]}) == Listing(
        models=("m",), context_windows=()
    )


def test_rows_that_are_no_models_are_skipped():
    document = {"data": [1, None, {}, {"id": 5}, {"id": "m", "meta": "x"}, {"id": "m"}]}

    assert read(document) == Listing(models=("m",), context_windows=())


@pytest.mark.parametrize("body", [b"", b"<html>", b"[]", b"{}", b'{"data": "x"}', b"\xff"])
def test_what_is_no_listing_is_none(body):
    assert read_listing(body) is None


def test_listing_is_bounded():
    assert len(read({"data": [{"id": str(number)} for number in range(5000)]}).models) == 1000
