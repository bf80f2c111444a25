"""Six cooperative matrix games that no setting was tuned on, as payoff files: python benchmarks/matrix_games.py FOLDER

Each file is a scenario of task matrix: agentmixer train matrix FOLDER/random_6x6.json --seeds 0-9. docs/results.md has what came of them.
"""

from __future__ import annotations

import itertools
import json
import sys
from pathlib import Path

import numpy as np


def games() -> dict[str, np.ndarray]:
    """Name -> payoffs [A_0, ..., A_(N-1)], the same in every call."""
    draw = np.random.default_rng(2026)
    found: dict[str, np.ndarray] = {}
    # The best cell alone among -25; beside it a plateau that is safe.
    deceptive = np.full((4, 4), -25.0)
    deceptive[1:, 1:] = draw.uniform(4, 7, (3, 3))
    deceptive[0, 0] = 10
    found["deceptive_4x4"] = deceptive
    found["agents_3"] = draw.uniform(-20, 6, (3, 3, 3))
    found["agents_3"][2, 0, 1] = 9
    found["agents_4"] = draw.uniform(-15, 5, (3, 3, 3, 3))
    found["agents_4"][1, 2, 0, 1] = 8
    optima = np.full((4, 4), -8.0)
    optima[np.arange(4), [2, 0, 3, 1]] = 10
    found["four_optima"] = optima
    found["random_6x6"] = draw.uniform(-30, 10, (6, 6))
    # 12 if all three play 1, -100 if some do; else 4 or 5.
    punished = np.zeros((3, 3, 3))
    for cell in itertools.product(range(3), repeat=3):
        dared = sum(action == 1 for action in cell)
        punished[cell] = 12 if dared == 3 else -100 if dared else 5 - sum(cell) % 2
    found["agents_3_punished"] = punished
    return {name: payoffs.round(2) for name, payoffs in found.items()}


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python benchmarks/matrix_games.py FOLDER")
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    for name, payoffs in games().items():
        (folder / f"{name}.json").write_text(json.dumps(payoffs.tolist()) + "\n")
        print(folder / f"{name}.json", "best", payoffs.max())
