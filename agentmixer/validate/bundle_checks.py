"""The checks that a bundle meets before its agents run, in order, and the run that the checks hold it against."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from agentmixer.errors import AgentMixerError
from agentmixer.export.episodes import record as record_golden
from agentmixer.export.graph_step import graph_step
from agentmixer.runtime.agent import Agent
from agentmixer.runtime.bundle import Bundle, read_bundle
from agentmixer.runtime.golden import Golden, parse, replay
from agentmixer.train.algorithms import Algorithm
from agentmixer.train.run import Run
from agentmixer.validate.moments import Moment, record
from agentmixer.validate.source_run import exported_team, source_run

#: Recorded steps that a tampered team is asked again.
STEPS = 100


class Context(NamedTuple):
    """What the checks hold a bundle against: the run it came from."""

    bundle: Bundle
    algorithm: Algorithm
    goldens: list[Golden]
    moments: list[Moment]


def prepare(bundle: Bundle, run: Run | None = None, progress: Callable[[str], None] = lambda _: None) -> Context:
    """What the checks need. Calls `progress` with how far it is. Raises AgentMixerError if the run that the bundle came from is gone."""
    run = run or source_run(bundle)
    with contextlib.closing(run.make_task(1)) as task:
        algorithm = exported_team(bundle, run, task)
        goldens = record_golden(algorithm.team, task, progress=progress, sampled=bundle.sampled)
        return Context(bundle, algorithm, goldens, record(bundle, task, STEPS, progress))


def _check_manifests(path: Path, context: Context) -> None:
    read_bundle(path)


def _check_contract(path: Path, context: Context) -> None:
    for files in read_bundle(path).agents.values():
        Agent(files, seed=0)


def _check_golden(path: Path, context: Context) -> None:
    bundle = read_bundle(path)
    for name, files in bundle.agents.items():
        _replayed(bundle, name, parse(files.golden, files.manifest), "its golden trace")


def _check_run(path: Path, context: Context) -> None:
    bundle = read_bundle(path)
    for name, golden in zip(bundle.agents, context.goldens, strict=True):
        _replayed(bundle, name, golden, "the actor in its run's checkpoint")


def _replayed(bundle: Bundle, name: str, golden: Golden, what: str) -> None:
    files = bundle.agents[name]
    result = replay(golden, graph_step(files.model), files.manifest.action_space, bundle.team.tolerances)
    if not result.passed:
        raise AgentMixerError(
            f"agent {name} departs from {what} at step {result.first_failure} (outputs by up to "
            f"{result.policy_error:.1e}, state by {result.state_error:.1e}, {result.different_actions} other actions)"
        )


#: Name -> check, in the order in which a bundle meets them; a check raises AgentMixerError.
CHECKS: dict[str, Callable[[Path, Context], None]] = {
    "manifests": _check_manifests,
    "contract": _check_contract,
    "golden replay": _check_golden,
    "run replay": _check_run,
}


def judge_bundle(path: Path, context: Context) -> tuple[str, str] | None:
    """The first check that objects, and its sentence."""
    for name, check in CHECKS.items():
        try:
            check(path, context)
        except AgentMixerError as error:
            return name, str(error).replace(f"{path}/", "")
    return None
