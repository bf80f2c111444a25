"""What a command that takes long says meanwhile where no bar can be drawn: a line now and then."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

#: A line is said at most as often, s.
LINE_EVERY_S = 10.0


class Doing:
    """Is called often with what is being done now, and says it when nothing was said for LINE_EVERY_S. at_once: the first
    time too."""

    def __init__(self, say: Callable[[str], None], clock: Callable[[], float] = time.monotonic, at_once: bool = True):
        self._say, self._clock = say, clock
        self._said = -math.inf if at_once else clock()

    def __call__(self, what: str) -> None:
        if self._clock() - self._said >= LINE_EVERY_S:
            self._said = self._clock()
            self._say(what)


def span(seconds: float) -> str:
    """So many seconds as hours, minutes and seconds: "1:02:03"."""
    minutes, rest = divmod(max(0, int(seconds)), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02}"
