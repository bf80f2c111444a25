"""Runs on disk: resuming is exact, nothing is overwritten, damage is named."""

from __future__ import annotations

import json
import shutil
import signal
from pathlib import Path

import pytest
import torch
from conftest import make_run, quiet, tiny_algorithm
from safetensors.torch import load_file, save_file

from agentmixer.errors import AgentMixerError
from agentmixer.train import checkpoint, trainer
from agentmixer.train import run as runs
from agentmixer.train.run import Run

TIMING = {"seconds", "steps_per_second"}


def metrics(run: Run) -> list[dict[str, float]]:
    lines = map(json.loads, (run.path / "metrics.jsonl").read_text().splitlines())
    return [{k: v for k, v in line.items() if k not in TIMING} for line in lines]


@pytest.mark.parametrize(
    "settings", [{}, {"share_parameters": False, "recurrent_critic": True, "ratio": "joint", "pipelined": True}]
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
    real = trainer.rollout.collect

    def interrupted(*arguments: object) -> object:
        signal.raise_signal(signal.SIGINT)
        return real(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(trainer.rollout, "collect", interrupted)
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
        patch.setattr(trainer.rollout, "collect", lambda *_: (_ for _ in ()).throw(SystemError("killed")))
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
        ("[settings]", "[settinks]"),
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


def test_a_finished_run_says_how_well_it_plays(trained: Run) -> None:
    summary = trained.summary
    assert summary is not None
    figures = summary["decentralised_greedy"]
    assert figures["episodes"] == 200
    assert 0 <= figures["win_rate_low"] <= figures["win_rate"] <= figures["win_rate_high"] <= 1


def test_a_run_comes_back_as_it_was_written(trained: Run) -> None:
    assert runs.load(trained.path) == trained


def test_a_directory_that_exists_is_not_overwritten(trained: Run) -> None:
    with pytest.raises(AgentMixerError, match=r"exists already.*--resume"):
        make_run(trained.path)


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
        AgentMixerError, match=r"holds (\d+) environments, but by config\.toml .* are \d+ \+ \d+; put that"
    ):
        trainer.train(runs.extend(runs.load(path), "1024", None), quiet(), resume=True)
    (path / "config.toml").write_text(text)
    file = checkpoint.latest(runs.load(path))
    step, tensors = checkpoint.read(file)
    old = {key: value for key, value in tensors.items() if not key.startswith("stream.")}
    file.write_bytes(checkpoint.serialised(step, old))
    with pytest.raises(AgentMixerError, match="was written by another version"):
        trainer.train(runs.extend(runs.load(path), "1024", None), quiet(), resume=True)
    save_file(tensors, file, metadata={"step": str(step)})
    with pytest.raises(AgentMixerError, match="was written by another version of AgentMixer, it has no digest"):
        trainer.train(runs.extend(runs.load(path), "1024", None), quiet(), resume=True)


def test_divergence_stops_with_a_sentence_and_keeps_the_last_checkpoint(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", checkpoint_interval=128)
    real, calls = trainer.rollout.collect, 0

    def poisoned(*arguments: object) -> object:
        nonlocal calls
        calls += 1
        experience, finished = real(*arguments)  # type: ignore[arg-type]
        if calls == 2:
            experience["reward"][:] = float("nan")
        return experience, finished

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trainer.rollout, "collect", poisoned)
        with pytest.raises(AgentMixerError, match="diverged at step 256"):
            trainer.train(run, quiet())
    step, tensors = checkpoint.read(checkpoint.latest(run))
    assert step == 128
    assert all(t.isfinite().all() for t in tensors.values() if t.is_floating_point())
