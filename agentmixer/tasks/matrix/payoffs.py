"""The payoffs of cooperative matrix games: the classical ones by name, any other from a file.

This file imports no simulator.
"""

from __future__ import annotations

import csv
import io
import json
import os
import tokenize
from pathlib import Path

import numpy as np

from agentmixer.errors import AgentMixerError
from agentmixer.files import read_regular
from agentmixer.tasks.base import check_known


def _penalty(k: float) -> list[list[float]]:
    return [[-k, 0, 10], [0, 2, 0], [10, 0, -k]]


#: Rows are agent_0's actions, columns agent_1's. Climbing and penalty: Claus and Boutilier (1998); non-monotonic:
#: Son et al. (2019); the order of the actions is the one that later work uses.
PAYOFFS: dict[str, list[list[float]]] = {
    "climbing": [[0, 6, 5], [-30, 7, 0], [11, -30, 0]],
    "penalty_25": _penalty(25),
    "penalty_50": _penalty(50),
    "penalty_100": _penalty(100),
    "nonmonotonic": [[-12, 0, 0], [-12, 0, 0], [8, -12, -12]],
}
SUFFIXES = (".json", ".npy", ".csv")
MAX_AGENTS = 8
MAX_CELLS = 1_000_000
#: Largest file that is read, bytes.
MAX_FILE = 2**26


def payoff(scenario: str) -> np.ndarray:
    """The payoff of every joint action, float64 [A_0, ..., A_(N-1)]; axis i is agent i's action.

    scenario: a name in PAYOFFS, or the path of a file that ends in one of SUFFIXES. Raises AgentMixerError
    naming what is wrong with it."""
    if not _is_text(scenario):
        raise AgentMixerError(f"the name {scenario!r} is not UTF-8, so no run can be called by it; rename the file")
    suffix = Path(scenario).suffix
    if suffix not in SUFFIXES:
        if suffix:
            raise AgentMixerError(
                f"'{scenario}' is neither a matrix game known by name nor a .json, .npy or .csv file of payoffs"
            )
        check_known("matrix", scenario, PAYOFFS)
        return np.array(PAYOFFS[scenario], np.float64)
    try:
        cells = _read(scenario)
    except FileNotFoundError:
        raise AgentMixerError(f"there is no file {scenario}; give the path of a file of payoffs") from None
    except UnicodeDecodeError as error:
        raise AgentMixerError(f"{scenario} is not text in UTF-8 ({error.reason}); save it as that") from None
    except (OSError, ValueError, EOFError, RecursionError, SyntaxError, tokenize.TokenError, csv.Error) as error:
        raise AgentMixerError(
            f"{scenario} cannot be read as payoffs ({error}); all rows must be equally long and hold numbers only"
        ) from None
    if cells.dtype.kind not in "iuf":
        raise AgentMixerError(f"{scenario} holds something that is not a number; payoffs must be numbers only")
    if not 2 <= cells.ndim <= MAX_AGENTS:
        raise AgentMixerError(
            f"{scenario} is nested {cells.ndim} deep, one level an agent; a team has 2 to {MAX_AGENTS} agents"
        )
    if min(cells.shape) < 2:
        raise AgentMixerError(f"{scenario} gives an agent fewer than 2 actions (its shape is {cells.shape})")
    if cells.size > MAX_CELLS:
        raise AgentMixerError(f"{scenario} has {cells.size:,} payoffs; at most {MAX_CELLS:,} are possible")
    if not (np.abs(cells) <= np.finfo(np.float32).max).all():
        raise AgentMixerError(f"{scenario} holds a payoff that is not a finite 32-bit number; replace it")
    return np.array(cells, np.float64)


def _read(scenario: str) -> np.ndarray:
    """The content of a regular file, also at the end of a link: whoever typed the path meant what it leads to."""
    file = Path(os.path.realpath(scenario))
    file.stat()  # says in a word what is wrong with the path
    data = read_regular(file, MAX_FILE, links=None, again="give a file of payoffs")
    if scenario.endswith(".npy"):
        # Mapped, so that a header that promises more than there is costs nothing.
        return np.asarray(np.load(file, mmap_mode="r", allow_pickle=False))
    if scenario.endswith(".csv"):
        lines = io.StringIO(data.decode(), newline="")
        return np.array([row for row in csv.reader(lines) if row], np.float64)
    return np.array(json.loads(data.decode()))


def _is_text(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:  # bytes of a path that are no letters
        return False
    return True
