"""What this user made on this machine: runs that were trained and bundles that were exported here.

A run or a bundle may name code (a task's scenario such as `module:factory`), and whoever hands one over decides what it
names. So code is imported without asking only for what was made here. That is remembered under the user's state folder
($XDG_STATE_HOME/agentmixer, ~/.local/state/agentmixer unless set) and nowhere near runs and bundles: an archive that is
unpacked beside them can bring along whatever it likes, but no entry here.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Literal

from agentmixer.contract.manifest import sha256
from agentmixer.errors import AgentMixerError
from agentmixer.files import read_regular, write_whole

Kind = Literal["runs", "bundles"]
#: Longest path that an entry may hold, in bytes.
_LONGEST = 4096


def folder() -> Path:
    """Where entries are kept."""
    root = os.environ.get("XDG_STATE_HOME") or ""
    return (Path(root) if Path(root).is_absolute() else Path.home() / ".local" / "state") / "agentmixer"


def remember(kind: Kind, digest: str, path: Path) -> bool:
    """Remember what was made here. kind, digest: "runs" and the SHA-256 of its config.toml, or "bundles" and that of its
    team.json; path: the run's directory. Returns False if nothing can be written there, or if others could write there too."""
    try:
        folder().mkdir(mode=0o700, parents=True, exist_ok=True)
        entry = _entry(kind, digest, path)
        entry.parent.mkdir(mode=0o700, exist_ok=True)
        write_whole(entry, str(path.resolve()).encode(), 0o600)
    except (OSError, RuntimeError, UnicodeEncodeError, AgentMixerError):  # RuntimeError: no home
        return False
    return _recall(kind, digest, path) is not None


def trained_here(digest: str, path: Path) -> bool:
    """Whether the run at `path` with that config.toml was made by this user on this machine."""
    return _recall("runs", digest, path) is not None


def exported_from(digest: str) -> Path | None:
    """The run that the bundle with that team.json was exported from on this machine; None if it was not exported here."""
    return _recall("bundles", digest, Path())


def _entry(kind: Kind, digest: str, path: Path) -> Path:
    # A bundle may be anywhere; a run is one only where it was made, for another run may have the same settings.
    name = sha256(f"{digest} {path.resolve()}".encode()) if kind == "runs" else digest
    return folder() / kind / name


def _recall(kind: Kind, digest: str, path: Path) -> Path | None:
    try:
        entry = _entry(kind, digest, path)
        for place in (folder(), entry.parent):
            found = os.lstat(place)
            if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o022:
                return None  # somebody else could have written there
        return Path(read_regular(entry, _LONGEST).decode())
    except (OSError, RuntimeError, UnicodeError, AgentMixerError):
        return None
