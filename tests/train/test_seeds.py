"""Several seeds trained side by side: each gets what it would alone."""

from __future__ import annotations

import io
import json
import shlex
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from commands import Process, agentmixer
from conftest import TINY, box_spec, quiet, random_rollout, tiny_algorithm, tiny_spec
from rich.console import Console
from safetensors.torch import load_file

from agentmixer import tasks
from agentmixer.config import parse_seeds
from agentmixer.errors import AgentMixerError, TeamError
from agentmixer.tasks.base import Task, TaskStep
from agentmixer.tasks.side_by_side import SideBySide, joined, side_by_side
from agentmixer.train import checkpoint, figures, trainer
from agentmixer.train import run as runs
from agentmixer.train.algorithms import AgentMixerPPO, AgentMixerSAC
from agentmixer.train.rollout import Rollout
from agentmixer.train.run import Run
from agentmixer.train.stream import begin
from agentmixer.train.team import Team

pytestmark = pytest.mark.usefixtures("short_episodes")

TIMING = {"seconds", "steps_per_second"}
SEEDS = (3, 8, 11)
#: Largest difference of a weight after the updates below, from rounding in batched products (docs/method.md).
TOLERANCE = 2e-6


#: What networks say of a step; the rest of a rollout is what happened.
COMPUTED = ("log_prob", "actor_memory", "critic_memory", "value", "last_value", "final_value")


def make(folder: Path, seed: int, task: str = "matrix", scenario: str = "climbing", **settings: object) -> Run:
    backend, options = tasks.check(task, scenario, None, {})
    small = {**TINY, "eval_interval": 0, "checkpoint_interval": 0, "final_episodes": 8, "eval_episodes": 8}
    config = AgentMixerPPO.configure().replace({**small, **settings})
    path = folder / f"s{seed}"
    return runs.create(task, scenario, backend, "agentmixer_ppo", "default", seed, "cpu", options, config, path)


def metrics(run: Run) -> list[dict[str, float]]:
    lines = map(json.loads, (run.path / "metrics.jsonl").read_text().splitlines())
    return [{k: v for k, v in line.items() if k not in TIMING} for line in lines]


def same_files(first: Run, second: Run) -> None:
    ours, theirs = (load_file(checkpoint.latest(run)) for run in (first, second))
    assert ours.keys() == theirs.keys()
    for name in ours:
        assert torch.equal(ours[name], theirs[name]), name


# ---- one update, one rollout ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        ("discrete", {}),
        ("discrete", {"share_parameters": False, "team_critic": False, "recurrent_critic": True, "ratio": "joint"}),
        ("discrete", {"pm": "hypernetwork", "joint": "gumbel", "signal": 2, "minibatches": 1}),
        ("discrete", {"pm": "attention", "recurrent_actor": False, "chunk_length": 1, "optimism": 0.5}),
        ("discrete", {"pm": "causal", "cooled": 0.1, "pulled": 0.2}),
        ("real-valued", {"share_parameters": False, "input_norm": "running", "pm": "causal"}),
        ("real-valued", {"share_parameters": False, "input_norm": "running"}),
        ("real-valued", {"share_parameters": False, "pm": "none", "minibatches": 4}),
    ],
)
def test_teams_learn_side_by_side_what_each_learns_alone(kind: str, settings: dict[str, object]) -> None:
    """Weights, optimisers' moments and numbers after three updates; the real-valued team's agents are padded."""
    spec = box_spec() if kind == "real-valued" else tiny_spec()
    together = tiny_algorithm(spec, seeds=SEEDS, **settings)
    solos = [tiny_algorithm(spec, seed=seed, **settings) for seed in SEEDS]
    for team, solo in enumerate(solos):
        assert all(torch.equal(value, solo.share(0)[key]) for key, value in together.share(team).items())
    for update in range(3):
        experience = random_rollout(together, seed=10 * update)
        numbers = together.update(experience)
        for team, solo in enumerate(solos):
            (alone,) = solo.update(Rollout(**{name: array.chunk(3)[team] for name, array in vars(experience).items()}))
            assert numbers[team].keys() == alone.keys()
            for name, value in alone.items():
                assert numbers[team][name] == pytest.approx(value, rel=1e-4, abs=1e-5), name
            assert torch.equal(together.team.generators[team].get_state(), solo.team.generators[0].get_state())
    for team, solo in enumerate(solos):
        for name, value in together.share(team).items():
            torch.testing.assert_close(value, solo.share(0)[name], rtol=0, atol=TOLERANCE, msg=name)
        assert any(
            (a - b).abs().max() > 1e-3
            for a, b in zip(solo.share(0).values(), solos[team - 1].share(0).values(), strict=True)
        )


