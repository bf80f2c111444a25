"""What the real game needs, and where it is: StarCraft II 4.10, a map, smacv2, and packages. Nothing of it is imported."""

from __future__ import annotations

import os
import shlex
from pathlib import Path

from agentmixer.missing import Problem, installed, missing_packages

#: The newest version of StarCraft II for Linux, and the folder of its executable.
VERSION, BUILD = "4.10", "Base75689"
MAP = "32x32_flat.SC2Map"
#: What the package registry has, by the names that `import` takes.
PACKAGES = ("pysc2", "s2clientprotocol", "absl", "websocket", "portpicker", "psutil", "six", "numpy")
#: Upstream's pages.
SMACV2 = "github.com/oxwhirl/smacv2"
STARCRAFT = "github.com/Blizzard/s2client-proto#linux-packages"


def problems() -> list[Problem]:
    """All that is missing for the real game, in the order in which one would mend it; nothing if it can be played."""
    way_out = (
        "make sc2; where AgentMixer is installed without its repository, type: "
        "pip install 'agentmixer[sc2]' && pip install --no-deps pysc2==4.0.0"
    )
    return [*missing_packages(PACKAGES, way_out), *_smacv2(), *_starcraft(), *_map()]


def found() -> str | None:
    """The folder of StarCraft II 4.10; None if its executable is not there."""
    return None if _starcraft() else str(_folder())


def _folder() -> Path:
    """Where StarCraft II is looked for, as pysc2 does it."""
    return Path(os.path.expanduser(os.environ.get("SC2PATH", "~/StarCraftII")))


def _smacv2() -> list[Problem]:
    if installed("smacv2"):
        return []
    way_out = (
        f"clone {SMACV2} and put the clone's folder on PYTHONPATH, or pip install --no-deps that folder "
        "(its own requirements include a protobuf that onnx cannot use)"
    )
    return [Problem("the package smacv2 is not installed", way_out)]


def _starcraft() -> list[Problem]:
    folder = _folder()
    executable = folder / "Versions" / BUILD / "SC2_x64"
    if os.path.isfile(executable):
        if os.access(executable, os.X_OK):
            return []
        return [Problem(f"{executable} may not be executed", f"chmod +x {shlex.quote(str(executable))}")]
    others = sorted(path.name for path in folder.glob("Versions/Base*") if path.name != BUILD)
    if others:
        what = f"StarCraft II in {folder} is not version {VERSION} ({BUILD}) but {', '.join(others)}"
    elif "SC2PATH" in os.environ:
        what = f"StarCraft II {VERSION} is not in {folder}, where SC2PATH points"
    else:
        what = f"StarCraft II {VERSION} is not in {folder}, and SC2PATH names no other folder"
    way_out = f"unpack Linux package {VERSION} of {STARCRAFT} and let SC2PATH name its folder StarCraftII"
    return [Problem(what, way_out)]


def _map() -> list[Problem]:
    folder = _folder() / "Maps" / "SMAC_Maps"
    if os.path.isfile(folder / MAP):
        return []
    way_out = f"copy it there from smacv2/env/starcraft2/maps/SMAC_Maps of {SMACV2} (pip does not install maps)"
    return [Problem(f"the map {MAP} is not in {folder}", way_out)]
