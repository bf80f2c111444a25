"""The run that a bundle was exported from, found on this machine and made sure of."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import msgspec

from agentmixer import provenance
from agentmixer.contract.manifest import sha256
from agentmixer.errors import AgentMixerError
from agentmixer.export.quantize import quantize
from agentmixer.files import read_regular
from agentmixer.runtime.bundle import Bundle
from agentmixer.runtime.guard import check_model
from agentmixer.tasks import Task
from agentmixer.train import checkpoint
from agentmixer.train import run as runs
from agentmixer.train.algorithms import Algorithm
from agentmixer.train.run import Run


def source_run(bundle: Bundle, given: Path | None = None, task_code: str | None = None) -> Run:
    """The run a bundle was exported from, which holds PM for the joint arm, ready to be looked at on this machine.

    given: where it is; without that, a bundle that was exported on this machine is known to its run. What the bundle says
    of its run's place is a note for people. The run must have the very config.toml and checkpoint that the manifest
    names. task_code: code that its task may import, as the scenario names it; needed unless the bundle was exported
    here. Raises AgentMixerError if there is no such run, or it is another one."""
    source, here = bundle.team.source, provenance.exported_from(bundle.digest)
    path = given or here
    if path is None:
        raise AgentMixerError(
            f"{bundle.path} was not exported on this machine, so nobody here knows its run; if you have that run, say where "
            "it is with --run DIR"
        )
    if not path.is_dir():
        raise AgentMixerError(f"the run this bundle was exported from is not at {path}; say where it is with --run DIR")
    run = runs.load(path, task_code)
    if run.digest != source.config_sha256:
        told = bundle.team.task
        if (run.task, run.scenario) != (told.name, told.scenario):
            raise AgentMixerError(
                f"{run.path} is a run of {run.task} {run.scenario}, and {bundle.path} was exported from one of {told.name} "
                f"{told.scenario}; say where that run is with --run DIR"
            )
        raise AgentMixerError(
            f"{run.path} is not the run this bundle was exported from (its config.toml differs); say where that run is with "
            "--run DIR, or export again: agentmixer export"
        )
    file = run.checkpoints / source.checkpoint
    if Path(source.checkpoint).name != source.checkpoint or not file.is_file():
        raise AgentMixerError(
            f"{run.path} no longer has {source.checkpoint}, which this bundle was exported from; export again: agentmixer export"
        )
    again = "export again: agentmixer export"
    if sha256(read_regular(file, runs.MAX_BYTES, links=None, again=again)) != source.checkpoint_sha256:
        raise AgentMixerError(
            f"{file} is not the checkpoint this bundle was exported from (its SHA-256 differs); export again: agentmixer export"
        )
    return (dataclasses.replace(run, task_code=run.scenario) if here else run).on_cpu()


def exported_team(bundle: Bundle, run: Run, task: Task) -> Algorithm:
    """The run's algorithm with the actors that the bundle was written from: those of its checkpoint, and with int8 where the bundle
    has it.

    Raises AgentMixerError as `checkpoint.load_weights` does."""
    algorithm, _ = checkpoint.load_weights(run, task, run.checkpoints / bundle.team.source.checkpoint)
    if has_int8(bundle):
        quantize(algorithm.team)
    return algorithm


def has_int8(bundle: Bundle) -> bool:
    """Whether a matrix of its agents is written as int8 (`export --quantize`)."""
    graphs = (check_model(files.model, files.manifest) for files in bundle.agents.values())
    return any(constant.dtype == "int8" for graph in graphs for constant in graph.constants.values())


def check_task(task: Task, bundle: Bundle, run: Run) -> None:
    """Raises AgentMixerError if the run's task is not the one that the bundle was exported for, whatever elements and actions
    are called (`export --elements`)."""
    told = bundle.team.task
    names = {"obs_names": told.obs_names, "obs_elements": told.obs_elements, "action_names": told.action_names}
    if told.obs_sizes != task.spec.obs_sizes or msgspec.structs.replace(task.spec, **names) != told:
        raise AgentMixerError(
            f"the task of {run.path} is not the one in {bundle.path}; export again: agentmixer export"
        )
