import pytest

from clusters.demo.allowance import Allowance, duration


def test_allowance_refills_evenly():
    allowance = Allowance()
    for _ in range(100):
        allowance.take(tokens=1000, now_s=50.0)

    headers = allowance.take(tokens=0, now_s=50.3)

    # A minute brings 10,000 requests and 2,000,000 tokens: 0.3 s brings 50 and 10,000.
    assert headers == {
        "x-ratelimit-limit-requests": "10000",
        "x-ratelimit-remaining-requests": "9949",
        "x-ratelimit-reset-requests": "306ms",
        "x-ratelimit-limit-tokens": "2000000",
        "x-ratelimit-remaining-tokens": "1910000",
        "x-ratelimit-reset-tokens": "2.7s",
    }


def test_allowance_ends_at_nothing_and_still_serves():
    headers = Allowance().take(tokens=3_000_000, now_s=0.0)

    assert headers["x-ratelimit-remaining-tokens"] == "0"
    assert headers["x-ratelimit-reset-tokens"] == "1m0s"


@pytest.mark.parametrize(("seconds", "text"), [(0.0, "0ms"), (0.12, "120ms"), (1.5, "1.5s"), (360.2, "6m0s")])
def test_duration_is_written_as_openai_does(seconds, text):
    assert duration(seconds) == text
