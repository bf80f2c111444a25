"""Where a bundle may go: nowhere that something else would be lost by."""

from __future__ import annotations

import itertools
import os
from pathlib import Path

from agentmixer.contract.manifest import (
    AGENT_FILE,
    AGENT_FILES,
    AGENTS_FOLDER,
    OPTIONAL_FILES,
    REPORTS_FOLDER,
    TEAM_FILE,
)
from agentmixer.errors import AgentMixerError
from agentmixer.runtime import signature
from agentmixer.runtime.bundle import bundle_around


def _not_exported(bundle: Path) -> str | None:
    """A file in the folder that is no bundle's, relative to it; None if there is none."""
    files = (AGENT_FILE, *AGENT_FILES, *itertools.chain(*OPTIONAL_FILES), signature.AGENT_SIGNATURE_FILE)
    for path in sorted(bundle.rglob("*")):
        parts = path.relative_to(bundle).parts
        known = (
            parts[0] == REPORTS_FOLDER
            or parts in ((TEAM_FILE,), (signature.SIGNATURE_FILE,))
            or (parts[0] == AGENTS_FOLDER and (len(parts) < 3 or (len(parts) == 3 and parts[2] in files)))
        )
        if not known:
            return str(path.relative_to(bundle))
    return None


def check_place(target: Path, replace: bool) -> None:
    """Raise AgentMixerError if a bundle cannot go there: it lies in another bundle, something is there, or something else
    than a bundle to replace."""
    if around := bundle_around(target):
        raise AgentMixerError(
            f"{target} lies in the bundle {around}, which would be none any more; choose another --out"
        )
    if not os.path.lexists(target):
        return
    if not (target.is_dir() and not target.is_symlink() and (target / TEAM_FILE).is_file()):
        raise AgentMixerError(f"{target} exists already and is no bundle; choose another --out or remove it first")
    if replace and (other := _not_exported(target)):
        raise AgentMixerError(
            f"{target} holds {other}, which no export has put there and which would be lost; move it away or choose another --out"
        )
    if not replace:
        raise AgentMixerError(
            f"{target} exists already; choose another --out, or give --replace to lose what is there, its signatures and "
            "reports with it"
        )
