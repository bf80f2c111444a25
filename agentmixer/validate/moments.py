"""Steps that a deployed team played, recorded: what it was given and what it did."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch

from agentmixer.errors import AgentMixerError
from agentmixer.host.lock_step import Host
from agentmixer.runtime.bundle import Bundle
from agentmixer.tasks import Task
from agentmixer.tasks.base import TaskStep
from agentmixer.validate.arms import DeployedArm, own_masks

#: Episodes of their own, apart from training, evaluation, golden traces and deploy-sim.
LOCALITY_SEED = 4_000_037
#: How long an agent may take to answer before it counts as silent, s.
PATIENCE_S = 10.0


class Moment(NamedTuple):
    """One recorded step. obs: one [D] float32 an agent; masks: one [A] bool an agent, None where nothing is masked;
    step: all that the task gave, numpy; actions: what the deployed agents did, one array an agent."""

    episode: int
    obs: list[np.ndarray]
    masks: list[np.ndarray | None] | None
    step: TaskStep
    actions: list[np.ndarray]


def record(bundle: Bundle, task: Task, steps: int, progress: Callable[[str], None] = lambda _: None) -> list[Moment]:
    """Let the deployed team play whole episodes until `steps` steps are recorded. task: one environment. Calls `progress` with
    how far it is."""
    moments: list[Moment] = []
    spec = task.spec
    progress(f"recording {steps} steps")
    with Host(bundle, PATIENCE_S) as host:
        arm = DeployedArm(host, spec)
        episode = 0
        while len(moments) < steps:
            step = task.reset(LOCALITY_SEED, np.array([episode]))
            arm.reset(episode)
            ended = False
            while not ended and len(moments) < steps:
                progress(f"recording step {len(moments) + 1} of {steps}")
                action = arm.act(step)
                decisions = arm.decisions[-1]
                if not all(decision.in_time for decision in decisions):
                    raise AgentMixerError(f"an agent was silent for {PATIENCE_S:.0f} s; is this machine overloaded?")
                kept = TaskStep(*(np.array(array) for array in step))
                obs = [kept.obs[i, 0, :size] for i, size in enumerate(spec.obs_sizes)]
                actions = [np.asarray(decision.action) for decision in decisions]
                moments.append(Moment(episode, obs, own_masks(spec, kept.action_mask[:, 0]), kept, actions))
                step = task.step(torch.from_numpy(action[:, None].copy()))
                ended = bool(np.asarray(step.terminated)[0] or np.asarray(step.truncated)[0])
            episode += 1
    return moments