@pytest.mark.parametrize(
    ("task", "scenario", "settings"),
    [
        ("smacv2", "protoss_5v5", {}),
        ("predator_prey", "5x5", {"share_parameters": False, "signal": 2, "num_envs": 3}),
        ("mamujoco", "Hopper-3x1", {"share_parameters": False}),
    ],
)
def test_the_first_rollout_draws_the_same_actions_bit_for_bit(
    task: str, scenario: str, settings: dict[str, object], tmp_path: Path
) -> None:
    chosen = [make(tmp_path, seed, task, scenario, **settings) for seed in SEEDS]
    made = [run.make_task(run.config.run.num_envs) for run in chosen]
    together = side_by_side(made)
    algorithm = checkpoint.build(chosen, together.spec)
    stream = begin(
        algorithm.team,
        algorithm.memory(together.num_envs),
        joined([own.reset(run.seed) for own, run in zip(made, chosen, strict=True)]),
    )
    out, finished = algorithm.collect([together], [stream])
    for team, run in enumerate(chosen):
        own = made[team]
        alone = checkpoint.build([run], own.spec)
        want, (ended,) = alone.collect([own], [begin(alone.team, alone.memory(own.num_envs), own.reset(run.seed))])
        for name, array in vars(want).items():
            got = getattr(out, name).chunk(3)[team]
            exact = own.spec.discrete and name not in COMPUTED
            if exact or not array.is_floating_point():
                assert torch.equal(got, array), name
            else:  # what networks say, and all that follows from real-valued actions
                torch.testing.assert_close(got, array, rtol=1e-4, atol=1e-4, msg=name)
        assert ended["return"].shape == finished[team]["return"].shape
    together.close()
    for own in made:
        own.close()


# ---- whole runs ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("task", "scenario", "settings"),
    [
        ("predator_prey", "5x5", {"pipelined": True}),
        ("predator_prey", "5x5", {"share_parameters": False, "recurrent_critic": True, "ratio": "joint", "signal": 2}),
        ("mamujoco", "Hopper-3x1", {"share_parameters": False, "input_norm": "running"}),
    ],
    ids=["shared", "own", "real-valued"],
)
def test_a_stack_of_seeds_is_as_many_single_runs(
    task: str, scenario: str, settings: dict[str, object], tmp_path: Path
) -> None:
    """Everything in the run directories of the first and the last: settings, metrics, summary and each entry of the checkpoints."""
    settings = {"total_steps": 384} | settings
    chosen = [make(tmp_path / "stack", seed, task, scenario, **settings) for seed in SEEDS]
    assert trainer.train_together(chosen, quiet())
    for run in chosen[::2]:
        solo = make(tmp_path / "solo", run.seed, task, scenario, **settings)
        assert trainer.train(solo, quiet())
        assert runs.load(run.path).config == runs.load(solo.path).config
        assert len(metrics(run)) == len(metrics(solo)) >= 3
        for ours, theirs in zip(metrics(run), metrics(solo), strict=True):
            assert ours == pytest.approx(theirs, rel=1e-4, abs=1e-5)
        assert run.summary is not None and solo.summary is not None
        assert run.summary.keys() == solo.summary.keys()
        for arm in ("decentralised_greedy", "joint_greedy"):
            assert run.summary[arm] == pytest.approx(solo.summary[arm], rel=1e-4, abs=1e-5)
        a, b = (load_file(checkpoint.latest(own)) for own in (run, solo))
        assert a.keys() == b.keys()
        for name in a:
            assert (a[name].shape, a[name].dtype) == (b[name].shape, b[name].dtype), name
            if name.startswith(("model.", "optimiser.")):
                torch.testing.assert_close(a[name], b[name], rtol=0, atol=TOLERANCE, msg=name)
        assert torch.equal(a["rng"], b["rng"])
        assert (run.path / "tensorboard").is_dir()
    first, second = (load_file(checkpoint.latest(run)) for run in chosen[:2])
    assert any(not torch.allclose(first[name], second[name], atol=1e-3) for name in first if name.startswith("model."))


