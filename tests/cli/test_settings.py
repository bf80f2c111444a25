"""`agentmixer settings`: every setting of every algorithm, as --set takes it."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from commands import agentmixer

from agentmixer.config import parse_assignments
from agentmixer.train.algorithms import ALGORITHMS


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_what_is_listed_is_every_setting_and_can_be_copied(algorithm: str, tmp_path: Path) -> None:
    """The listed NAME=VALUE pairs of a task, given to another preset's settings, make the task's own."""
    listed = agentmixer("settings", algorithm, "--task", "mamujoco", cwd=tmp_path, columns=80)
    assert listed.returncode == 0, listed.stderr
    assert max(map(len, listed.stdout.splitlines())) <= 80
    pairs = re.findall(r"^  (\w+=\S+)", listed.stdout, re.MULTILINE)
    wanted = ALGORITHMS[algorithm].configure("default", "mamujoco")
    assert [pair.partition("=")[0] for pair in pairs] == list(wanted.as_dict())
    assert ALGORITHMS[algorithm].configure("default", "smacv2").replace(parse_assignments(pairs)) == wanted
    text = " ".join(listed.stdout.split())
    for part in wanted.parts.values():
        for setting in part.declared().values():
            assert f"{setting.wanted} {setting.sentence}" in text


def test_all_presets_and_their_difference_by_task_are_shown(tmp_path: Path) -> None:
    lines = agentmixer("settings", "--task", "mamujoco", cwd=tmp_path).stdout.splitlines()
    assert "  layers=1  (paper 2, released 2)" in lines and "  std_high=1.0  (paper 0.5, released 0.75)" in lines
    lines = agentmixer("settings", cwd=tmp_path).stdout.splitlines()
    assert "  layers=1  (paper 1, released 1)" in lines


def test_json_says_the_same_to_a_program(tmp_path: Path) -> None:
    found = json.loads(agentmixer("settings", "--task", "matrix", "--json", cwd=tmp_path).stdout)
    assert (found["algorithm"], found["task"], list(found["settings"])) == (
        "agentmixer_ppo", "matrix", ["team", "algorithm", "run"],
    )  # fmt: skip
    assert found["settings"]["algorithm"]["epochs"] == {
        "defaults": {"default": 4, "paper": 15, "released": 15}, "type": "int", "choices": None, "low": 1, "high": None,
        "about": "passes over each rollout",
    }  # fmt: skip
    assert found["settings"]["team"]["joint"]["choices"] == ["gap", "gumbel"]
    assert found["settings"]["team"]["share_parameters"]["defaults"] == {
        "default": False,
        "paper": False,
        "released": False,
    }
