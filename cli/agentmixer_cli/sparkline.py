"""A curve as a few characters in a line of text."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

#: From the lowest to the highest.
BLOCKS = "▁▂▃▄▅▆▇█"
#: The same where the output's encoding has no blocks.
PLAIN = "_.:-=+*#"


def sparkline(
    values: Sequence[float], width: int, low: float | None = None, high: float | None = None, encoding: str = "utf-8"
) -> str:
    """Values as characters, the first on the left. low, high: what the lowest and the highest character stand for; the least
    and the greatest of the values unless given. Values that are all alike, with no ends given, are in the middle.

    More values than `width` are put together, neighbours as their mean. encoding: of the output."""
    try:
        BLOCKS.encode(encoding)
        characters = BLOCKS
    except (UnicodeEncodeError, LookupError):
        characters = PLAIN
    if not values:
        return ""
    means = [float(np.mean(part)) for part in np.array_split(np.asarray(values, np.float64), min(width, len(values)))]
    bottom, top = min(means) if low is None else low, max(means) if high is None else high
    levels = len(characters)
    if top <= bottom:
        return characters[levels // 2 - 1] * len(means)
    places = [int((mean - bottom) / (top - bottom) * levels) for mean in means]
    return "".join(characters[min(max(place, 0), levels - 1)] for place in places)


def ends(name: str) -> tuple[float | None, float | None]:
    """What the ends of a sparkline stand for: 0 and 1 for a win rate, and nothing fixed for a return."""
    return (0.0, 1.0) if name == "win_rate" else (None, None)
