"""Locality, measured: what an agent does depends on nothing but what it is given, and what it is given shows
nothing that the task hides.

Everything that an agent must not depend on is changed, and not one bit of its decisions may move. Beside every
check stands a control: something that does depend on it, and must move.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass

from agentmixer.contract.results import Report
from agentmixer.runtime.bundle import Bundle
from agentmixer.runtime.certificate import check_locality
from agentmixer.runtime.guard import check_model
from agentmixer.train.run import Run
from agentmixer.validate.bit_tally import BitCheck
from agentmixer.validate.moments import record
from agentmixer.validate.source_run import check_task, exported_team, source_run
from agentmixer.validate.task_locality import PROBED_ENVS, environmental
from agentmixer.validate.team_locality import one_process, running_team
from agentmixer.validate.training_locality import training


@dataclass(frozen=True, kw_only=True)
class LocalityReport(Report):
    """Everything found. steps: how many were recorded; static: for each agent, the inputs that each output of its graph is
    computed from, all of them its own; observation: whether the task could say what its observations hide, in words."""

    steps: int
    static: dict[str, dict[str, tuple[str, ...]]]
    observation: str
    checks: tuple[BitCheck, ...]


def locality(
    bundle: Bundle, steps: int, run: Run | None = None, progress: Callable[[str], None] = lambda _: None
) -> LocalityReport:
    """Record `steps` steps of the deployed team, then change what must not matter, one thing after another.

    run: as `source_run.source_run` gives it. Calls `progress` with what it does, and how far it is. Raises AgentMixerError if the run is gone or an agent cannot be started."""
    run = run or source_run(bundle)
    checks: list[BitCheck] = []
    static = {
        name: check_locality(check_model(files.model, files.manifest), files.manifest)
        for name, files in bundle.agents.items()
    }
    with contextlib.closing(run.make_task(1)) as task:
        check_task(task, bundle, run)
        algorithm = exported_team(bundle, run, task)
        moments = record(bundle, task, steps, progress)
    if len(bundle.agents) > 1:  # a team of one has nobody to hear from
        for index, name in enumerate(bundle.agents):
            doing = f"{name}, agent {index + 1} of {len(bundle.agents)}, while the others change"
            progress(f"{doing}: in a running team")
            checks += running_team(bundle, moments, index)
            progress(f"{doing}: in one process")
            checks += one_process(bundle, moments, index)
    progress("the process that trains")
    checks += training(algorithm, moments)
    progress("what observations hide")
    with contextlib.closing(run.make_task(PROBED_ENVS)) as task:
        said, found = environmental(task)
    return LocalityReport(
        bundle=str(bundle.path), steps=len(moments), static=static, observation=said, checks=(*checks, *found)
    )
