"""The payoffs of cooperative matrix games: the classical ones by name, any other from a file.

This file imports no simulator.
"""

from __future__ import annotations

import contextlib
import csv
import io
import json
import os
import tokenize
from pathlib import Path
from typing import NamedTuple

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
#: Payoffs of chance, each table as likely as the other: Kapetanakis and Kudenko (2002). The best mean is 11, the lottery of 14 or 0 has 7.
CHANCE: dict[str, list[list[list[float]]]] = {
    "climbing_stochastic_partly": [
        [[11, -30, 0], [-30, 14, 6], [0, 0, 5]],
        [[11, -30, 0], [-30, 0, 6], [0, 0, 5]],
    ],
    "climbing_stochastic": [
        [[10, 5, 8], [5, 14, 12], [5, 5, 10]],
        [[12, -65, -8], [-65, 0, 0], [-5, -5, 0]],
    ],
}
SUFFIXES = (".json", ".npy", ".csv")
MAX_AGENTS = 8
MAX_CELLS = 1_000_000
#: Payoffs that differ by less, as a share of the greatest difference, are alike.
ALIKE = 1e-6
#: Largest file that is read, bytes.
MAX_FILE = 2**26


class Payoffs(NamedTuple):
    """What joint actions may be worth. tables: float64 [K, A_0, ..., A_(N-1)], of which an episode draws one; axis i + 1 is agent
    i's action; probabilities: [K], that of each table. K is 1 where nothing is left to chance."""

    tables: np.ndarray
    probabilities: np.ndarray

    @property
    def mean(self) -> np.ndarray:
        """[A_0, ..., A_(N-1)]."""
        return np.asarray(np.tensordot(self.probabilities, self.tables, 1))

    @property
    def best(self) -> np.ndarray:
        """Where the mean is greatest, bool [A_0, ..., A_(N-1)]. Means that differ by rounding alone are equal."""
        mean, rounding = self.mean, 1e-12 * np.abs(self.tables).max() if len(self.tables) > 1 else 0.0
        return np.asarray(mean >= mean.max() - rounding)


def payoff(scenario: str) -> np.ndarray:
    """The mean payoff of every joint action, float64 [A_0, ..., A_(N-1)]; see `payoff_tables`."""
    return payoff_tables(scenario).mean


def payoff_tables(scenario: str) -> Payoffs:
    """What every joint action may be worth.

    scenario: a name in PAYOFFS or CHANCE, or the path of a file that ends in one of SUFFIXES. Raises AgentMixerError
    naming what is wrong with it."""
    if not _is_text(scenario):
        raise AgentMixerError(f"the name {scenario!r} is not UTF-8, so no run can be called by it; rename the file")
    suffix = Path(scenario).suffix
    if suffix not in SUFFIXES:
        if suffix:
            raise AgentMixerError(
                f"'{scenario}' is neither a matrix game known by name nor a .json, .npy or .csv file of payoffs"
            )
        check_known("matrix", scenario, [*PAYOFFS, *CHANCE])
        tables = np.array(CHANCE.get(scenario) or [PAYOFFS[scenario]], np.float64)
        return Payoffs(tables, np.full(len(tables), 1 / len(tables)))
    try:
        tables, probabilities = _read(scenario)
    except FileNotFoundError:
        raise AgentMixerError(f"there is no file {scenario}; give the path of a file of payoffs") from None
    except UnicodeDecodeError as error:
        raise AgentMixerError(f"{scenario} is not text in UTF-8 ({error.reason}); save it as that") from None
    except (OSError, ValueError, EOFError, RecursionError, SyntaxError, tokenize.TokenError, csv.Error) as error:
        raise AgentMixerError(
            f"{scenario} cannot be read as payoffs ({error}); all rows must be equally long and hold numbers only"
        ) from None
    shape = tables.shape[1:]
    if tables.dtype.kind not in "iuf":
        raise AgentMixerError(f"{scenario} holds something that is not a number; payoffs must be numbers only")
    if not 2 <= len(shape) <= MAX_AGENTS:
        raise AgentMixerError(
            f"{scenario} is nested {len(shape)} deep, one level an agent; a team has 2 to {MAX_AGENTS} agents"
        )
    if min(shape) < 2:
        raise AgentMixerError(f"{scenario} gives an agent fewer than 2 actions (its shape is {shape})")
    if tables.size > MAX_CELLS:
        raise AgentMixerError(f"{scenario} has {tables.size:,} payoffs; at most {MAX_CELLS:,} are possible")
    if not (np.abs(tables) <= LARGEST).all():
        raise AgentMixerError(
            f"{scenario} holds a payoff that is not a finite number of at most {LARGEST:g} either way; replace or scale it"
        )
    found = Payoffs(np.array(tables, np.float64), _probabilities(scenario, probabilities, len(tables)))
    _check_apart(scenario, found.tables)
    return found


def _probabilities(scenario: str, given: object, count: int) -> np.ndarray:
    """Those of `count` tables, as many numbers from 0 to 1 with the sum 1. Raises AgentMixerError if they are not."""
    with contextlib.suppress(ValueError, TypeError, OverflowError):
        numbers = np.array(given, np.float64)
        if numbers.shape == (count,) and (numbers >= 0).all() and abs(numbers.sum() - 1) < 1e-6:
            return np.asarray(numbers / numbers.sum())
    raise AgentMixerError(
        f'{scenario} has {count} tables of payoffs; its "probabilities" must be as many numbers, none below 0, with the sum 1'
    )


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


def _read(scenario: str) -> tuple[np.ndarray, object]:
    """Tables [K, ...] and what stands for their probabilities in a regular file, also at the end of a link: whoever typed the path meant
    what it leads to."""
    file = Path(os.path.realpath(scenario))
    file.stat()  # says in a word what is wrong with the path
    data = read_regular(file, MAX_FILE, links=None, again="give a file of payoffs")
    if scenario.endswith(".npy"):
        # Mapped, so that a header that promises more than there is costs nothing.
        return np.asarray(np.load(file, mmap_mode="r", allow_pickle=False))[None], [1]
    if scenario.endswith(".csv"):
        lines = io.StringIO(data.decode(), newline="")
        return np.array([row for row in csv.reader(lines) if row], np.float64)[None], [1]
    content = json.loads(data.decode())
    if not isinstance(content, dict):
        return np.array(content)[None], [1]
    if set(content) != {"payoffs", "probabilities"}:
        raise ValueError('an object must have "payoffs", a list of tables, and "probabilities", one a table')
    return np.array(content["payoffs"]), content["probabilities"]


def _is_text(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:  # bytes of a path that are no letters
        return False
    return True
