"""A checkpoint is one safetensors file: weights, optimisers, random state and environments. No pickle."""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, cast

import msgspec
import numpy as np
import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from agentmixer.contract.manifest import sha256
from agentmixer.contract.spec import TaskSpec
from agentmixer.errors import AgentMixerError
from agentmixer.files import read_regular, write_whole
from agentmixer.tasks import Task
from agentmixer.tasks.side_by_side import joined
from agentmixer.train import trained_with
from agentmixer.train.algorithms import ALGORITHMS, Algorithm
from agentmixer.train.metrics_file import evaluation
from agentmixer.train.run import MAX_BYTES, Run, check_not_lost, make_folder, unwritten
from agentmixer.train.run_files import read_metrics, step_of
from agentmixer.train.stream import Stream, begin

KEEP = 2
#: Which layout of a checkpoint this version writes and reads.
FORMAT = "3"
#: What a checkpoint says of itself beside its tensors; all are text.
STEP, UPDATE, LAYOUT, DIGEST, SETTINGS = "step", "update", "format", "sha256", "settings"


class Clock(msgspec.Struct):
    """Seconds a run has taken: collecting, updating, and in all."""

    collecting: float = 0.0
    updating: float = 0.0
    seconds: float = 0.0

    def steps_per_second(self, step: int) -> float:
        """Steps a second of collecting and updating."""
        return step / max(self.collecting + self.updating, 1e-9)


class Update(msgspec.Struct):
    """What the update before a checkpoint came to. It is in the checkpoint because that is written first: a run killed
    in between has no line of it yet. judged: whether the team is to be judged at that step."""

    numbers: dict[str, int | float]
    judged: bool
    clock: Clock


class Saved(NamedTuple):
    """A checkpoint's content. update: None before the first; settings: what the team was trained with up to there."""

    step: int
    tensors: dict[str, Tensor]
    update: Update | None
    settings: dict[str, Any]

    def total_steps(self, run: Run) -> int:
        """Environment steps that its run was to have; what `run` has now if the checkpoint does not say."""
        return cast(int, self.settings.get("total_steps", run.config.run.total_steps))


def save(
    runs: Sequence[Run],
    step: int,
    algorithm: Algorithm,
    tasks: Sequence[Sequence[Task]],
    streams: Sequence[Stream],
    updates: Sequence[Update] = (),
) -> None:
    """Write everything that the next update depends on: for each run, team by team, what it would write alone.

    tasks: each run's own, as many as there are streams. updates: each run's last, none before the first.

    Each is complete or absent. All are written before the first is renamed; killed in between, seeds differ by one
    checkpoint and are resumed each alone. Raises AgentMixerError if one cannot be written; nothing of it stays."""
    if algorithm.replay is not None:
        algorithm.replay.flush()
    written: list[tuple[Run, Path]] = []
    try:
        for team, (run, own) in enumerate(zip(runs, tasks, strict=True)):
            tensors = _of_team(algorithm, streams, team)
            for lane, task in enumerate(own):
                arrays = {key: torch.from_numpy(np.array(value)) for key, value in task.snapshot().items()}
                tensors |= {f"task.{lane}.{key}": array for key, array in arrays.items()}
            make_folder(run.checkpoints)
            written.append((run, run.checkpoints / f"step_{step:012d}.new"))
            write_whole(
                written[-1][1],
                serialised(step, tensors, updates[team] if updates else None, trained_with.settings(run)),
            )
        for _, scratch in written:
            scratch.rename(scratch.with_suffix(".safetensors"))
    except OSError as error:
        run, scratch = written[-1]
        raise unwritten(scratch.with_suffix(".safetensors"), error, run) from error
    finally:
        for _, scratch in written:
            with contextlib.suppress(OSError):
                scratch.unlink(missing_ok=True)
    tidy(runs)


def tidy(runs: Sequence[Run]) -> None:
    """Remove all but the newest checkpoints and the best, and what a process left that was killed while it wrote one."""
    for run in runs:
        kept = {*run.checkpoint_files[-KEEP:], *filter(None, [best(run)])}
        left_over = [file for ending in ("new", "new.partial") for file in run.checkpoints.glob(f"step_*.{ending}")]
        for old in [*(file for file in run.checkpoint_files if file not in kept), *left_over]:
            old.unlink()


