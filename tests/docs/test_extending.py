"""docs/extending.md, followed to the letter: files written, lines changed, trained with."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from installed_examples import EXAMPLES, install_examples

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "extending.md").read_text()
TASK, ADDED = PAGE.split("## An algorithm")

#: Trains the page's two additions on the task that the page explains.
PROGRAM = """
from agentmixer_cli.app import run

small = ["--steps=128", *(f"--set={setting}" for setting in (
    "num_envs=8", "rollout_length=16", "minibatches=2", "chunk_length=4", "hidden=16", "eval_episodes=4", "final_episodes=4"
))]
walkers = ["train", "walkers", "two_walkers", *small]
assert run([*walkers, "--algorithm=spo", "--out=spo"]) == 0
assert run([*walkers, "--set=pm=mean", "--out=mean"]) == 0
"""


def blocks(page: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page, re.MULTILINE | re.DOTALL)


def changed(text: str, diff: str) -> str:
    """A line that is only added is an import and goes before the first one; what is taken out is replaced."""
    lines = [(line[0], line[1:] + "\n") for line in diff.splitlines()]
    taken = [line for sign, line in lines if sign == "-"]
    imports = [line for sign, line in lines if sign == "+" and line.startswith("from ")]
    put = [line for sign, line in lines if sign == "+" and not line.startswith("from ")]
    old = "".join(taken)
    assert text.count(old) == 1, old
    text = text.replace(old, "".join(put))
    return text.replace("\nfrom ", "\n" + "".join(imports) + "from ", 1)


def test_a_task_is_explained_by_what_stands_in_its_file() -> None:
    whole = (EXAMPLES / "numpy_task.py").read_text()
    shown = blocks(TASK, "python")
    assert len(shown) == 4 and all(block.strip("\n") in whole for block in shown)
    (entry,) = blocks(TASK, "toml")
    assert entry in (EXAMPLES / "pyproject.toml").read_text()


def test_an_algorithm_and_a_policy_modifier_are_added_as_the_page_says(tmp_path: Path) -> None:
    copy, site, work = tmp_path / "copy", tmp_path / "site", tmp_path / "work"
    for package in ("agentmixer", "cli/agentmixer_cli"):
        shutil.copytree(ROOT / package, copy / package, ignore=shutil.ignore_patterns("__pycache__"))
    files = re.findall(r"^`(agentmixer/[\w/]+\.py)`:\n\n```python\n(.*?)^```", ADDED, re.MULTILINE | re.DOTALL)
    edits = re.findall(
        r"`(agentmixer/[\w/]+\.py)`[^`]*(?:`\w+`[^`]*)?\n\n```diff\n(.*?)^```", ADDED, re.MULTILINE | re.DOTALL
    )
    assert len(files) == len(blocks(ADDED, "python")) == 2 and len(edits) == len(blocks(ADDED, "diff")) == 3
    for name, text in files:
        (copy / name).write_text(text)
    for name, diff in edits:
        (copy / name).write_text(changed((copy / name).read_text(), diff))
    install_examples(site)
    work.mkdir()
    path = os.pathsep.join(map(str, (copy, copy / "cli", EXAMPLES, site)))
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], cwd=work, env=os.environ | {"PYTHONPATH": path}, capture_output=True, text=True,
        timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert all((work / run / "summary.json").is_file() for run in ("spo", "mean"))
