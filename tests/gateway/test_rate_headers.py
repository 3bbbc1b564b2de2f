"""How long a provider asks to wait, in each of the ways in which providers write it."""

import pytest

from gateway.rate_headers import exhausted_s, retry_after_s

NOW_S = 1_893_456_000.0  # 2030-01-01T00:00:00Z


@pytest.mark.parametrize(
    ("headers", "wait_s"),
    [
        ({}, 0.0),
        ({"retry-after": "7"}, 7.0),
        ({"retry-after": "0.5"}, 0.5),
        ({"retry-after": "100000"}, 300.0),
        ({"retry-after": "-5"}, 0.0),
        ({"retry-after": "soon"}, 0.0),
        ({"retry-after": "nan"}, 0.0),
        ({"retry-after": "Tue, 01 Jan 2030 00:00:42 GMT"}, 42.0),
        ({"retry-after": "Mon, 31 Dec 2029 00:00:42 GMT"}, 0.0),
        ({"retry-after-ms": "250", "retry-after": "9"}, 0.25),
        (
            {"retry-after": "9", "x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "1s"},
            9.0,
        ),
        ({"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "1s"}, 1.0),
    ],
)
def test_refusal_says_how_long_to_wait(headers, wait_s):
    assert retry_after_s(headers, now_s=NOW_S) == wait_s


@pytest.mark.parametrize(
    ("reset", "wait_s"),
    [
        ("6m0s", 300.0),
        ("2m59.56s", 179.56),
        ("1s", 1.0),
        ("120ms", 0.12),
        ("1m30s", 90.0),
        ("12", 12.0),
        ("1893456030", 30.0),
        ("1893456030500", 30.5),
        ("2030-01-01T00:00:10Z", 10.0),
        ("2029-12-31T23:59:00Z", 0.0),
        ("", 0.0),
        ("x", 0.0),
    ],
)
def test_moment_of_more_is_read_in_each_form(reset, wait_s):
    headers = {"x-ratelimit-remaining-tokens": "0", "x-ratelimit-reset-tokens": reset}

    assert exhausted_s(headers, now_s=NOW_S) == pytest.approx(wait_s)


def test_only_a_limit_of_which_nothing_is_left_counts():
    headers = {
        "anthropic-ratelimit-requests-remaining": "3",
        "anthropic-ratelimit-requests-reset": "2030-01-01T00:01:00Z",
        "anthropic-ratelimit-output-tokens-remaining": "0",
        "anthropic-ratelimit-output-tokens-reset": "2030-01-01T00:00:05Z",
    }

    assert exhausted_s(headers, now_s=NOW_S) == 5.0
    assert exhausted_s({**headers, "anthropic-ratelimit-output-tokens-remaining": "1"}, now_s=NOW_S) == 0.0
