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
from agentmixer.tasks.base import LARGEST, check_known


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
#: Payoffs that differ by less, as a share of the greatest difference, are alike.
ALIKE = 1e-6
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
    if not (np.abs(cells) <= LARGEST).all():
        raise AgentMixerError(
            f"{scenario} holds a payoff that is not a finite number of at most {LARGEST:g} either way; replace or scale it"
        )
    cells = np.array(cells, np.float64)
    _check_apart(scenario, cells)
    return cells


def _check_apart(scenario: str, cells: np.ndarray) -> None:
    """Raise AgentMixerError if payoffs that differ are the same number as float32, which training computes with.

    Payoffs that lie within ALIKE of each other, relative to the whole spread, may be: rounding is no fault. The greatest
    payoff must be apart from all others, for only joint actions that get that payoff win."""
    steps = np.unique(cells)
    gaps, merged = np.diff(steps), np.diff(steps.astype(np.float32)) == 0
    wide = merged & (gaps > ALIKE * (steps[-1] - steps[0]))
    if len(merged) and (merged[-1] or wide.any()):
        first = len(merged) - 1 if merged[-1] else int(np.argmax(wide))
        raise AgentMixerError(
            f"{scenario} holds the payoffs {steps[first]!s} and {steps[first + 1]!s}, which are the same 32-bit number; "
            "subtract what all payoffs have in common, or make them equal"
        )


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
