"""Locality, measured: what an agent does depends on nothing but what it is given, and what it is given shows
nothing that the task hides.

Everything that an agent must not depend on is changed, and not one bit of its decisions may move. Beside every
check stands a control: something that does depend on it, and must move.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass

from agentmixer import __version__
from agentmixer.runtime.bundle import Bundle
from agentmixer.runtime.certificate import check_locality
from agentmixer.runtime.guard import check_model
from agentmixer.train import checkpoint
from agentmixer.train.run import Run
from agentmixer.validate.bit_tally import Finding
from agentmixer.validate.moments import record
from agentmixer.validate.source_run import check_task, source_run
from agentmixer.validate.task_locality import PROBED_ENVS, environmental
from agentmixer.validate.team_locality import one_process, running_team
from agentmixer.validate.training_locality import training


@dataclass(frozen=True)
class Locality:
    """Everything found. static: for each agent, the inputs that each output of its graph is computed from, all of them
    its own; `observation`: whether the task could say what its observations hide, in words."""

    bundle: str
    steps: int
    static: dict[str, dict[str, tuple[str, ...]]]
    observation: str
    findings: tuple[Finding, ...]

    @property
    def passed(self) -> bool:
        """Nothing moved that must not, and every control moved."""
        return bool(self.findings) and all(finding.passed for finding in self.findings)

    def to_json(self) -> str:
        """The verdict and every finding, as JSON."""
        findings = [{"passed": finding.passed, **asdict(finding)} for finding in self.findings]
        head = {"passed": self.passed, "agentmixer": __version__, "bundle": self.bundle, "steps": self.steps}
        return (
            json.dumps({**head, "static": self.static, "observation": self.observation, "findings": findings}, indent=2)
            + "\n"
        )


def locality(
    bundle: Bundle, steps: int, run: Run | None = None, progress: Callable[[str], None] = lambda _: None
) -> Locality:
    """Record `steps` steps of the deployed team, then change what must not matter, one thing after another.

    run: as `source_run.source_run` gives it. Calls `progress` with what comes next. Raises AgentMixerError if the run is gone or an agent cannot be started."""
    run = run or source_run(bundle)
    findings: list[Finding] = []
    static = {
        name: check_locality(check_model(files.model, files.manifest), files.manifest)
        for name, files in bundle.agents.items()
    }
    with contextlib.closing(run.make_task(1)) as task:
        check_task(task, bundle, run)
        algorithm, _ = checkpoint.load_weights(run, task, run.checkpoints / bundle.team.source.checkpoint)
        progress(f"recording {steps} steps")
        moments = record(bundle, task, steps)
    if len(bundle.agents) > 1:  # a team of one has nobody to hear from
        for index, name in enumerate(bundle.agents):
            progress(f"{name} while the others change")
            findings += running_team(bundle, moments, index)
            findings += one_process(bundle, moments, index)
    progress("the process that trains")
    findings += training(algorithm, moments)
    progress("what observations hide")
    with contextlib.closing(run.make_task(PROBED_ENVS)) as task:
        said, found = environmental(task)
    return Locality(str(bundle.path), len(moments), static, said, (*findings, *found))
