"""PettingZoo ParallelEnvs as a task."""

from __future__ import annotations

import functools
from collections.abc import Mapping

from agentmixer.contract.spec import OptionValue
from agentmixer.tasks.pettingzoo.env_copy import EnvCopy
from agentmixer.tasks.pettingzoo.foreign_env import build
from agentmixer.tasks.pettingzoo.pictures import Pictures
from agentmixer.tasks.pettingzoo.team_description import Team, describe, specification
from agentmixer.tasks.workers.chunk import Row
from agentmixer.tasks.workers.worker_task import WorkerTask, fitting_workers


class ParallelEnvTask(WorkerTask):
    """E copies of a PettingZoo ParallelEnv.

    Reward, shared by the team: the mean over `possible_agents` of their rewards, which is the common reward where
    all get the same; an agent that is gone counts as 0. An episode ends when no agent is left; the episode is
    terminated if any of the agents that left last was terminated, else truncated. An agent that is gone is not
    active and observes zeros. Where the task masks actions, that agent's mask allows the fallback action alone. The
    environment never gets an action of an agent that is gone.
    """

    def __init__(
        self,
        scenario: str,
        num_envs: int,
        options: Mapping[str, OptionValue],
        backend: str = "processes",
        workers: int | None = None,
        ray: bool = False,
    ):
        """workers: how many; one a core, and none for a single environment, unless given. ray: whether they are on a Ray
        cluster."""
        if workers is None:
            alone = not ray and (backend == "serial" or num_envs == 1)
            workers = 0 if alone else fitting_workers(num_envs, ray)
        #: Of the only environment, where it is stepped in this process.
        self.pictures = Pictures() if num_envs == 1 and not workers else None
        make = functools.partial(_copy, scenario, dict(options), describe(scenario, options), self.pictures)
        super().__init__(specification(scenario, backend, options), num_envs, make, workers, ray=ray)


def _copy(
    scenario: str, options: Mapping[str, OptionValue], team: Team, pictures: Pictures | None, index: int, row: Row
) -> EnvCopy:
    return EnvCopy(build(scenario, options), team, index, row, pictures)