def test_each_team_is_judged_with_its_own_weights_and_random_numbers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen = [make(tmp_path, seed, total_steps=128, signal=2, joint="gumbel") for seed in SEEDS]
    real, judged = trainer.evaluate, []

    def spy(team: Team, *rest: object, **named: object) -> object:
        judged.append((team.generators[0].initial_seed(), team.actor.head.weight.detach().clone()))
        return real(team, *rest, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(trainer, "evaluate", spy)
    assert trainer.train_together(chosen, quiet())
    # Once along the way; at the end decentralised, joint, and decentralised with sampled actions.
    assert [seed for seed, _ in judged] == [*SEEDS, *(seed for seed in SEEDS for _ in "abc")]
    weights = {run.seed: load_file(checkpoint.latest(run))["model.actor.head.weight"] for run in chosen}
    assert all(torch.equal(weight, weights[seed]) for seed, weight in judged)


def test_an_interrupted_stack_resumes_to_the_same_bits_and_one_of_its_seeds_alone(tmp_path: Path) -> None:
    where = ("predator_prey", "5x5")
    unbroken, broken = ([make(tmp_path / name, seed, *where) for seed in SEEDS] for name in ("unbroken", "broken"))
    assert trainer.train_together(unbroken, quiet())
    real, calls = AgentMixerPPO.collect, 0

    def interrupt_second(*arguments: object) -> object:
        nonlocal calls
        calls += 1
        if calls == 2:
            signal.raise_signal(signal.SIGINT)
        return real(*arguments)  # type: ignore[arg-type]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(AgentMixerPPO, "collect", interrupt_second)
        assert not trainer.train_together(broken, quiet())
    assert [runs.steps_done(run) for run in broken] == [256] * 3
    assert all(run.summary is None for run in broken)
    alone = make(tmp_path / "alone", SEEDS[1], *where)
    alone.checkpoints.mkdir()
    (alone.checkpoints / checkpoint.latest(broken[1]).name).write_bytes(checkpoint.latest(broken[1]).read_bytes())

    assert trainer.train_together([runs.load(run.path) for run in broken], quiet(), resume=True)
    for ours, theirs in zip(broken, unbroken, strict=True):
        assert metrics(ours) == metrics(theirs)
        same_files(ours, theirs)
        assert ours.summary is not None and theirs.summary is not None
        assert ours.summary["joint_greedy"] == theirs.summary["joint_greedy"]

    assert trainer.train(alone, quiet(), resume=True)  # the checkpoint brings its own line along
    for ours, theirs in zip(metrics(alone), metrics(unbroken[1])[1:], strict=True):
        assert ours == pytest.approx(theirs, rel=1e-4, abs=1e-5)

    # And the other way: three single runs go on as a stack.
    solos = [make(tmp_path / "solos", seed, *where) for seed in SEEDS]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(AgentMixerPPO, "collect", interrupt_second)
        for run in solos:
            calls = 0
            assert not trainer.train(run, quiet())
    assert trainer.train_together(solos, quiet(), resume=True)
    for run, other in zip(solos, unbroken, strict=True):
        for ours, theirs in zip(metrics(run), metrics(other), strict=True):
            assert ours == pytest.approx(theirs, rel=1e-4, abs=1e-5)


def test_a_crash_while_checkpoints_are_written_leaves_all_at_one_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen = [make(tmp_path, seed, checkpoint_interval=128) for seed in SEEDS]
    real, written = checkpoint.write_whole, 0

    def full(*arguments: object, **named: object) -> None:
        nonlocal written
        written += 1
        if written == 8:  # the second of the third round
            raise OSError(28, "No space left on device")
        real(*arguments, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(checkpoint, "write_whole", full)
    with pytest.raises(AgentMixerError, match="No space left on device") as refusal:
        trainer.train_together(chosen, quiet())
    assert f"the checkpoint at step 128 of {chosen[1].path} is good" in str(refusal.value)
    monkeypatch.undo()
    assert [runs.steps_done(run) for run in chosen] == [128] * 3
    assert all(
        [file.name for file in run.checkpoints.iterdir() if file.suffix != ".safetensors"] == [] for run in chosen
    )
    assert trainer.train_together(chosen, quiet(), resume=True)


@pytest.mark.parametrize("what", ["loss", "environment", "task"])
def test_a_team_that_fails_stops_all_and_is_named(what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = [make(tmp_path, seed, "predator_prey", "5x5", checkpoint_interval=128) for seed in SEEDS]
    real, calls = SideBySide.step, 0

    def step(self: SideBySide, actions: torch.Tensor) -> TaskStep:
        nonlocal calls
        calls += 1
        found = real(self, actions)
        if calls == 20 and what == "task":
            raise TeamError("environment 2 fell over", 1)
        if calls == 20 and what == "environment":
            found.reward[TINY["num_envs"] + 2] = float("nan")  # the second team's third environment
        return found

    learn, updates = AgentMixerPPO.update, 0

    def update(self: AgentMixerPPO, experience: Any) -> Any:
        nonlocal updates
        updates += 1
        numbers = learn(self, experience)
        if updates == 2 and what == "loss":
            numbers[1]["value_loss"] = float("inf")
        return numbers

    monkeypatch.setattr(SideBySide, "step", step)
    monkeypatch.setattr(AgentMixerPPO, "update", update)
    with pytest.raises(AgentMixerError) as failure:
        trainer.train_together(chosen, quiet())
    sentence = str(failure.value)
    assert sentence.startswith(f"seed 8 ({chosen[1].path}): ")
    wanted = {
        "loss": "training diverged at step 256",
        "environment": "environment 2 returned a reward",
        "task": "fell over",
    }
    assert wanted[what] in sentence
    assert "every seed" in sentence
    monkeypatch.undo()
    for run in chosen:
        step_done, tensors = checkpoint.read(checkpoint.latest(run))
        assert step_done == 128
        assert all(t.isfinite().all() for t in tensors.values() if t.is_floating_point())
        assert len(metrics(run)) == 1
    assert trainer.train_together(chosen, quiet(), resume=True)


# ---- which runs go on together -------------------------------------------------------------------


def interrupted(folder: Path, seed: int, steps: int = 128, **settings: object) -> Run:
    """A run under `folder` as the command line places it, with a checkpoint at `steps` that nobody reads."""
    run = make(folder / "matrix" / "climbing" / "agentmixer_ppo", seed, **settings)
    run.checkpoints.mkdir()
    (run.checkpoints / f"step_{steps:012d}.safetensors").touch()
    return run


def test_the_newest_unfinished_run_of_each_seed_goes_on(tmp_path: Path) -> None:
    old = [interrupted(tmp_path / "old", seed) for seed in (0, 1)]
    new = interrupted(tmp_path, 0)
    for place, run in enumerate([old[1], old[0], new]):
        target = tmp_path / "matrix" / "climbing" / "agentmixer_ppo" / f"{place}-{run.seed}"
        run.path.rename(target)
    finished = interrupted(tmp_path, 1, 512)
    judged(finished)
    found = runs.extend_together("matrix", "climbing", [0, 1], None, None, root=tmp_path)
    assert [run.path.name for run in found] == ["2-0", "0-1"]
    assert finished.path not in [run.path for run in found]
    with pytest.raises(AgentMixerError, match=r"no unfinished run of matrix climbing .* for seed 4, 7; leave --resume"):
        runs.extend_together("matrix", "climbing", [0, 4, 7], None, None, root=tmp_path)


@pytest.mark.parametrize(
    ("other", "differs"),
    [
        ({"steps": 256}, r"step \(128, 256\)"),
        ({"gamma": 0.5}, r"gamma \(0.99, 0.5\)"),
        ({"total_steps": 640}, "total_steps"),
    ],
)
def test_runs_that_differ_are_not_resumed_together(other: dict[str, object], differs: str, tmp_path: Path) -> None:
    first, second = interrupted(tmp_path, 0), interrupted(tmp_path, 1, **other)  # type: ignore[arg-type]
    before = (first.path / "config.toml").read_text()
    with pytest.raises(AgentMixerError, match=differs) as refusal:
        runs.extend_together("matrix", "climbing", [0, 1], None, None, root=tmp_path)
    assert str(first.path) in str(refusal.value)
    assert f"agentmixer train matrix climbing --resume --out {second.path}" in str(refusal.value)
    assert (first.path / "config.toml").read_text() == before
    if "total_steps" in other:  # one total for all is no difference
        both = runs.extend_together("matrix", "climbing", [0, 1], "1280", None, root=tmp_path)
        assert [run.config.run.total_steps for run in both] == [1280, 1280]


def judged(run: Run, value: float = 1.0) -> None:
    """Give a run a summary, of its last step."""
    arm = {"return": value, "return_low": value, "return_high": value, "episodes": 8}
    text = {"steps": runs.steps_done(run), "steps_per_second": 1.0, "seconds": 1.0}
    runs.write(run.path / "summary.json", json.dumps(text | {"decentralised_greedy": arm, "joint_greedy": arm}))


def test_seeds_of_which_some_were_judged_go_on_together_and_all_judged_ones_do_not(tmp_path: Path) -> None:
    first, second, third = (interrupted(tmp_path, seed, 512) for seed in (0, 1, 2))
    judged(first)
    judged(third)
    found = runs.extend_together("matrix", "climbing", [0, 1, 2], None, None, root=tmp_path)
    assert [run.path for run in found] == [first.path, second.path, third.path]
    judged(second)
    with pytest.raises(AgentMixerError, match=r"no unfinished run .* for seed 0, 1, 2"):
        runs.extend_together("matrix", "climbing", [0, 1, 2], None, None, root=tmp_path)


# ---- tasks side by side --------------------------------------------------------------------------


class Counting:
    """Two agents, three environments. Observations say whose they are; reward is the sum of its own actions."""

    restarts = False

    def __init__(self, mark: float):
        self.spec, self.num_envs, self.mark, self.closed = tiny_spec(agents=2), 3, mark, False

    def _look(self, reward: np.ndarray) -> TaskStep:
        def full(*shape: int) -> np.ndarray:
            return np.full(shape, self.mark, np.float32)

        no = np.zeros(3, bool)
        return TaskStep(
            full(2, 3, 7), full(3, 11), np.ones((2, 3, 4), bool), np.ones((2, 3), bool), reward, no, no, no,
            full(2, 3, 7), full(3, 11),
        )  # fmt: skip

    def reset(self, seed: int, episodes: np.ndarray | None = None) -> TaskStep:
        self.mark += seed
        return self._look(np.zeros(3, np.float32))

    def step(self, actions: torch.Tensor) -> TaskStep:
        if actions[0, 0] == 3:
            raise AgentMixerError("environment 0 is gone")
        return self._look(actions.sum(0).numpy().astype(np.float32))

    def snapshot(self) -> dict[str, np.ndarray]:
        return {"mark": np.array(self.mark)}

    def restore(self, arrays: dict[str, np.ndarray]) -> TaskStep:
        self.mark = float(arrays["mark"])
        return self._look(np.zeros(3, np.float32))

    def close(self) -> None:
        self.closed = True


def test_a_single_task_is_left_as_it_is() -> None:
    task = Counting(0.0)
    assert side_by_side([task]) is task
    step = task.reset(0)
    assert joined([step]) is step


def test_every_task_gets_its_teams_actions_and_its_results_stand_in_its_place() -> None:
    parts: list[Task] = [Counting(mark) for mark in (10.0, 20.0, 30.0)]
    together = side_by_side(parts)
    step = together.step(
        torch.arange(18, dtype=torch.int32).view(6, 3) % 3 + torch.arange(6, dtype=torch.int32).view(6, 1) // 2 * 10
    )
    assert step.obs.shape == (6, 3, 7)
    assert step.state[:, 0].tolist() == [10.0] * 3 + [20.0] * 3 + [30.0] * 3
    assert step.obs[:, 0, 0].tolist() == [10.0] * 2 + [20.0] * 2 + [30.0] * 2
    assert step.reward.tolist() == [0.0, 2.0, 4.0, 20.0, 22.0, 24.0, 40.0, 42.0, 44.0]
    kept = together.snapshot()
    together.reset(5)
    assert together.restore(kept).state[:, 0].tolist() == [10.0] * 3 + [20.0] * 3 + [30.0] * 3
    with pytest.raises(TeamError, match="environment 0 is gone") as failure:
        together.step(torch.tensor([[0], [0], [0], [0], [3], [0]], dtype=torch.int32).expand(6, 3))
    assert failure.value.team == 2
    together.close()
    assert all(part.closed for part in parts)  # type: ignore[attr-defined]


def test_results_do_not_depend_on_the_number_of_threads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = []
    for cores in (1, 7):
        monkeypatch.setattr("os.sched_getaffinity", lambda _, cores=cores: set(range(cores)))
        chosen = [make(tmp_path / str(cores), seed, "predator_prey", "5x5", total_steps=256) for seed in SEEDS]
        assert trainer.train_together(chosen, quiet())
        found.append(chosen)
    for one, other in zip(*found, strict=True):
        same_files(one, other)


# ---- the command line ----------------------------------------------------------------------------


SMALL = ["--set", "num_envs=8", "--set", "minibatches=2", "--set", "final_episodes=8", "--set", "eval_interval=0"]


def test_several_seeds_are_stopped_by_ctrl_c_and_go_on_by_the_command_printed_then(tmp_path: Path) -> None:
    process = Process("train", "matrix", "climbing", "--seeds", "2,4", *SMALL, "--steps", "1e9", cwd=tmp_path)
    folder, deadline = tmp_path / "runs/matrix/climbing/agentmixer_ppo", time.monotonic() + 120
    while not any(file.stat().st_size for file in folder.glob("*/metrics.jsonl")) and time.monotonic() < deadline:
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    stopped = process.done(timeout=60)
    assert stopped.returncode == 130, stopped.stderr
    made = sorted(folder.iterdir())
    assert [path.name[-3:] for path in made] == ["-s2", "-s4"]
    assert made[0].name[:-3] == made[1].name[:-3]
    steps = runs.steps_done(runs.load(made[0]))
    assert [line["step"] for line in metrics(runs.load(made[1]))][-1] == steps == runs.steps_done(runs.load(made[1]))

    again = shlex.split(stopped.stderr.splitlines()[-1].removeprefix("interrupted; continue with: agentmixer "))
    resumed = agentmixer(*again, "--steps", str(steps + 128), cwd=tmp_path)
    assert resumed.returncode == 0, resumed.stderr
    assert sorted(folder.iterdir()) == made
    lines = resumed.stdout.splitlines()
    for path in made:
        run = runs.load(path)
        assert runs.steps_done(run) == steps + 128
        assert run.summary is not None
        alone, joint = (run.summary[arm]["win_rate"] for arm in ("decentralised_greedy", "joint_greedy"))
        assert any([str(run.seed), f"{alone:.3f}", f"{joint:.3f}"] == line.replace("│", " ").split() for line in lines)


def test_the_table_gives_means_over_seeds_with_students_interval(tmp_path: Path) -> None:
    chosen = [make(tmp_path, seed) for seed in SEEDS]
    for run, value in zip(chosen, (1.0, 2.0, 6.0), strict=True):
        summary = {"steps": 512, "steps_per_second": 1.0, "seconds": 1.0}
        for arm, one in (("decentralised_greedy", value), ("joint_greedy", 4.0)):
            summary[arm] = {  # type: ignore[assignment]
                f"return{end}": one for end in ("", "_low", "_high")
            } | {"episodes": 8}
        runs.write(run.path / "summary.json", json.dumps(summary))
    console = Console(width=100, file=io.StringIO())
    console.print(figures.table(chosen))
    assert isinstance(console.file, io.StringIO)
    # t(.975, 2) = 4.303, standard error of 1, 2, 6 = sqrt(7 / 3) = 1.528: 3 +- 6.572
    rows = [line.replace("│", " ").split() for line in console.file.getvalue().splitlines()]
    assert ["8", "2.000", "4.000"] in rows
    assert ["mean", "3.000", "[-3.572,", "9.572]", "4.000", "(no", "interval)"] in rows
    # Where the task reports wins, the table is of them.
    for run, won in zip(chosen, (0.0, 0.5, 1.0), strict=True):
        summary = run.summary or {}
        for arm in ("decentralised_greedy", "joint_greedy"):
            summary[arm] |= {f"win_rate{end}": won for end in ("", "_low", "_high")}
        runs.write(run.path / "summary.json", json.dumps(summary))
    wins = figures.table(chosen)
    assert wins.title == "win rate, greedy, 8 episodes a seed"
    assert [*wins.columns[1].cells][:3] == ["0.000", "0.500", "1.000"]


def test_what_cannot_be_done_with_several_seeds_is_refused(tmp_path: Path) -> None:
    for extra, sentence in (
        (["--seed", "1"], "leave out --seed and --out"),
        (["--out", "here"], "leave out --seed and --out"),
        (["--algorithm", "agentmixer_sac"], "agentmixer compare --seeds"),
        (["--resume"], "no unfinished run of matrix climbing"),
    ):
        refused = agentmixer("train", "matrix", "climbing", "--seeds", "0-1", *extra, cwd=tmp_path)
        assert refused.returncode == 2
        assert refused.stderr.startswith("error: ") and refused.stderr.count("\n") == 1
        assert sentence in refused.stderr
    assert not (tmp_path / "runs").exists()


def test_a_resumption_that_is_refused_leaves_everything_as_it_was(tmp_path: Path) -> None:
    for seed in (0, 1):
        run = runs.create(
            "matrix", "climbing", "jax", "agentmixer_sac", "default", seed, "cpu", {},
            AgentMixerSAC.configure().replace({"total_steps": 64, "eval_episodes": 2, "final_episodes": 2}),
            tmp_path / "matrix" / "climbing" / "agentmixer_sac" / f"s{seed}",
        )  # fmt: skip
        trainer.train(run, quiet())
    before = {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()}
    chosen = runs.extend_together("matrix", "climbing", [0, 1], "128", None, root=tmp_path)
    with pytest.raises(AgentMixerError, match="trains one seed at a time"):
        trainer.train_together(chosen, quiet(), resume=True)
    assert before == {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()}


@pytest.mark.parametrize("text", ["1_0", "1000000", "0-2000", "0,0", "-1", "a", ""])
def test_seeds_that_are_none_are_refused(text: str) -> None:
    with pytest.raises(AgentMixerError, match="none above 999,999"):
        parse_seeds(text)
