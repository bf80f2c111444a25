"""Reports of commands that keep them in the bundle, and nowhere else."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from agentmixer_cli.terminal import Terminal

if TYPE_CHECKING:
    from agentmixer.contract.results import Report


class Kept:
    """A report that goes to the bundle's reports/. Where it cannot be kept there, a line says why, and the verdict is given all
    the same.

    name: of the file, which is made sure of before anything is tried."""

    def __init__(self, console: Terminal, bundle: Path, name: str):
        from agentmixer.errors import AgentMixerError
        from agentmixer.validate.reports import ReportFile

        self._console, self._problem = console, ""
        try:
            self._file = ReportFile(bundle, None, name, option="")
        except AgentMixerError as error:
            self._problem = str(error)

    def write(self, report: Report) -> None:
        """Keep the report, or say why it is not kept."""
        from agentmixer.errors import AgentMixerError

        try:
            if not self._problem:
                self._file.write(report.to_json())
        except AgentMixerError as error:
            self._problem = str(error)
        if self._problem:
            self._console.sentence(f"note: the report is not kept: {self._problem}")

    def tell(self) -> None:
        """Say where the report is, if it was kept."""
        if not self._problem:
            self._console.place("report", self._file.path)
