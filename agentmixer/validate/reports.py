"""Where verdicts are kept: in the bundle's reports/ folder, or wherever the user says."""

from __future__ import annotations

import itertools
import os
import stat
from pathlib import Path

from agentmixer.contract.manifest import REPORTS_FOLDER
from agentmixer.errors import AgentMixerError
from agentmixer.files import check_writable, write_whole
from agentmixer.runtime.bundle import bundle_around


class ReportFile:
    """A file that a verdict will be written to, made sure of before anything is played.

    bundle: whose reports/ folder it goes to, unless `asked` says where; name: of the file there. Where there is a file
    already, it stays, and the report is called -2, -3 and so on; unless `numbered`, it is replaced. option: what chooses
    another place, for errors; empty if nothing does. also: endings of files that will lie beside it under the same name, such as ".npz". The folder
    of a bundle is somebody else's: nothing is
    written through a link that lies in it. Raises AgentMixerError if nothing can be written there, or if a bundle would no
    longer be one with it."""

    def __init__(
        self, bundle: Path, asked: Path | None, name: str, numbered: bool = True, option: str = "--report FILE",
        also: tuple[str, ...] = (),
    ):  # fmt: skip
        #: What the report is called, without its number and ending.
        self.name, self._choose = Path(name).stem, f"choose another {option}" if option else ""
        first = self.path = asked or bundle / REPORTS_FOLDER / name
        if asked is None:
            self._own_folder(bundle / REPORTS_FOLDER)
        elif (around := bundle_around(asked)) and around / REPORTS_FOLDER not in Path(os.path.abspath(asked)).parents:
            raise AgentMixerError(
                f"{asked} lies in the bundle {around}, which no file may be added to but in {REPORTS_FOLDER}/; "
                f"{self._choose}"
            )
        if self.path.suffix in also:
            raise AgentMixerError(f"{self.path} is where more than the report is kept; {self._choose}")
        for number in itertools.count(2):
            files = [self.path, *map(self._beside, also)]
            if not numbered or not any(file.is_file() and not file.is_symlink() for file in files):
                break  # whatever else is there is refused below
            self.path = first.with_stem(f"{first.stem}-{number}")
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            for file in files:
                check_writable(file)
        except OSError as error:
            raise self._unwritable(error) from error

    def write(self, content: str | bytes) -> None:
        """Keep `content`, whole."""
        self._write(self.path, content.encode() if isinstance(content, str) else content)

    def write_beside(self, ending: str, data: bytes) -> Path:
        """Keep `data`, whole, in the file of that ending. Returns its path."""
        path = self._beside(ending)
        self._write(path, data)
        return path

    def _beside(self, ending: str) -> Path:
        return self.path.parent / f"{self.path.stem}{ending}"

    def _write(self, path: Path, data: bytes) -> None:
        try:
            write_whole(path, data)
        except OSError as error:
            raise self._unwritable(error) from error

    def _own_folder(self, folder: Path) -> None:
        if os.path.lexists(folder) and not stat.S_ISDIR(os.lstat(folder).st_mode):
            ways = ", or ".join(filter(None, ("remove it", self._choose)))
            raise AgentMixerError(f"{folder} is not a folder, and reports are not written through a link; {ways}")

    def _unwritable(self, error: OSError) -> AgentMixerError:
        told = f"no report can be written to {self.path} ({error.strerror})"
        return AgentMixerError("; ".join(filter(None, (told, self._choose))))
