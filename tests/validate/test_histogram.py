"""Times in buckets, ten a decade."""

from __future__ import annotations

import numpy as np

from agentmixer.validate.histogram import histogram


def test_buckets_by_hand() -> None:
    """1 µs and 1.25 µs lie in bucket 0, 1.26 µs in bucket 1, 9.9 µs in 9, 10 µs in 10."""
    assert histogram([1000, 1250, 1260, 9900, 10_000]) == (0, (2, 1, 0, 0, 0, 0, 0, 0, 0, 1, 1))
    assert histogram([2_000_000]) == (33, (1,))  # 10^3.3 = 1995
    assert histogram([0, 1]) == (-30, (2,))
    assert histogram([]) == (0, ())


def test_no_time_is_lost() -> None:
    times = np.random.default_rng(0).lognormal(13, 3, 10_000).astype(np.int64).tolist()
    assert sum(histogram(times).counts) == 10_000
