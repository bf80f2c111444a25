"""docs/method.md lists every setting in which the preset `default` differs from `paper`, by task, as the presets have it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from agentmixer.train.algorithms import AgentMixerPPO

PAGE = Path(__file__).parents[2] / "docs" / "method.md"
TASKS = ("smacv2", "mamujoco", "predator_prey", "matrix", "passage", "pettingzoo")
#: How long a run is and when it is judged: no part of the method.
RUN = {"total_steps", "eval_interval", "eval_episodes", "final_episodes", "checkpoint_interval", "judge_limit"}


def written(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else f"{value:g}" if isinstance(value, float) else str(value)


def table() -> str:
    """A row a setting that differs somewhere: what `paper` says (task by task where it says different things), and what
    `default` says where it differs."""
    default, paper = (
        {task: AgentMixerPPO.configure(preset, task).as_dict() for task in TASKS} for preset in ("default", "paper")
    )
    rows = [["setting", "paper", *TASKS], ["---"] * (len(TASKS) + 2)]
    for name in default[TASKS[0]]:
        theirs = {task: written(paper[task][name]) for task in TASKS}
        ours = [written(default[task][name]) if default[task][name] != paper[task][name] else "" for task in TASKS]
        if name in RUN or not any(ours):
            continue
        usual = max(theirs.values(), key=list(theirs.values()).count)
        others = [f"{task} {value}" for task, value in theirs.items() if value != usual]
        rows.append([f"`{name}`", ", ".join([usual, *others]), *ours])
    return "\n".join(f"| {' | '.join(row)} |".replace("  ", " ") for row in rows)


def test_the_page_lists_every_departure_of_the_presets() -> None:
    (section,) = re.findall(
        r"^### Default beside paper, by task$(.*?)(?=^##|\Z)", PAGE.read_text(), re.DOTALL | re.MULTILINE
    )
    found = "\n".join(line for line in section.splitlines() if line.startswith("|"))
    assert found == table(), f"put this into docs/method.md:\n{table()}"
