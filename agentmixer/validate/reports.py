"""Where verdicts are kept: in the bundle's reports/ folder, or wherever the user says."""

from __future__ import annotations

import itertools
import os
import stat
from pathlib import Path

from agentmixer.contract.manifest import REPORTS_FOLDER
from agentmixer.errors import AgentMixerError
from agentmixer.files import check_writable, write_whole


class ReportFile:
    """A file that a verdict will be written to, made sure of before anything is played.

    bundle: whose reports/ folder it goes to, unless `asked` says where; name: of the file there, with -2, -3 and so on
    where there is an earlier report, which stays. The folder of a bundle is somebody else's: nothing is written through a
    link that lies in it. Raises AgentMixerError if nothing can be written there."""

    def __init__(self, bundle: Path, asked: Path | None, name: str):
        self.path = asked or bundle / REPORTS_FOLDER / name
        if asked is None:
            self._own_folder(bundle / REPORTS_FOLDER)
            first = self.path
            for number in itertools.count(2):
                if self.path.is_symlink() or not self.path.is_file():  # whatever else is there is refused below
                    break
                self.path = first.with_stem(f"{first.stem}-{number}")
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            check_writable(self.path)
        except OSError as error:
            raise self._unwritable(error) from error

    def write(self, text: str) -> None:
        """Keep `text`, whole, in place of what was there."""
        try:
            write_whole(self.path, text.encode())
        except OSError as error:
            raise self._unwritable(error) from error

    def _own_folder(self, folder: Path) -> None:
        if os.path.lexists(folder) and not stat.S_ISDIR(os.lstat(folder).st_mode):
            raise AgentMixerError(
                f"{folder} is not a folder, and reports are not written through a link; remove it, or choose --report FILE"
            )

    def _unwritable(self, error: OSError) -> AgentMixerError:
        return AgentMixerError(
            f"no report can be written to {self.path} ({error.strerror}); choose another --report FILE"
        )
