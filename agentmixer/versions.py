"""Which software made something: versions of what counts, and the commit where AgentMixer runs from its repository."""

from __future__ import annotations

import functools
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from agentmixer import __version__

#: Packages whose versions can change what a run comes to.
PACKAGES = (
    "torch", "numpy", "jax", "jaxlib", "jaxmarl", "mujoco", "gymnasium", "gymnasium-robotics", "pettingzoo", "onnx",
    "onnxruntime",
)  # fmt: skip


@functools.cache
def made_with() -> dict[str, str]:
    """{"agentmixer": "0.1.0 (commit 1234567, changed)", "python": "3.11.7", "torch": ...}, for what is installed."""
    found = {"agentmixer": __version__ + _commit(), "python": platform.python_version(), "machine": platform.machine()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def _commit() -> str:
    """The commit of the repository that this package is in, in words; nothing if it is installed."""
    root = Path(__file__).resolve().parents[1]

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(root), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()

    try:
        if Path(git("rev-parse", "--show-toplevel")).resolve() != root:
            return ""  # a repository of somebody else that this package is installed in
        changed = git("status", "--porcelain", "--untracked-files=no", "--", "agentmixer", "cli")
        return f" (commit {git('rev-parse', '--short', 'HEAD')}{', changed' if changed else ''})"
    except (OSError, subprocess.SubprocessError):
        return ""
