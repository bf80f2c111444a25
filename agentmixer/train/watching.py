"""What training tells whoever watches it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple


class Seen(NamedTuple):
    """One run's numbers so far, as metrics.jsonl has them: its newest line, empty before the first, and every line that
    holds an evaluation. metrics.jsonl may have been a stranger's: ask `metrics_file.number` for a number."""

    newest: Mapping[str, Any]
    evaluations: Sequence[Mapping[str, Any]]


class Standing(NamedTuple):
    """Where runs stand that train side by side: at the start, or after an update."""

    #: Environment steps of each run, and how many each is to have.
    step: int
    total: int
    #: Environment steps of each run a second, while it collects and updates.
    rate: float
    #: Seconds until `total`, evaluations included, as fast as it went so far in this process; None if that is not known yet.
    left: float | None
    #: Each run's numbers.
    runs: Sequence[Seen]
    #: Whether the runs were evaluated just now.
    judged: bool = False


#: Is called with where runs stand. It should not take long: training waits.
Watch = Callable[[Standing], None]
