"""Runs on disk: resuming is exact, nothing is overwritten, damage is named."""

from __future__ import annotations

import contextlib
import errno
import io
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from commands import agentmixer
from conftest import make_run, quiet, tiny_algorithm
from rich.console import Console
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from agentmixer import files, tasks
from agentmixer.contract.manifest import sha256
from agentmixer.errors import AgentMixerError
from agentmixer.tasks import predator_prey
from agentmixer.train import checkpoint, records, rollout, run_files, trained_with, trainer
from agentmixer.train import run as runs
from agentmixer.train.algorithms import AgentMixerPPO
from agentmixer.train.run import Run

TIMING = {"seconds", "steps_per_second"}
#: A team that is trained in well under a second: four updates of 8 steps.
SMALL = {
    "num_envs": 2, "rollout_length": 4, "total_steps": 32, "chunk_length": 4, "minibatches": 1, "epochs": 1, "hidden": 8,
    "share_parameters": False, "checkpoint_interval": 8, "eval_interval": 0, "eval_episodes": 2, "final_episodes": 2,
    "actor_lr": 0.05,
}  # fmt: skip


def make_small(path: Path, seed: int = 3, **settings: object) -> Run:
    backend, options = tasks.check("mamujoco", "Hopper-3x1", None, {})
    config = AgentMixerPPO.configure().replace({**SMALL, **settings})
    return runs.create(
        "mamujoco", "Hopper-3x1", backend, "agentmixer_ppo", "default", seed, "cpu", options, config, path
    )


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A finished run of Hopper-3x1, 32 steps."""
    run = make_small(tmp_path_factory.mktemp("small") / "run")
    assert trainer.train(run, quiet())
    return run


@pytest.fixture
def copied(small: Run, tmp_path: Path) -> Run:
    """A copy of `small`, to be damaged."""
    return runs.load(Path(shutil.copytree(small.path, tmp_path / "run")))


def metrics(run: Run) -> list[dict[str, float]]:
    lines = map(json.loads, (run.path / "metrics.jsonl").read_text().splitlines())
    return [{k: v for k, v in line.items() if k not in TIMING} for line in lines]


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"share_parameters": False, "recurrent_critic": True, "ratio": "joint", "pipelined": True},
        {"pm": "causal", "cooled": 0.3, "pulled": 0.6},
    ],
)
def test_a_killed_run_resumes_to_the_numbers_of_an_unbroken_one(settings: dict[str, object], tmp_path: Path) -> None:
    unbroken = make_run(tmp_path / "unbroken", checkpoint_interval=256, **settings)
    assert trainer.train(unbroken, quiet())

    killed = make_run(tmp_path / "killed", checkpoint_interval=256, **settings)
    real, updates = checkpoint.save, 0

    def save_then_die(*arguments: object) -> None:
        nonlocal updates
        real(*arguments)  # type: ignore[arg-type]
        updates += 1
        if updates == 1:  # the one before the first update
            return
        with (killed.path / "metrics.jsonl").open("a") as file:  # what a later, lost update had written
            file.write('{"step": 384, "entropy": 0.0}\n\n[]\n\0\n{"step": 51')
        raise SystemError("killed")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checkpoint, "save", save_then_die)
        with pytest.raises(SystemError):
            trainer.train(killed, quiet())
    assert trainer.train(runs.load(killed.path), quiet(), resume=True)

    assert metrics(killed) == metrics(unbroken)
    ours, theirs = (load_file(checkpoint.latest(run)) for run in (killed, unbroken))
    assert ours.keys() == theirs.keys()
    for name in ours:
        assert torch.equal(ours[name], theirs[name]), name


def test_the_same_seed_is_the_same_run_and_another_is_not(trained: Run, tmp_path: Path) -> None:
    again = make_run(tmp_path / "again", seed=trained.seed, total_steps=256)
    other = make_run(tmp_path / "other", seed=trained.seed + 1, total_steps=256)
    for run in (again, other):
        trainer.train(run, quiet())
    # lr_decay reads total_steps, so only the first update, made at full step size, is comparable.
    assert metrics(again)[0]["policy_loss"] == metrics(trained)[0]["policy_loss"]
    assert metrics(other)[0]["policy_loss"] != metrics(trained)[0]["policy_loss"]


def test_ctrl_c_leaves_a_checkpoint_to_resume_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = make_run(tmp_path / "run")
    real = rollout.collect

    def interrupted(*arguments: object) -> object:
        signal.raise_signal(signal.SIGINT)
        return real(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(rollout, "collect", interrupted)
    assert not trainer.train(run, quiet())
    monkeypatch.undo()
    assert runs.steps_done(run) == 128
    assert run.summary is None
    assert trainer.train(run, quiet(), resume=True)
    assert runs.steps_done(run) == 512
    assert run.summary is not None


def test_a_run_killed_before_its_first_update_can_be_resumed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = make_run(tmp_path / "run", total_steps=128)
    with monkeypatch.context() as patch:
        patch.setattr(rollout, "collect", lambda *_: (_ for _ in ()).throw(SystemError("killed")))
        with pytest.raises(SystemError):
            trainer.train(run, quiet())
    assert runs.steps_done(run) == 0
    assert trainer.train(runs.extend(run, None, None), quiet(), resume=True)


def test_resuming_a_finished_run_asks_for_more_steps_and_loses_nothing(trained: Run, tmp_path: Path) -> None:
    run = runs.load(Path(shutil.copytree(trained.path, tmp_path / "run")))
    for steps in (None, "10"):
        with pytest.raises(AgentMixerError, match="give more --steps"):
            runs.extend(run, steps, None)
    assert runs.load(run.path).config == trained.config
    assert run.summary == trained.summary
    longer = runs.extend(run, "640", None)
    assert runs.load(run.path).config == trained.config and run.summary == trained.summary
    assert trainer.train(longer, quiet(), resume=True)
    assert runs.load(run.path).config == longer.config and runs.steps_done(longer) == 640
    assert longer.summary is not None and longer.summary["steps"] == 640


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('task = "smacv2"', "task = 3"),
        ("seed = 3", 'seed = "x"'),
        ("gamma = 0.99", "gamma = [0.99]"),
        ("gamma = 0.99\n", ""),
        ("[settings.algorithm]", "[settings.algoritm]"),
        ("[settings.run]", "[settings.runs]"),
        ("format = 3", "format = 1"),
        ("hidden = 16", "hidden = 16\nhideen = 16"),
        ('algorithm = "agentmixer_ppo"', 'algorithm = "agentmixer_pqo"'),
        ("chunk_length = 4", "chunk_length = 5"),
        ("task", "\xff"),
    ],
)
def test_a_damaged_config_is_named(trained: Run, tmp_path: Path, old: str, new: str) -> None:
    text = (trained.path / "config.toml").read_text()
    assert old in text
    (tmp_path / "config.toml").write_bytes(text.replace(old, new).encode("latin-1"))
    with pytest.raises(AgentMixerError, match=r"config\.toml is damaged or of another version"):
        runs.load(tmp_path)


def test_actors_have_nothing_to_sample_where_actions_are_real_valued(small: Run, trained: Run) -> None:
    assert small.summary is not None and "decentralised_sampled" not in small.summary
    assert trained.summary is not None and trained.summary["decentralised_sampled"]["episodes"] == 8


def test_a_finished_run_says_how_well_it_plays(trained: Run) -> None:
    summary = trained.summary
    assert summary is not None
    figures = summary["decentralised_greedy"]
    assert figures["episodes"] == 8
    # Wilson's interval by hand (1.959964 is the normal quantile of .975).
    p, n, z = figures["win_rate"], 8, 1.959964
    middle, reach = p + z**2 / (2 * n), z * (p * (1 - p) / n + z**2 / (4 * n**2)) ** 0.5
    ends = [(middle - reach) / (1 + z**2 / n), (middle + reach) / (1 + z**2 / n)]
    assert [figures["win_rate_low"], figures["win_rate_high"]] == pytest.approx(ends, abs=1e-6)
    assert 0 <= figures["win_rate_low"] <= figures["win_rate"] <= figures["win_rate_high"] <= 1


def test_a_run_comes_back_as_it_was_written(trained: Run) -> None:
    assert runs.load(trained.path) == trained


def test_a_directory_that_exists_is_not_overwritten(trained: Run) -> None:
    with pytest.raises(AgentMixerError, match=r"exists already.*--resume"):
        make_run(trained.path)


def test_runs_of_one_second_get_directories_of_their_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    backend, options = tasks.check("matrix", "climbing")
    config = AgentMixerPPO.configure("default", "matrix")

    def create(seed: int) -> Run:
        return runs.create(
            "matrix", "climbing", backend, "agentmixer_ppo", "default", seed, "cpu", options, config, None, "stamp"
        )

    made = [create(seed) for seed in (0, 0, 1, 0)]
    assert [run.path.name for run in made] == ["stamp-s0", "stamp-s0-2", "stamp-s1", "stamp-s0-3"]
    assert [runs.load(run.path) for run in made] == made


def test_folders_made_at_the_same_moment_differ(tmp_path: Path) -> None:
    start = threading.Barrier(8)

    def make(_: int) -> Path:
        start.wait()
        return runs.new_folder(tmp_path / "runs" / "stamp-s0")

    with ThreadPoolExecutor(8) as threads:
        made = set(threads.map(make, range(8)))
    assert made == set((tmp_path / "runs").iterdir()) and len(made) == 8


def test_no_run_says_what_to_type(tmp_path: Path) -> None:
    with pytest.raises(AgentMixerError, match="agentmixer train smacv2 protoss_5v5"):
        runs.newest(root=tmp_path)
    with pytest.raises(AgentMixerError, match="holds no run"):
        runs.load(tmp_path)


def test_a_damaged_checkpoint_is_named(trained: Run, tmp_path: Path) -> None:
    shutil.copytree(trained.path, tmp_path / "run")
    run = runs.load(tmp_path / "run")
    file = checkpoint.latest(run)
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(AgentMixerError, match=f"{file.name} is not a readable checkpoint"):
        checkpoint.read(file)


def test_a_checkpoint_of_other_settings_is_refused(trained: Run) -> None:
    file = checkpoint.latest(trained)
    _, tensors = checkpoint.read(file)
    with pytest.raises(AgentMixerError, match=r"does not fit its run's config\.toml"):
        checkpoint.restore_weights(tiny_algorithm(), tensors, file)


def test_a_checkpoint_of_other_environments_is_refused(trained: Run, tmp_path: Path) -> None:
    path = Path(shutil.copytree(trained.path, tmp_path / "run"))
    text = (path / "config.toml").read_text()
    (path / "config.toml").write_text(text.replace("pipelined = false", "pipelined = true"))
    with pytest.raises(
        AgentMixerError,
        match=r"config\.toml was changed since step_0+512.safetensors was written: pipelined is True and was False; put it "
        r"back, or begin .* agentmixer train smacv2 protoss_5v5 --from .*/run --set=pipelined=True",
    ):
        trainer.train(runs.extend(runs.load(path), "1024", None), quiet(), resume=True)
    (path / "config.toml").write_text(text)
    file = checkpoint.latest(runs.load(path))
    step, tensors = checkpoint.read(file)
    old = {key: value for key, value in tensors.items() if not key.startswith("stream.")}
    file.write_bytes(checkpoint.serialised(step, old, None, checkpoint.read_all(file).settings))
    with pytest.raises(AgentMixerError, match="holds  environments"):
        trainer.train(runs.extend(runs.load(path), "1024", None), quiet(), resume=True)
    save_file(tensors, file, metadata={"step": str(step)})
    with pytest.raises(
        AgentMixerError, match=r"was written by another version of AgentMixer \(format 1, this version reads format 3\)"
    ):
        trainer.train(runs.extend(runs.load(path), "1024", None), quiet(), resume=True)


def test_divergence_stops_with_a_sentence_and_keeps_the_last_checkpoint(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", checkpoint_interval=128)
    real, calls = rollout.collect, 0

    def poisoned(*arguments: object) -> object:
        nonlocal calls
        calls += 1
        experience, finished = real(*arguments)  # type: ignore[arg-type]
        if calls == 2:
            experience.reward[:] = float("nan")
        return experience, finished

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rollout, "collect", poisoned)
        with pytest.raises(AgentMixerError, match="diverged at step 256"):
            trainer.train(run, quiet())
    step, tensors = checkpoint.read(checkpoint.latest(run))
    assert step == 128
    assert all(t.isfinite().all() for t in tensors.values() if t.is_floating_point())


# ---- judged or not -------------------------------------------------------------------------------


def without_times(run: Run) -> dict[str, object]:
    summary = run.summary
    assert summary is not None
    return {key: value for key, value in summary.items() if "second" not in key}


def test_a_run_that_was_not_judged_at_its_end_is_judged_and_nothing_else(small: Run, copied: Run) -> None:
    (copied.path / "summary.json").unlink()
    checkpoints = {file.name: file.read_bytes() for file in copied.checkpoint_files}
    with pytest.raises(AgentMixerError, match="stands at step 32 of 16; give more"):
        runs.extend(copied, "16", None)
    assert trainer.train(runs.extend(copied, None, None), quiet(), resume=True)
    assert without_times(copied) == without_times(small)
    assert copied.summary is not None and copied.summary["seconds_collecting"] > 0
    assert copied.summary["steps_per_second"] == pytest.approx(
        32 / (copied.summary["seconds_collecting"] + copied.summary["seconds_updating"])
    )
    assert metrics(copied) == metrics(small)
    assert {file.name: file.read_bytes() for file in copied.checkpoint_files} == checkpoints
    with pytest.raises(AgentMixerError, match="stands at step 32 of 32; give more"):
        runs.extend(copied, None, None)


def test_seeds_of_which_one_was_not_judged_go_on_together(tmp_path: Path) -> None:
    chosen = [make_small(tmp_path / "mamujoco" / "Hopper-3x1" / f"s{seed}", seed) for seed in (1, 2)]
    assert trainer.train_together(chosen, quiet())
    first, second = ((run.path / "summary.json").read_bytes() for run in chosen)
    figures = without_times(chosen[1])
    (chosen[1].path / "summary.json").unlink()
    found = runs.extend_together("mamujoco", "Hopper-3x1", [1, 2], None, None, root=tmp_path)
    assert [run.path for run in found] == [run.path for run in chosen]
    assert trainer.train_together(found, quiet(), resume=True)
    assert (chosen[0].path / "summary.json").read_bytes() == first
    assert (chosen[1].path / "summary.json").read_bytes() != second  # times
    assert without_times(chosen[1]) == figures


def test_a_summary_of_fewer_steps_is_none_of_a_run_that_goes_on(copied: Run) -> None:
    """As a process leaves it that is killed between writing config.toml and removing the summary."""
    runs.write_config(runs.extend(copied, "48", None))
    again = runs.load(copied.path)
    assert (copied.path / "summary.json").is_file() and again.summary is None
    assert trainer.train(runs.extend(again, None, None), quiet(), resume=True)
    assert again.summary is not None and again.summary["steps"] == 48


# ---- created or not ------------------------------------------------------------------------------


def test_what_an_interrupted_creation_left_is_no_run(small: Run, tmp_path: Path) -> None:
    for left in ((), ("lock",), ("config.toml.partial",), ("lock", "config.toml.partial")):
        path = tmp_path / f"run{len(left)}{''.join(left)}"
        path.mkdir()
        for name in left:
            (path / name).write_text("ha")
        with pytest.raises(AgentMixerError, match="holds no run yet; train one there without --resume"):
            runs.load(path)
        run = make_small(path)
        assert runs.load(path) == run
        assert sorted(file.name for file in path.iterdir()) == ["config.toml", "lock"]
    for other in ("config.toml", "notes"):
        path = tmp_path / other
        path.mkdir()
        (path / other).touch()
        with pytest.raises(AgentMixerError, match="exists already"):
            make_small(path)
        assert [file.name for file in path.iterdir()] == [other]


def test_a_run_without_a_checkpoint_is_resumed_and_not_exported(tmp_path: Path) -> None:
    run = make_small(tmp_path / "run", total_steps=8)
    with pytest.raises(AgentMixerError, match="no run of mamujoco Hopper-3x1 with a checkpoint found"):
        runs.newest("mamujoco", "Hopper-3x1", root=tmp_path)
    found = runs.newest("mamujoco", "Hopper-3x1", root=tmp_path, with_checkpoint=False)
    assert found == run
    assert trainer.train(runs.extend(found, "16", None), quiet(), resume=True)
    assert runs.load(run.path).config.run.total_steps == 16
    assert [line["step"] for line in metrics(run)] == [8, 16]


# ---- digests -------------------------------------------------------------------------------------


def test_a_flipped_bit_in_a_checkpoint_is_refused(copied: Run) -> None:
    """Every bit of the header's length, and bits drawn from all over the header and the data."""
    file = checkpoint.latest(copied)
    good = file.read_bytes()
    header = int.from_bytes(good[:8], "little")
    draw = random.Random(0)
    places = [*range(64)]
    places += [8 * draw.randrange(8, 8 + header) + draw.randrange(8) for _ in range(400)]
    places += [8 * draw.randrange(8 + header, len(good)) + draw.randrange(8) for _ in range(200)]
    for place in places:
        bad = bytearray(good)
        bad[place // 8] ^= 1 << place % 8
        file.write_bytes(bad)
        with pytest.raises(AgentMixerError, match=f"{file.name} (is|was)"):
            checkpoint.read_all(file)
    file.write_bytes(good)
    assert checkpoint.read_all(file).step == 32


def test_a_digest_covers_names_types_shapes_and_what_is_said_beside_them(copied: Run) -> None:
    file = checkpoint.latest(copied)
    with safe_open(file, "pt") as data:
        about, tensors = data.metadata(), {key: data.get_tensor(key) for key in data.keys()}  # noqa: SIM118
    name = next(key for key, value in tensors.items() if value.dtype == torch.float32 and value.dim() == 3)
    value = tensors[name]
    others: list[tuple[dict[str, torch.Tensor], dict[str, str]]] = [
        ({**tensors, name: value.transpose(0, 1).reshape(value.shape)}, about) if len(value) > 1 else ({}, about),
        ({**tensors, name: value.reshape(-1)}, about),
        ({**tensors, name: value.view(torch.int32)}, about),
        ({**{key: v for key, v in tensors.items() if key != name}, f"{name}x": value}, about),
        (tensors, {**about, "step": "16"}),
        (tensors, {**about, "update": about["update"].replace("true", "false")}),
    ]
    for changed, said in others:
        save_file({key: v.contiguous() for key, v in changed.items()}, file, metadata=said)
        with pytest.raises(AgentMixerError, match="its digest is not that of what it holds; remove it, and --resume"):
            checkpoint.read_all(file)
    save_file(tensors, file, metadata=about)
    assert checkpoint.read_all(file).step == 32


def test_a_run_whose_newest_checkpoint_is_damaged_goes_on_from_the_one_before(small: Run, copied: Run) -> None:
    (copied.path / "summary.json").unlink()
    file = checkpoint.latest(copied)
    file.write_bytes(file.read_bytes()[:-1] + b"?")
    with pytest.raises(AgentMixerError, match="remove it, and --resume goes on from the one before"):
        trainer.train(runs.extend(copied, None, None), quiet(), resume=True)
    file.unlink()
    assert trainer.train(runs.extend(copied, None, None), quiet(), resume=True)
    assert metrics(copied) == metrics(small) and without_times(copied) == without_times(small)


# ---- which checkpoint, which run -----------------------------------------------------------------


def test_the_checkpoint_that_did_best_when_judged_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Judged at 8, 16, 24 and 32 with returns of 3, 9, 9 and 5: of the two best, the later stays."""
    returns = iter([3.0, 9.0, 9.0, 5.0])
    real = trainer.report
    judged = lambda *a: real(*a) | {"return": next(returns, 0.0)}  # noqa: E731
    monkeypatch.setattr(trainer, "report", judged)
    run = make_small(tmp_path / "run", eval_interval=8, checkpoint_interval=8, total_steps=40)
    returns = iter([3.0, 9.0, 9.0, 5.0, 1.0])
    assert trainer.train(run, quiet())
    assert [run_files.step_of(file) for file in run.checkpoint_files] == [24, 32, 40]
    assert checkpoint.chosen(run, "best").name == "step_000000000024.safetensors"
    assert checkpoint.chosen(run, "3.2e1") == checkpoint.chosen(run, "32") == run.checkpoint_files[1]
    assert checkpoint.chosen(run, None) == run.checkpoint_files[2]
    for step in ("8", "half", "nan", "-24"):
        with pytest.raises(AgentMixerError, match=rf"no checkpoint of step {step}; it has those of 24, 32, 40"):
            checkpoint.chosen(run, step)


def test_a_run_that_was_never_judged_has_no_best(copied: Run) -> None:
    lines = [{k: v for k, v in line.items() if not k.startswith("eval_")} for line in metrics(copied)]
    (copied.path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    with pytest.raises(AgentMixerError, match="no checkpoint that was judged"):
        checkpoint.chosen(copied, "best")


def test_a_finished_run_is_taken_before_a_newer_one_that_is_not(small: Run, tmp_path: Path) -> None:
    """A crash at step 0 must not become what is exported."""
    for name, age in (("old", 3), ("unfinished", 2), ("crashed", 1)):
        path = Path(shutil.copytree(small.path, tmp_path / name))
        if name != "old":
            (path / "summary.json").unlink()
        if name == "crashed":
            for file in runs.load(path).checkpoint_files[1:]:
                file.unlink()
            runs.load(path).checkpoint_files[0].rename(path / "checkpoints" / f"step_{0:012d}.safetensors")
        os.utime(path / "config.toml", (10**9 - age, 10**9 - age))
    assert runs.newest(root=tmp_path).path == tmp_path / "old"
    assert runs.newest(root=tmp_path, with_checkpoint=False).path == tmp_path / "crashed"
    assert runs.standing(runs.load(tmp_path / "crashed"), 0) == "at step 0 of 32, unfinished"
    shutil.rmtree(tmp_path / "old")
    assert runs.newest(root=tmp_path).path == tmp_path / "unfinished"
    shutil.rmtree(tmp_path / "unfinished")
    assert runs.newest(root=tmp_path).path == tmp_path / "crashed"


def test_a_run_that_begins_from_another_has_its_weights_and_goes_on_alone(small: Run, tmp_path: Path) -> None:
    file = checkpoint.latest(small)
    config = small.config.replace({"actor_lr": 0.01, "total_steps": 16})
    arguments = (
        small.task,
        small.scenario,
        small.backend,
        small.algorithm,
        small.preset,
        5,
        "cpu",
        small.options,
        config,
    )
    run = runs.create(*arguments, tmp_path / "run", begun_from=file)
    assert (run.begun_from, run.begun_from_sha256) == (str(file.resolve()), sha256(file.read_bytes()))
    assert runs.load(run.path) == run
    weights = {key: value for key, value in load_file(file).items() if key.startswith("model.")}
    with pytest.MonkeyPatch.context() as patch:  # stopped before its first update
        patch.setattr(trainer._Training, "_train", lambda self: False)
        assert not trainer.train(run, quiet())
    first = load_file(checkpoint.latest(run))
    assert all(torch.equal(first[key], weights[key]) for key in weights)
    assert trainer.train(runs.extend(runs.load(run.path), None, None), quiet(), resume=True)
    assert runs.steps_done(run) == 16
    assert not torch.equal(
        load_file(checkpoint.latest(run))["model.actor.head.weight"], first["model.actor.head.weight"]
    )

    other = runs.create(*arguments, tmp_path / "other", begun_from=file)
    gone = replace(other, begun_from=str(tmp_path / "gone"))
    with pytest.raises(AgentMixerError, match=r"gone, which .* was to begin from, is gone or another one"):
        trainer.train(gone, quiet())
    narrow = runs.create(*arguments[:-1], config.replace({"hidden": 16}), tmp_path / "narrow", begun_from=file)
    with pytest.raises(AgentMixerError, match=r"does not fit: .*settings of the networks must be those of the run"):
        trainer.train(narrow, quiet())


def test_a_run_that_gets_more_steps_says_that_schedules_follow(copied: Run) -> None:
    console = Console(file=io.StringIO(), width=80)
    assert isinstance(console.file, io.StringIO)
    assert trainer.train(runs.extend(copied, "48", None), console, resume=True)
    assert (
        f"continuing {copied.path} at step 32; 32 steps are now 48, and schedules (step sizes, tau) follow the new total\n"
    ) in console.file.getvalue()


def test_weights_that_do_not_fit_are_one_sentence_and_leave_nothing(small: Run, hunters: Run, tmp_path: Path) -> None:
    for run, task, arguments, words in (
        (small, "mamujoco Hopper-3x1", ["--set=hidden=16", "--set=actor_lr=0.1"], "trained with hidden=8, and its weights do "
         "not fit hidden=16; leave that out"),
        (small, "mamujoco Hopper-3x1", ["--set=layers=2", "--set=pm=none", "--seeds=0,1"], "trained with layers=1, pm=mixer, "
         "and its weights do not fit layers=2, pm=none; leave that out"),
        (small, "mamujoco HalfCheetah-2x3", [], "trained on mamujoco Hopper-3x1, and its weights do not fit mamujoco "
         "HalfCheetah-2x3: they differ in agents (3 there, 2 here), "),
        (hunters, "predator_prey 5x5", ["--env-arg=preys=2"], "trained on predator_prey 5x5 with preys=0, and its weights do "
         "not fit predator_prey 5x5 with preys=2: they differ in size of "),
    ):  # fmt: skip
        refused = agentmixer("train", *task.split(), "--from", run.path, *arguments, cwd=tmp_path)
        assert refused.returncode == 2
        assert refused.stderr.startswith(f"error: {run.path}/checkpoints/step_000000000032.safetensors was {words}")
        assert refused.stderr.endswith("or leave --from out\n") and refused.stderr.count("\n") == 1
        assert list(tmp_path.iterdir()) == []


def test_weights_fit_another_scenario_of_the_same_sizes(hunters: Run, tmp_path: Path) -> None:
    """A scenario where the agents see and do as before, with another penalty."""
    done = agentmixer(
        "train", "predator_prey", "5x5", "--from", hunters.path, "--env-arg", "penalty=-2", "--out", "run", "--steps", "8",
        cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert runs.load(tmp_path / "run").begun_from == str(checkpoint.latest(hunters).resolve())


# ---- settings changed by hand --------------------------------------------------------------------


def edit(run: Run, old: str, new: str) -> None:
    file = run.path / "config.toml"
    text = file.read_text()
    assert text.count(old) == 1
    file.write_text(text.replace(old, new))


def contents(run: Run) -> dict[str, bytes]:
    """All files of a run but the lock."""
    files = (file for file in run.path.rglob("*") if file.is_file() and file.name != "lock")
    return {str(file.relative_to(run.path)): file.read_bytes() for file in files}


def test_a_total_changed_by_hand_is_refused_unless_an_option_says_so(copied: Run, tmp_path: Path) -> None:
    edit(copied, "total_steps = 32", "total_steps = 48")
    before = contents(copied)
    again = ["agentmixer", "train", "mamujoco", "Hopper-3x1", "--resume", "--out", str(copied.path)]
    refused = agentmixer(*again[1:], cwd=tmp_path)
    assert refused.returncode == 2
    assert refused.stderr == (
        f"error: {copied.path / 'config.toml'} was changed since step_000000000032.safetensors was written: total_steps is 48 "
        f"and was 32; put it back, or say that it is meant: {' '.join(again)} --steps 48\n"
    )
    assert contents(copied) == before
    done = agentmixer(*again[1:], "--steps", "48", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "32 steps are now 48, and schedules" in done.stdout
    assert runs.steps_done(copied) == 48


def test_a_run_that_was_given_more_steps_and_killed_at_once_goes_on(copied: Run) -> None:
    """Its config.toml has the new total and its checkpoint the old one. The number of steps was not changed by hand."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rollout, "collect", lambda *_: (_ for _ in ()).throw(SystemError("killed")))
        with pytest.raises(SystemError):
            trainer.train(runs.extend(copied, "48", None), quiet(), resume=True)
    found = runs.load(copied.path)
    assert (found.config.run.total_steps, runs.steps_done(found)) == (48, 32)
    assert trainer.train(runs.extend(found, None, None), quiet(), resume=True)
    assert runs.steps_done(found) == 48


def test_what_a_run_began_with_is_not_changed_by_hand_either(copied: Run) -> None:
    """A run that was killed after its checkpoint of step 0."""
    first, *others = copied.checkpoint_files
    saved = checkpoint.read_all(first)
    for file in others:
        file.unlink()
    first.unlink()
    start = copied.checkpoints / f"step_{0:012d}.safetensors"
    start.write_bytes(checkpoint.serialised(0, saved.tensors, None, saved.settings))
    (copied.path / "summary.json").unlink()
    edit(copied, "actor_lr = 0.05", "actor_lr = 0.5")
    with pytest.raises(AgentMixerError, match=r"actor_lr is 0\.5 and was 0\.05; put it back"):
        trainer.train(runs.extend(runs.load(copied.path), None, None), quiet(), resume=True)
    edit(copied, "actor_lr = 0.5", "actor_lr = 0.05")
    assert trainer.train(runs.extend(runs.load(copied.path), None, None), quiet(), resume=True)


def test_other_environment_restarts_are_an_option_of_resume(copied: Run) -> None:
    file = checkpoint.latest(copied)
    settings = checkpoint.read_all(file).settings
    trained_with.check_resumed(runs.change(copied, "env_restarts", 3), settings, file)
    edit(copied, "env_restarts = 0", "env_restarts = 3")
    with pytest.raises(AgentMixerError, match=r"env_restarts is 3 and was 0; .* --env-restarts 3$"):
        trained_with.check_resumed(runs.load(copied.path), settings, file)


@pytest.mark.parametrize("command", ["evaluate", "export", "--resume"])
@pytest.mark.parametrize(
    ("old", "new", "told", "argument"),
    [
        ('"penalty" = -1.0', '"penalty" = -5.0', "penalty is -5.0 and was -1.0", "--env-arg=penalty=-5.0"),
        ("actor_lr = 0.001", "actor_lr = 0.5", "actor_lr is 0.5 and was 0.001", "--set=actor_lr=0.5"),
        ("seed = 3", "seed = 4", "seed is 4 and was 3", "--seed=4"),
    ],
)
def test_a_team_is_played_and_exported_as_it_was_trained(
    command: str, old: str, new: str, told: str, argument: str, hunters: Run, tmp_path: Path
) -> None:
    run = runs.load(Path(shutil.copytree(hunters.path, tmp_path / "run")))
    edit(run, old, new)
    arguments = ["train", "predator_prey", "5x5", command, "--out"] if command == "--resume" else [command]
    refused = agentmixer(*arguments, run.path, *(["--steps", "64"] if command == "--resume" else []), cwd=tmp_path)
    assert refused.returncode == 2
    assert refused.stderr == (
        f"error: {run.path / 'config.toml'} was changed since step_000000000032.safetensors was written: {told}; put it back, "
        f"or begin a new run with these weights: agentmixer train predator_prey 5x5 --from {run.path} {argument}\n"
    )
    assert not (tmp_path / "bundles").exists()


@pytest.fixture(scope="module")
def hunters(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A finished run of a task with options, 32 steps."""
    backend, options = tasks.check("predator_prey", "5x5", None, {"penalty": "-1"})
    small = {key: value for key, value in SMALL.items() if key != "share_parameters"}
    config = AgentMixerPPO.configure().replace({**small, "actor_lr": 0.001, "judge_limit": 5})
    path = tmp_path_factory.mktemp("hunters") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(predator_prey, "EPISODE_LIMIT", 5)
        run = runs.create("predator_prey", "5x5", backend, "agentmixer_ppo", "default", 3, "cpu", options, config, path)
        assert trainer.train(run, quiet())
    return run


def test_a_total_of_another_length_leaves_an_old_checkpoint_as_it_was_trained(
    copied: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Schedules of a checkpoint are those of the total that it was trained for."""
    assert trainer.train(runs.extend(copied, "64", None), quiet(), resume=True)
    found = runs.load(copied.path)
    edit(copied, "total_steps = 64", "total_steps = 6400")
    seen: list[float] = []
    monkeypatch.setattr(AgentMixerPPO, "schedule", lambda self, done: seen.append(done))
    with contextlib.closing(found.make_task(1)) as task:
        for file in found.checkpoint_files[-2:]:
            checkpoint.load_weights(runs.load(copied.path), task, file)
    assert [done for done in seen if done] == [56 / 64, 1.0]


# ---- checkpoints that are gone -------------------------------------------------------------------


@pytest.mark.parametrize("judged", [True, False])
def test_a_run_whose_checkpoints_are_gone_does_not_begin_again(judged: bool, copied: Run, tmp_path: Path) -> None:
    for file in copied.checkpoint_files:
        file.unlink()
    if not judged:
        (copied.path / "summary.json").unlink()
    before = contents(copied)
    for more in ([], ["--steps", "16"]):
        refused = agentmixer("train", "mamujoco", "Hopper-3x1", "--resume", "--out", copied.path, *more, cwd=tmp_path)
        assert refused.returncode == 2
        assert refused.stderr == (
            f"error: {copied.path} has no checkpoint to go on from, although its {'summary.json' if judged else 'metrics.jsonl'} "
            "speaks of step 32; put its checkpoints back, or move it away and train anew, without --resume and with your "
            "settings: agentmixer train mamujoco Hopper-3x1 --algorithm agentmixer_ppo --preset default --seed 3\n"
        )
        assert contents(copied) == before
    for resume in (True, False):  # as a library, and as `compare` calls it
        with pytest.raises(AgentMixerError, match="has no checkpoint to go on from"):
            trainer.train(copied, quiet(), resume=resume)
        assert contents(copied) == before


def test_a_run_says_what_software_made_it(small: Run) -> None:
    told = runs.load(small.path).made_with
    assert told["torch"] == torch.__version__
    assert set(told) >= {"agentmixer", "python", "numpy", "machine"}


# ---- one process at a time -----------------------------------------------------------------------

HOLD = """
import sys
from pathlib import Path
from agentmixer.train.lock import locked
with locked(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""

FORK = """
import os, sys
from pathlib import Path
from agentmixer.errors import AgentMixerError
from agentmixer.train.lock import locked
path = Path(sys.argv[1])

def attempt(end=None):
    # In a child, which then waits for `end` to be closed.
    out, into = os.pipe()
    if os.fork() == 0:
        try:
            with locked(path):
                found = b"free"
        except AgentMixerError:
            found = b"refused"
        os.write(into, found)
        if end:
            os.close(end[1])
            os.read(end[0], 1)
        os._exit(0)
    print(os.read(out, 9).decode(), flush=True)

end = os.pipe()
with locked(path):
    attempt(end)
    attempt()
attempt()  # the first child lives on
with locked(path):
    print("held", flush=True)
"""


def test_a_run_is_trained_by_one_process_at_a_time(copied: Run, tmp_path: Path) -> None:
    (copied.path / "metrics.jsonl").open("a").write('{"step": 40')
    before = {file: file.read_bytes() for file in copied.path.rglob("*") if file.is_file()}
    command = [sys.executable, "-c", HOLD, str(copied.path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        again = [sys.executable, "-m", "agentmixer_cli.main", "train", "mamujoco", "Hopper-3x1", "--resume"]
        refused = subprocess.run(
            [*again, "--out", str(copied.path), "--steps", "48"], capture_output=True, text=True, cwd=tmp_path
        )
        assert refused.returncode == 2
        assert refused.stderr == (
            f"error: {copied.path} is being trained by another process; wait for that one or stop it, then --resume\n"
        )
        other = make_small(tmp_path / "other")
        with pytest.raises(AgentMixerError, match="is being trained by another process"):
            trainer.train_together([other, copied], quiet(), resume=True)
        assert before == {file: file.read_bytes() for file in copied.path.rglob("*") if file.is_file()}
        assert sorted(file.name for file in other.path.iterdir()) == ["config.toml", "lock"]
        holder.kill()  # the lock goes with the process
    assert trainer.train(runs.extend(copied, "40", None), quiet(), resume=True)


def test_a_worker_process_has_no_part_in_its_parents_lock(tmp_path: Path) -> None:
    """Neither that it holds it: it may outlive its parent; nor that it releases it."""
    told = subprocess.run([sys.executable, "-c", FORK, str(tmp_path)], capture_output=True, text=True, timeout=60)
    assert told.stdout.splitlines() == ["refused", "refused", "free", "held"], told.stderr


# ---- files that cannot be written ----------------------------------------------------------------


def full(name: str, after: int = 0) -> Callable[..., object]:
    """`open`, but files called `name` have room for the first half of what is written after `after` such files."""
    seen = 0

    class Full:
        def __init__(self, file: object):
            self.file = file

        def write(self, data: bytes) -> int:
            self.file.write(data[: len(data) // 2])  # type: ignore[attr-defined]
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        def __enter__(self) -> Full:
            return self

        def __exit__(self, *_: object) -> None:
            self.file.close()  # type: ignore[attr-defined]

        def __getattr__(self, attribute: str) -> object:
            return getattr(self.file, attribute)

    def opened(path: object, *arguments: object, **named: object) -> object:
        nonlocal seen
        file = open(path, *arguments, **named)  # type: ignore[call-overload]  # noqa: SIM115
        if not os.readlink(f"/proc/self/fd/{file.fileno()}").endswith(name):
            return file
        seen += 1
        return Full(file) if seen > after else file

    return opened


@pytest.mark.parametrize(
    ("name", "said", "stands"),
    [
        ("step_000000000016.new.partial", "checkpoints/step_000000000016.safetensors", 8),
        ("summary.json.partial", "summary.json", 32),
        ("metrics.jsonl", "metrics.jsonl", 8),
    ],
)
def test_a_full_disk_is_one_sentence_and_loses_nothing(
    name: str, said: str, stands: int, small: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_small(tmp_path / "run")
    with monkeypatch.context() as patch:
        for module in (files, records):
            patch.setattr(module, "open", full(name), raising=False)
        with pytest.raises(AgentMixerError) as refusal:
            trainer.train(run, quiet())
    assert str(refusal.value) == (
        f"{run.path / said} could not be written (No space left on device); the checkpoint at step {stands} of "
        f"{run.path} is good and, once that is put right, --resume goes on from it"
    )
    assert runs.steps_done(run) == stands
    assert all(runs.re.fullmatch(r"step_\d{12}\.safetensors", file.name) for file in run.checkpoints.iterdir())
    assert not list(run.path.glob("*.partial"))
    assert trainer.train(runs.extend(runs.load(run.path), None, None), quiet(), resume=True)
    assert metrics(run) == metrics(small) and without_times(run) == without_times(small)


def test_a_full_disk_at_the_start_leaves_a_place_to_start_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(files, "open", full("config.toml.partial"), raising=False)
        with pytest.raises(AgentMixerError, match=r"config\.toml could not be written \(No space left.*type the same"):
            make_small(tmp_path / "run")
    run = make_small(tmp_path / "run", total_steps=8)
    with monkeypatch.context() as patch:
        patch.setattr(files, "open", full("step_000000000000.new.partial"), raising=False)
        with pytest.raises(AgentMixerError, match=r"step_000000000000\.safetensors could not be written"):
            trainer.train(run, quiet())
    assert list(run.checkpoints.iterdir()) == []
    assert trainer.train(runs.extend(run, None, None), quiet(), resume=True)


# ---- odd things in a run's directory -------------------------------------------------------------


def put(kind: str, file: Path, target: Path) -> None:
    """Put something that is no regular file in a file's place."""
    if file.is_dir():
        shutil.rmtree(file)
    else:
        file.unlink(missing_ok=True)
    if kind == "fifo":
        os.mkfifo(file)
    elif kind == "link":
        file.symlink_to(target)
    else:
        file.mkdir()


@pytest.mark.parametrize("kind", ["fifo", "link", "folder"])
@pytest.mark.parametrize(
    "name", ["config.toml", "metrics.jsonl", "summary.json", "lock", "checkpoints/step_000000000032.safetensors"]
)
def test_what_is_no_regular_file_is_a_sentence_and_nothing_is_written_through_it(
    name: str, kind: str, copied: Run, tmp_path: Path
) -> None:
    target = tmp_path / "somebody else's"
    target.write_bytes((copied.path / name).read_bytes())
    before = target.read_bytes()
    put(kind, copied.path / name, target)

    def go_on() -> None:
        run = runs.load(copied.path)
        _ = run.summary
        trainer.train(runs.extend(run, "40", None), quiet(), resume=True)

    with pytest.raises(AgentMixerError) as refusal:
        go_on()
    assert str(refusal.value).startswith(f"{copied.path / name} ")
    assert target.read_bytes() == before


@pytest.mark.parametrize("name", ["checkpoints", "tensorboard"])
def test_a_link_in_place_of_a_folder_is_not_followed(name: str, copied: Run, tmp_path: Path) -> None:
    target = tmp_path / "somebody else's"
    (copied.path / name).rename(target)
    (copied.path / name).symlink_to(target)
    before = {file.name: file.read_bytes() for file in target.iterdir()}
    with pytest.raises(AgentMixerError, match=f"{name} is not a folder but a file or a link; remove it"):
        trainer.train(runs.extend(runs.load(copied.path), "40", None), quiet(), resume=True)
    assert before == {file.name: file.read_bytes() for file in target.iterdir()}


def test_a_file_with_a_second_name_elsewhere_is_left_as_it_is_there(copied: Run, tmp_path: Path) -> None:
    for name in ("config.toml", "metrics.jsonl", "summary.json"):
        os.link(copied.path / name, tmp_path / name)
    before = {name: (tmp_path / name).read_bytes() for name in ("config.toml", "metrics.jsonl", "summary.json")}
    assert trainer.train(runs.extend(runs.load(copied.path), "40", None), quiet(), resume=True)
    assert {name: (tmp_path / name).read_bytes() for name in before} == before


def test_only_twelve_digits_make_a_checkpoint(copied: Run) -> None:
    wanted = copied.checkpoint_files
    for name in ("step_zzz", "step_", "step_0000000000320", "step_00000000003２", "step_99999999999a"):
        (copied.checkpoints / f"{name}.safetensors").write_bytes(b"no checkpoint")
    assert copied.checkpoint_files == wanted and runs.steps_done(copied) == 32


def test_a_config_that_is_too_large_is_refused(copied: Run) -> None:
    with (copied.path / "config.toml").open("ab") as file:
        file.write(b"#" * run_files.MAX_TEXT)
    with pytest.raises(AgentMixerError, match=r"config\.toml has more than 1,048,576 bytes"):
        runs.load(copied.path)


@pytest.mark.parametrize(
    "text", ["[]", "{", "3", "[" * 100_000, '{"steps": "32"}', '{"decentralised_greedy": {}, "joint_greedy": []}']
)
def test_a_damaged_summary_is_named(text: str, copied: Run) -> None:
    (copied.path / "summary.json").write_text(text)
    with pytest.raises(AgentMixerError, match=r"summary\.json is damaged .*remove it, and --resume judges"):
        _ = copied.summary


def test_runs_lists_what_it_can(
    copied: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from agentmixer_cli.main import main

    root = copied.path.parent
    odd: dict[str, Callable[[Path], object]] = {
        "fifo": os.mkfifo, "folder": Path.mkdir, "link": lambda file: file.symlink_to("/dev/zero"),
        "binary": lambda file: file.write_bytes(b"\xff\0"), "deep": lambda file: file.write_text("a = " + "[" * 9999),
    }  # fmt: skip
    for name, make in odd.items():
        (root / name).mkdir()
        make(root / name / "config.toml")
    for name, text in (("listless", "[]"), ("wordy", '{"steps": 32, "decentralised_greedy": {"return": "x"}}')):
        shutil.copytree(copied.path, root / name)
        (root / name / "summary.json").write_text(text)
    shutil.copytree(copied.path, root / "bare")
    shutil.rmtree(root / "bare" / "checkpoints")
    (root / "bare" / "checkpoints").write_text("no folder")
    monkeypatch.setattr(sys, "argv", ["agentmixer", "runs", "--root", str(root)])
    monkeypatch.setenv("COLUMNS", "300")
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 0
    out = capsys.readouterr().out
    bare = out.partition(f"{root / 'bare'}\n")[2]
    assert "finished at 32" in bare.splitlines()[0]
    assert out.count("; no checkpoint") == bare.count("; no checkpoint") == 1
    notes = [line for line in out.splitlines() if line.startswith("note: ")]
    for name in (*odd, "listless", "wordy"):
        assert sum(f"{root / name}/" in note for note in notes) == 1, name
    assert len(notes) == len(odd) + 2


def test_nothing_is_removed_or_read_through_a_linked_folder_of_checkpoints(trained: Run, tmp_path: Path) -> None:
    """A run from somebody else whose checkpoints are another's: refused before its own files are touched."""
    own = Path(shutil.copytree(trained.path, tmp_path / "own"))
    for step in (1, 2, 3):
        (own / "checkpoints" / f"step_{step:012d}.safetensors").write_bytes(b"precious")
    run = Path(shutil.copytree(trained.path, tmp_path / "run"))
    shutil.rmtree(run / "checkpoints")
    (run / "checkpoints").symlink_to(own / "checkpoints")
    before = {file: file.read_bytes() for place in (own, run) for file in place.rglob("*") if file.is_file()}
    for use in (
        lambda: runs.extend(runs.load(run), "1024", None),
        lambda: trainer.train(
            replace(runs.load(run), config=runs.load(run).config.replace({"total_steps": 1024})), quiet(), True
        ),
        lambda: checkpoint.latest(runs.load(run)),
    ):
        with pytest.raises(AgentMixerError, match="is not a folder but a file or a link"):
            use()
    after = {file: file.read_bytes() for place in (own, run) for file in place.rglob("*") if file.is_file()}
    assert {file: after[file] for file in before} == before
    assert {file.name for file in after.keys() - before.keys()} <= {"lock"}


@pytest.mark.parametrize("damage", ["key", "rng", "step", "sparse", "settings", "options", "total"])
def test_a_checkpoint_that_was_made_up_is_one_sentence(trained: Run, tmp_path: Path, damage: str) -> None:
    """Its digest is right: whoever can write the file can write that."""
    run = runs.load(Path(shutil.copytree(trained.path, tmp_path / "run")))
    file = checkpoint.latest(run)
    saved = checkpoint.read_all(file)
    tensors = dict(saved.tensors)
    if damage == "key":
        tensors["optimiser.actor.0.a.b"] = torch.zeros(1)
    elif damage == "rng":
        del tensors["rng"]
    settings: Any = {
        "settings": [], "options": saved.settings | {"options": 3}, "total": saved.settings | {"total_steps": 0},
    }.get(damage, saved.settings)  # fmt: skip
    file.write_bytes(
        checkpoint.serialised(10**400 if damage == "step" else saved.step, tensors, saved.update, settings)
    )
    if damage == "sparse":
        with open(file, "r+b") as opened:
            opened.truncate(1 << 42)
    with contextlib.closing(run.make_task(run.config.run.num_envs)) as task:
        algorithm = checkpoint.build([run], task.spec)
        with pytest.raises(AgentMixerError, match="train again"):
            checkpoint.restore(algorithm, [[task]], [run])
