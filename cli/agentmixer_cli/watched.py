"""Who watches while `agentmixer train` trains: a view on a terminal, and a page in each run's directory."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

from agentmixer.files import write_whole
from agentmixer_cli.terminal import Terminal

if TYPE_CHECKING:
    from agentmixer.report.page import Page
    from agentmixer.train.run import Run
    from agentmixer.train.watching import Seen, Standing, Watch

#: The page's name in a run's directory.
PAGE = "run.html"
#: Pages are written anew at each evaluation, and at least so often, s.
WRITTEN_EVERY_S = 10.0
#: Writing them takes at most this share of the time.
SHARE = 0.02


class Pages:
    """Is told where runs stand, and writes a page of each. Where that fails, it is said once, and training goes on."""

    def __init__(self, chosen: Sequence[Run], console: Terminal):
        self._chosen, self._console = chosen, console
        self._written, self._took = -WRITTEN_EVERY_S, 0.0
        self._told = self._failed = False

    def __call__(self, now: Standing) -> None:
        self._told = True
        wait = 0.0 if now.judged else WRITTEN_EVERY_S
        begin = time.monotonic()
        if begin - self._written < max(wait, self._took / SHARE):
            return
        for run, seen in zip(self._chosen, now.runs, strict=True):

            def live(run: Run = run, seen: Seen = seen) -> Page:
                from agentmixer.report import training_page

                return training_page.page(run.path, now, seen)

            self._write(run, live)
        self._written, self._took = time.monotonic(), time.monotonic() - begin

    def close(self) -> None:
        """Write the pages as they stay, if training has begun."""
        for run in self._chosen if self._told else ():

            def last(run: Run = run) -> Page:
                from agentmixer.report import run_page

                return run_page.page(run.path)

            self._write(run, last)

    def _write(self, run: Run, make: Callable[[], Page]) -> None:
        try:
            from agentmixer.report.page import compose

            write_whole(run.path / PAGE, compose(make()).encode())
        except Exception as error:  # whatever it is, training is worth more than a page
            if not self._failed:
                self._console.sentence(f"note: {run.path / PAGE} could not be written, training goes on: {error}")
            self._failed = True


@contextlib.contextmanager
def watched(chosen: Sequence[Run], console: Terminal) -> Iterator[Watch]:
    """What is yielded is to be told where the runs stand."""
    with contextlib.ExitStack() as stack:
        watchers: list[Watch] = []
        if console.is_interactive and not console.quiet:
            from agentmixer_cli.live import LiveView

            watchers.append(stack.enter_context(LiveView(chosen, console)))
        pages = Pages(chosen, console)
        stack.callback(pages.close)
        watchers.append(pages)

        def tell(now: Standing) -> None:
            for watch in watchers:
                watch(now)

        yield tell
