"""Who watches while `agentmixer train` trains: a view on a terminal, and a page in each run's directory."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence

from agentmixer.train.run import Run
from agentmixer.train.watching import Standing, Watch
from agentmixer_cli.live import LiveView
from agentmixer_cli.terminal import Terminal


@contextlib.contextmanager
def watched(chosen: Sequence[Run], console: Terminal) -> Iterator[Watch]:
    """What is yielded is to be told where the runs stand."""
    watchers: list[Watch] = []

    def tell(now: Standing) -> None:
        for watch in watchers:
            watch(now)

    with contextlib.ExitStack() as stack:
        if console.is_interactive and not console.quiet:
            watchers.append(stack.enter_context(LiveView(chosen, console)))
        yield tell
