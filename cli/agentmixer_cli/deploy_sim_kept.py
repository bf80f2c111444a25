"""What `agentmixer deploy-sim` keeps: the report, logs, episodes to replay, and the page."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import typer

from agentmixer_cli.report import write_page
from agentmixer_cli.terminal import Terminal

if TYPE_CHECKING:
    from agentmixer.contract.results import Report
    from agentmixer.report.page import Page
    from agentmixer.runtime.bundle import Bundle
    from agentmixer.train.run import Run
    from agentmixer.validate.recording import Recorder
    from agentmixer.validate.reports import ReportFile


class Logs:
    """One log an agent in a folder, made sure of before anything is played; none without a folder."""

    def __init__(self, bundle: Bundle, folder: Path | None):
        from agentmixer.errors import AgentMixerError
        from agentmixer.runtime.log import Logger
        from agentmixer.validate.reports import ReportFile

        self.folder = folder
        self._files: list[ReportFile] = []
        #: In the agents' order.
        self.loggers: list[Logger] = []
        if folder is None:
            return
        for name, files in bundle.agents.items():
            place = folder / f"{name}.npz"
            if place.exists():
                raise AgentMixerError(f"{place} exists already, and is not written over; choose another --log FOLDER")
            self._files.append(ReportFile(bundle.path, place, "", numbered=False, option="--log FOLDER"))
            self.loggers.append(Logger(files.manifest))

    def write(self) -> None:
        """Keep what was logged."""
        from agentmixer.runtime.log import dump

        for file, logger in zip(self._files, self.loggers, strict=True):
            if logger.added:
                file.write(dump(logger.log()))


class Keeper(NamedTuple):
    """Where a report goes, and what is kept with it: logs, episodes to replay, and the page that is made anew.

    recorders: what recorded the episodes, by arm; none if none are kept."""

    console: Terminal
    as_json: bool
    target: ReportFile
    page: ReportFile
    bundle: Bundle
    trusted: Path | None
    run: Run
    recorders: Mapping[str, Recorder]
    logs: Logs

    def __call__(self, report: Report, show: Callable[[], None]) -> None:
        """Write a report, episodes and the page before anything of them is printed. show: prints what comes before the
        verdict."""
        self.target.write(report.to_json())
        self.logs.write()
        recorded = self._recorded()

        def made() -> Page:
            from agentmixer.report import bundle_page

            return bundle_page.page(self.bundle, self.trusted, self.run.path, {self.target.name: self.target.path})

        written = write_page(self.console, self.page, made)
        if self.as_json:
            typer.echo(report.to_json(), nl=False)
            return
        show()
        self.console.place("report", self.target.path)
        if recorded:
            self.console.sentence(f"recording {recorded}", indent=2)
        if self.logs.folder:
            self.console.place("logs", self.logs.folder)
        if written:
            self.console.place("page", self.page.path)
        self.console.verdict(report)

    def _recorded(self) -> str:
        """Keep episodes beside the report. Returns what is to be said of it; the verdict stands without them."""
        from agentmixer.errors import AgentMixerError
        from agentmixer.validate import recording

        if not self.recorders or not all(recorder.played for recorder in self.recorders.values()):
            return ""
        kept = recording.gathered(self.recorders)
        if not kept.episodes:
            return "of nothing: not one step of an episode fits"
        try:
            path = self.target.write_beside(".npz", recording.dump(kept))
        except AgentMixerError as error:
            return f"of nothing: {error}"
        return f"{path} ({len(kept.numbers):,} of {kept.played:,} episodes; see them: agentmixer replay)"
