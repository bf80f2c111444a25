"""A team is judged by whole episodes, also one whose episodes do not end, and whoever stops that loses nothing."""

from __future__ import annotations

import contextlib
import io
import json
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from agentmixer_cli.app import app
from conftest import quiet, tiny_algorithm, tiny_spec
from rich.console import Console
from typer.testing import CliRunner

from agentmixer import progress, tasks
from agentmixer.tasks.base import TaskStep
from agentmixer.train import checkpoint, figures, trainer
from agentmixer.train import evaluate as judging
from agentmixer.train import run as runs
from agentmixer.train.algorithms import AgentMixerPPO
from agentmixer.train.evaluate import Interrupted, evaluate, longest_episode
from agentmixer.train.run import Run
from agentmixer.train.team import Team

TIMES = {"seconds", "steps_per_second", "seconds_collecting", "seconds_updating"}


class Endless:
    """Episode k of a team ends, won, after k + 1 steps, but episodes of odd numbers never end; a step pays 1."""

    spec = tiny_spec()
    num_envs = 2

    def reset(self, seed: int, episodes: np.ndarray) -> TaskStep:
        self.episodes, self.time = episodes, 0
        return self.look(np.zeros(2, bool))

    def step(self, actions: Any) -> TaskStep:
        self.time += 1
        return self.look((self.episodes % 2 == 0) & (self.time == self.episodes + 1))

    def look(self, ended: np.ndarray) -> TaskStep:
        obs, state, ones = np.zeros((3, 2, 7), np.float32), np.zeros((2, 11), np.float32), np.ones((3, 2), bool)
        mask = np.ones((3, 2, 4), bool)
        return TaskStep(obs, state, mask, ones, np.ones(2), ended, np.zeros(2, bool), ended, obs, state)


def test_an_episode_that_does_not_end_is_cut_off_and_lost() -> None:
    found = evaluate(tiny_algorithm().team, Endless(), 4, 0, longest=5)  # type: ignore[arg-type]
    assert found.won.tolist() == [True, False, True, False]
    assert found.unended.tolist() == [False, True, False, True]
    assert found.lengths.tolist() == [1, 5, 3, 5]
    assert found.returns.tolist() == [1, 5, 3, 5]
    assert found.note() == "2 of 4 episodes did not end within 5 steps (the first: episode 1); they count as lost"
    assert evaluate(tiny_algorithm().team, Endless(), 1, 0, longest=5).note() == ""  # type: ignore[arg-type]


def test_a_task_with_a_limit_is_cut_off_beyond_that_alone() -> None:
    assert longest_episode(tiny_spec(), 3) == 2 * tiny_spec().episode_limit


def test_judging_hears_that_it_is_to_stop() -> None:
    asked = iter([False, False, True])
    with pytest.raises(Interrupted):
        evaluate(tiny_algorithm().team, Endless(), 4, 0, stop=lambda: next(asked))  # type: ignore[arg-type]


def small(path: Path, **settings: object) -> Run:
    backend, options = tasks.check("matrix", "climbing", None, {})
    config = AgentMixerPPO.configure().replace(
        {
            "num_envs": 8, "rollout_length": 4, "total_steps": 96, "minibatches": 1, "epochs": 2, "chunk_length": 4, "hidden": 8,
            "eval_interval": 32, "eval_episodes": 4, "final_episodes": 4, "checkpoint_interval": 0, **settings,
        }
    )  # fmt: skip
    return runs.create("matrix", "climbing", backend, "agentmixer_ppo", "default", 3, "cpu", options, config, path)


def outcome(run: Run) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (run.path / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k not in TIMES} for line in [*lines, run.summary or {}]]


@pytest.mark.parametrize("moment", [0, 1, 3])
def test_ctrl_c_while_a_team_is_judged_leaves_all_to_go_on_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: int
) -> None:
    """moment: which evaluation is stopped, of two along the way and the two at the end."""
    unbroken, stopped = small(tmp_path / "unbroken"), small(tmp_path / "stopped")
    assert trainer.train(unbroken, quiet())
    real, count = judging.evaluate, 0

    def interrupted(*arguments: Any) -> Any:
        nonlocal count
        count += 1
        if count == moment + 1:
            signal.raise_signal(signal.SIGINT)
        return real(*arguments)

    monkeypatch.setattr(trainer, "evaluate", interrupted)
    assert not trainer.train(stopped, quiet())
    assert runs.load(stopped.path).summary is None
    monkeypatch.undo()
    assert trainer.train(runs.extend(runs.load(stopped.path), None, None), quiet(), resume=True)
    assert outcome(stopped) == outcome(unbroken)


