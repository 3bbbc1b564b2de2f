"""Buckets of time that grow by 5 %, so that quantiles of any number of answers come from few counts."""

import math

GROWTH = 1.05
# 1 ms to about 12 hours; what is slower is in the last one.
BUCKETS_MAX = 360


def bucket_of(ttft_ms: int) -> int:
    """The bucket of a time in milliseconds; 0 and 1 ms share the first."""
    return min(int(math.log(max(ttft_ms, 1)) / math.log(GROWTH)), BUCKETS_MAX - 1)


def middle_ms(bucket: int) -> float:
    """The geometric middle of a bucket: at most 2.5 % from any time in it."""
    return float(GROWTH ** (bucket + 0.5))
