"""How often something took how long, in few numbers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

#: Buckets between a time and ten times that time.
A_DECADE = 10


class Histogram(NamedTuple):
    """Counts of times in buckets of equal width on a logarithmic scale. counts[i] is of those from
    10^((first + i) / A_DECADE) microseconds on, and shorter than 10^((first + i + 1) / A_DECADE)."""

    first: int
    counts: tuple[int, ...]


def histogram(values_ns: Sequence[int]) -> Histogram:
    """Of times in nanoseconds, of which one below 1 ns counts as 1 ns. Without any time there is no bucket."""
    if not len(values_ns):
        return Histogram(0, ())
    buckets = np.floor(np.log10(np.maximum(values_ns, 1) / 1e3) * A_DECADE).astype(int)
    first = int(buckets.min())
    return Histogram(first, tuple(np.bincount(buckets - first).tolist()))
