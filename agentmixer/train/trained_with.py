"""What a run's checkpoint was trained with, held against the run's config.toml: nobody goes on with, plays or exports a team
under settings that are not its own."""

from __future__ import annotations

import shlex
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from agentmixer import provenance
from agentmixer.errors import AgentMixerError
from agentmixer.train.run import Run

#: Settings that --resume can change, each by the option of its own name.
CHANGEABLE = {"total_steps": "--steps", "env_restarts": "--env-restarts", "workers": "--workers"}


def settings(run: Run) -> dict[str, Any]:
    """All that decides what a run's next update comes to, as JSON has it."""
    return {"algorithm": run.algorithm, "seed": run.seed, "options": run.options, **run.config.as_dict()}


def check_played(run: Run, trained: Mapping[str, Any], file: Path) -> None:
    """Raise AgentMixerError if a team that is played or exported was trained with other settings than config.toml has.
    trained: `settings` as the checkpoint `file` has them. What --resume can change does not matter here."""
    _refuse(run, _changed(run, trained, CHANGEABLE), file)


def check_resumed(run: Run, trained: Mapping[str, Any], file: Path) -> None:
    """Raise AgentMixerError if a run that goes on has other settings than its checkpoint `file` was trained with, unless
    an option changed them, now or when the run was resumed last."""
    meant = {key for key in CHANGEABLE if key in run.changed or key not in trained}
    # Whoever is killed after writing config.toml has no checkpoint with the new settings yet.
    meant |= CHANGEABLE.keys() if provenance.trained_here(run.digest, run.path) else set()
    changed = _changed(run, trained, meant)
    if changed and changed.keys() <= {f"--set={key}" for key in CHANGEABLE}:
        again = ["agentmixer", "train", run.task, run.scenario, "--resume", "--out", str(run.path)]
        for key, (now, _) in changed.items():
            again += [CHANGEABLE[key.removeprefix("--set=")], str(now)]
        raise AgentMixerError(f"{_told(run, changed, file)}; put it back, or say that it is meant: {shlex.join(again)}")
    _refuse(run, changed, file)


def _changed(run: Run, trained: Mapping[str, Any], without: Collection[str]) -> dict[str, tuple[Any, Any]]:
    """What differs, as an argument of `agentmixer train` would begin that asks for it: its value now, and then."""
    now, then = (_arguments(values, without) for values in (settings(run), trained))
    return {key: (now.get(key), then.get(key)) for key in now | then if now.get(key) != then.get(key)}


def _arguments(values: Mapping[str, Any], without: Collection[str]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in values.items():
        if key == "options":
            found |= {f"--env-arg={name}": option for name, option in value.items()}
        elif key not in without:
            found[f"--{key}" if key in ("algorithm", "seed") else f"--set={key}"] = value
    return found


def _refuse(run: Run, changed: Mapping[str, tuple[Any, Any]], file: Path) -> None:
    """Raise AgentMixerError if anything differs."""
    if not changed:
        return
    again = ["agentmixer", "train", run.task, run.scenario, "--from", str(run.path)]
    again += [f"{key}={now}" for key, (now, _) in changed.items() if key != "--algorithm" and now is not None]
    raise AgentMixerError(
        f"{_told(run, changed, file)}; put it back, or begin a new run with these weights: {shlex.join(again)}"
    )


def _told(run: Run, changed: Mapping[str, tuple[Any, Any]], file: Path) -> str:
    names = {key: key.removeprefix("--set=").removeprefix("--env-arg=").removeprefix("--") for key in changed}
    told = ", ".join(f"{names[key]} is {now} and was {then}" for key, (now, then) in changed.items())
    return f"{run.path / 'config.toml'} was changed since {file.name} was written: {told}"