def serialised(step: int, tensors: Mapping[str, Tensor], update: Update | None, settings: Mapping[str, Any]) -> bytes:
    """The bytes of a checkpoint."""
    plain = {key: value.detach().cpu().contiguous() for key, value in tensors.items()}
    about = {LAYOUT: FORMAT, STEP: str(step), SETTINGS: json.dumps(settings)} | (
        {} if update is None else {UPDATE: msgspec.json.encode(update).decode()}
    )
    return safetensors.torch.save(plain, about | {DIGEST: _digest(plain, about)})


def _digest(tensors: Mapping[str, Tensor], about: Mapping[str, str]) -> str:
    """SHA-256 over each tensor's name, type, shape and bytes, in the names' order, and over what is said beside them."""
    digest = hashlib.sha256(json.dumps(sorted(about.items())).encode())
    for name, value in sorted(tensors.items()):
        digest.update(json.dumps([name, str(value.dtype), list(value.shape)]).encode())
        digest.update(value.contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _of_team(algorithm: Algorithm, streams: Sequence[Stream], team: int) -> dict[str, Tensor]:
    """All of a checkpoint but the tasks: one team's share of every array, which lead with the team."""
    teams = algorithm.team.count

    def share(value: Any) -> Tensor:
        array = torch.as_tensor(value)
        return array.chunk(teams)[team] if teams > 1 and array.dim() else array

    tensors = {"rng": algorithm.team.generators[team].get_state()}
    tensors |= {f"model.{key}": value for key, value in algorithm.share(team).items()}
    for name, optimiser in algorithm.optimisers.items():
        for index, state in optimiser.state_dict()["state"].items():
            tensors |= {f"optimiser.{name}.{index}.{key}": share(value) for key, value in state.items()}
    for lane, stream in enumerate(streams):
        arrays = stream.memory | {"episode_start": stream.episode_start, "episode_return": stream.episode_return}
        tensors |= {f"stream.{lane}.{key}": share(value) for key, value in arrays.items()}
    return tensors


def latest(run: Run) -> Path:
    """The run's newest checkpoint. Raises AgentMixerError if it has none."""
    files = run.checkpoint_files
    if not files:
        raise AgentMixerError(
            f"{run.path} has no checkpoint yet; train it further or choose another run (agentmixer runs)"
        )
    return files[-1]


def best(run: Run) -> Path | None:
    """The checkpoint whose team did best when it was judged alone and greedy (metrics.jsonl), the newest of several such;
    None if no team that has a checkpoint was judged."""
    files = {step_of(file): file for file in run.checkpoint_files}
    found: tuple[float, int] | None = None
    for step, line in read_metrics(run.path, evaluations=True).items():
        judged = evaluation(line)
        if step in files and judged and (found is None or (judged[1].value, step) > found):
            found = judged[1].value, step
    return files[found[1]] if found else None


def chosen(run: Run, step: str | None) -> Path:
    """A checkpoint as a user names it: the newest (None), "best" (see `best`), or a step.

    Raises AgentMixerError that lists the run's checkpoints if it has no such one."""
    if step is None:
        return latest(run)
    if step == "best":
        if found := best(run):
            return found
        raise AgentMixerError(f"{run.path} has no checkpoint that was judged; leave out --step for the newest one")
    files = {str(step_of(file)): file for file in run.checkpoint_files}
    with contextlib.suppress(ValueError, OverflowError):
        if found := files.get(str(int(float(step.replace(",", ""))))):
            return found
    raise AgentMixerError(
        f"{run.path} has no checkpoint of step {step}; it has those of {', '.join(files) or 'no step'} (--step best is the "
        "one that did best when it was judged)"
    )


def read(file: Path) -> tuple[int, dict[str, Tensor]]:
    """Step and tensors. Raises AgentMixerError as `read_all` does."""
    saved = read_all(file)
    return saved.step, saved.tensors


def read_all(file: Path) -> Saved:
    """All of a checkpoint. Raises AgentMixerError if the file is not a readable one, or not as it was written."""
    way_out = "remove it, and --resume goes on from the one before, or train again"
    try:
        # Read once and whole: a file that is mapped can change after it was found to be good.
        data = read_regular(file, MAX_BYTES, links=None, again=way_out)
        tensors = safetensors.torch.load(data)
        about = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")]).get("__metadata__", {})
        digest = about.pop(DIGEST, None)
        if digest is None or about.get(LAYOUT) != FORMAT:
            raise AgentMixerError(
                f"{file} was written by another version of AgentMixer (format {about.get(LAYOUT, 1)}, this version reads "
                f"format {FORMAT}); train again, or use that version"
            )
        if digest != _digest(tensors, about):
            raise AgentMixerError(f"{file} is damaged, its digest is not that of what it holds; {way_out}")
        update = msgspec.json.decode(about[UPDATE], type=Update) if UPDATE in about else None
        step = int(about[STEP])
        if not 0 <= step < 1 << 62:
            raise ValueError("its step is none")
        settings = json.loads(about[SETTINGS])
        if type(settings) is not dict or type(settings["options"]) is not dict:
            raise ValueError("its settings are no table")
        if type(total := settings.get("total_steps", 1)) is not int or total < 1:
            raise ValueError("its total_steps is no number of steps")
        return Saved(step, tensors, update, settings)
    except (SafetensorError, OSError, KeyError, TypeError, ValueError, RuntimeError, AttributeError) as error:
        raise AgentMixerError(f"{file} is not a readable checkpoint ({error}); {way_out}") from error


def _below(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {key[len(prefix) :]: value for key, value in tensors.items() if key.startswith(prefix)}


def begin_from(algorithm: Algorithm, run: Run) -> None:
    """Give every team the weights that its run is to begin with. Optimisers begin anew.

    Raises AgentMixerError if that checkpoint is gone or another one, or does not fit."""
    file = Path(run.begun_from)
    tensors = read(file)[1] if file.is_file() else None
    if tensors is None or sha256(file.read_bytes()) != run.begun_from_sha256:
        raise AgentMixerError(
            f"{file}, which {run.path} was to begin from, is gone or another one; choose again with --from, and another --out"
        )
    if found := take(algorithm, [tensors] * algorithm.team.count):
        raise AgentMixerError(
            f"{file} does not fit: {found}; settings of the networks must be those of the run that it is from"
        )


def restore_weights(algorithm: Algorithm, tensors: dict[str, Tensor], file: Path) -> None:
    """Load networks only. Raises AgentMixerError if they do not fit the run's settings."""
    if found := take(algorithm, [tensors]):
        raise AgentMixerError(f"{file} does not fit its run's config.toml: {found}")


def take(algorithm: Algorithm, checkpoints: Sequence[Mapping[str, Tensor]]) -> str:
    """Load the networks of checkpoints, one for each team or one of all. Returns what does not fit, in words."""
    shares = [_below(tensors, "model.") for tensors in checkpoints]
    try:
        algorithm.load(shares)
        return ""
    except RuntimeError:
        own = algorithm.share(0) if len(shares) > 1 else _whole(algorithm)
        for key in sorted(own.keys() | shares[0].keys()):
            there, here = (" x ".join(map(str, side[key].shape)) if key in side else "not" for side in (shares[0], own))
            if there != here:
                return f"{key} is {there} there and {here} here"
        return "its networks are others"


def _whole(algorithm: Algorithm) -> dict[str, Tensor]:
    """Parameters and buffers of all of an algorithm's teams."""
    modules = algorithm.modules.items()
    return {f"{name}.{key}": value for name, module in modules for key, value in module.state_dict().items()}


def check_start(run: Run) -> None:
    """Check a run that begins at step 0 again: raise AgentMixerError if it stood further on and its checkpoints are gone,
    or if its settings were changed since its first checkpoint."""
    check_not_lost(run)
    if run.checkpoint_files:
        trained_with.check_resumed(run, read_all(latest(run)).settings, latest(run))


def restore(
    algorithm: Algorithm, tasks: Sequence[Sequence[Task]], runs: Sequence[Run]
) -> tuple[int, list[Stream], list[Update | None], list[int]]:
    """Continue exactly where `save` stood last, with each team's own tasks. Returns the step, a stream for each of a
    team's tasks, each team's last update, and the steps that each was to be trained for.

    Raises AgentMixerError if a checkpoint does not fit the settings, was trained with others or lacks something, or if
    checkpoints are not of one step."""
    files = [latest(run) for run in runs]
    saved = [read_all(file) for file in files]
    for run, own, file in zip(runs, saved, files, strict=True):
        trained_with.check_resumed(run, own.settings, file)
    try:
        totals = [own.total_steps(run) for run, own in zip(runs, saved, strict=True)]
        return *_restore(algorithm, tasks, saved, files), totals
    except (KeyError, ValueError, TypeError, IndexError, RuntimeError) as error:
        raise AgentMixerError(
            f"{files[0]} does not hold what this run needs to go on ({error}); remove it, and --resume goes on from the one "
            "before, or train again"
        ) from error


def _restore(
    algorithm: Algorithm, tasks: Sequence[Sequence[Task]], saved: Sequence[Saved], files: Sequence[Path]
) -> tuple[int, list[Stream], list[Update | None]]:
    steps, parts, updates, _ = zip(*saved, strict=True)
    if len(set(steps)) > 1:
        raise AgentMixerError(
            f"{files[0]} and {files[steps.index(max(steps))]} are not of the same step; resume each run alone"
        )
    file, envs = files[0], [task.num_envs for task in tasks[0]]
    for part, own in zip(parts, files, strict=True):
        found = [
            array.shape[0] for key, array in sorted(part.items()) if re.fullmatch(r"stream\.\d+\.episode_start", key)
        ]
        if found != envs:
            raise AgentMixerError(
                f"{own} holds {' + '.join(map(str, found))} environments, but by config.toml (num_envs, pipelined) there "
                f"are {' + '.join(map(str, envs))}; put that back"
            )
    tensors = parts[0] if len(parts) == 1 else _together(parts, file)
    restore_weights(algorithm, tensors, file)
    for name, optimiser in algorithm.optimisers.items():
        state: dict[int, dict[str, Any]] = {}
        for key, value in _below(tensors, f"optimiser.{name}.").items():
            index, field = key.split(".")
            state.setdefault(int(index), {})[field] = value
        optimiser.load_state_dict({"state": state, "param_groups": optimiser.state_dict()["param_groups"]})
    for generator, part, own in zip(algorithm.team.generators, parts, files, strict=True):
        try:
            generator.set_state(part["rng"])
        except RuntimeError as error:
            raise AgentMixerError(f"{own} was written on another kind of device; resume it there") from error
    streams = []
    for lane, same in enumerate(zip(*tasks, strict=True)):
        now = [
            task.restore({key: value.numpy() for key, value in _below(part, f"task.{lane}.").items()})
            for task, part in zip(same, parts, strict=True)
        ]
        stream = begin(algorithm.team, algorithm.memory(envs[lane]), joined(now, algorithm.team.device))
        if not same[0].restarts:  # one that starts new episodes has nothing remembered and nothing earned
            memory = {key: value.to(algorithm.team.device) for key, value in _below(tensors, f"stream.{lane}.").items()}
            stream.episode_start, stream.episode_return = memory.pop("episode_start"), memory.pop("episode_return")
            stream.memory = memory
        streams.append(stream)
    return steps[0], streams, list(updates)


def _together(parts: Sequence[dict[str, Tensor]], file: Path) -> dict[str, Tensor]:
    """What `_of_team` gave for several teams as one. Numbers that do not lead with the team are equal in all."""
    try:
        return {
            key: torch.cat([part[key] for part in parts]) if value.dim() else value
            for key, value in parts[0].items()
            if key.startswith(("model.", "optimiser.", "stream."))
        }
    except (RuntimeError, KeyError) as error:
        raise AgentMixerError(
            f"{file} and the other seeds' checkpoints are of different sizes ({error}); resume each alone"
        ) from error


def build(runs: Sequence[Run], spec: TaskSpec) -> Algorithm:
    """The runs' algorithm with fresh weights, the random numbers of each team started from its run's seed."""
    first = runs[0]
    generators = [torch.Generator(device=first.device).manual_seed(run.seed) for run in runs]
    return ALGORITHMS[first.algorithm](spec, first.config, generators)


def load_weights(run: Run, task: Task, file: Path) -> tuple[Algorithm, int]:
    """The run's algorithm with the weights of one checkpoint, and their step.

    Raises AgentMixerError if they were trained with other settings or task options than the run has now."""
    saved = read_all(file)
    trained_with.check_played(run, saved.settings, file)
    algorithm = build([run], task.spec)
    restore_weights(algorithm, saved.tensors, file)
    algorithm.schedule(min(saved.step / saved.total_steps(run), 1.0))
    return algorithm, saved.step