def test_ctrl_c_while_the_task_is_made_leaves_a_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run, real = small(tmp_path / "run"), Run.make_task

    def interrupted(self: Run, *arguments: Any) -> Any:
        signal.raise_signal(signal.SIGINT)
        return real(self, *arguments)

    monkeypatch.setattr(Run, "make_task", interrupted)
    with monkeypatch.context() as patch:
        patch.setattr(Run, "make_task", interrupted)
        patch.setattr(trainer._Interrupt, "_ask", lambda self, *_: setattr(self, "asked", True))  # twice is meant once
        assert not trainer.train(run, quiet())
    monkeypatch.undo()
    assert [file.name for file in run.checkpoint_files] == ["step_000000000000.safetensors"]
    assert trainer.train(run, quiet(), resume=True)


def test_without_a_terminal_a_line_says_how_far_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "LINE_EVERY_S", 0.0)
    console = Console(file=io.StringIO(), width=80)
    assert trainer.train(small(tmp_path / "run", eval_interval=0), console)
    assert isinstance(console.file, io.StringIO)
    lines = [line for line in console.file.getvalue().splitlines() if "decentralised" not in line]
    assert [line.split()[:2] for line in lines] == [["step", str(step)] for step in (32, 64, 96)]
    assert all("steps/s  sampled joint win rate " in line for line in lines)


def test_figures_of_training_begin_with_the_first_limit_of_steps(trained: Run, tmp_path: Path) -> None:
    """protoss_5v5 ends after 100 steps at most, and `trained` takes 64 steps of each environment; climbing ends at once."""
    assert not [line for line in outcome(trained)[:-1] if "train_return" in line or "train_win_rate" in line]
    run = small(tmp_path / "run")
    assert trainer.train(run, quiet())
    assert all("train_return" in line and "train_win_rate" in line for line in outcome(run)[:-1])


# ---- greedy and sampled ------------------------------------------------------------------------------


def test_sampled_figures_are_told_where_they_differ(tmp_path: Path) -> None:
    """After one update a team of climbing plays one cell greedily and any of nine if it draws: the intervals have nothing in common."""
    backend, options = tasks.check("matrix", "climbing", None, {})
    settings = {"total_steps": 500, "eval_interval": 0, "final_episodes": 200}
    config = AgentMixerPPO.configure("default", "matrix").replace(settings)
    run = runs.create(
        "matrix", "climbing", backend, "agentmixer_ppo", "default", 0, "cpu", options, config, tmp_path / "r"
    )
    assert trainer.train(run, quiet())
    summary = run.summary
    assert summary is not None
    greedy, sampled = summary["decentralised_greedy"], summary["decentralised_sampled"]
    assert greedy["return_low"] == greedy["return_high"] == greedy["return"]
    # Of 9 cells played nearly evenly: mean -31 / 9, one in nine the best.
    assert sampled["return"] == pytest.approx(-31 / 9, abs=3.5) and sampled["win_rate"] == pytest.approx(
        1 / 9, abs=0.08
    )
    line = figures.sampled_line(run)
    assert line is not None and line.startswith("with sampled actions decentralised win rate 0.")
    again = evaluate(
        algorithm_of(run), tasks.make("matrix", "climbing", 200), 200, trainer.EVALUATION_SEED, greedy=False
    )
    assert abs(again.returns.mean() - sampled["return"]) < 3.5
    done = CliRunner().invoke(app, ["evaluate", str(run.path), "--episodes", "200"], catch_exceptions=False)
    assert "decentralised, greedy, 200 episodes" in done.output and "sampled, the same episodes" in done.output
    done = CliRunner().invoke(app, ["evaluate", str(run.path), "--episodes", "200", "--greedy"], catch_exceptions=False)
    assert "greedy, 200 episodes" in done.output and "sampled, the same episodes" not in done.output


def algorithm_of(run: Run) -> Team:
    with contextlib.closing(run.make_task(1)) as task:
        return checkpoint.load_weights(run, task, checkpoint.latest(run))[0].team


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        ((1.0, 0.5, 1.5), (2.0, 1.6, 2.4), True),
        ((1.0, 0.5, 1.5), (2.0, 1.4, 2.4), False),
        ((2.0, 1.6, 2.4), (1.0, 0.5, 1.5), True),
        ((1.0, 1.0, 1.0), (1.0, 1.0, 1.0), False),
        ((1.0, None, None), (9.0, 8.0, 10.0), False),  # a single episode has no interval
    ],
)
def test_figures_differ_where_intervals_have_nothing_in_common(first: Any, second: Any, expected: bool) -> None:
    names = "return", "return_low", "return_high"
    assert figures.differ(dict(zip(names, first, strict=True)), dict(zip(names, second, strict=True))) is expected
