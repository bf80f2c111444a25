"""Three ways to play the same episodes: the joint policy, the actors in process, the deployed agents."""

from __future__ import annotations

import time
from typing import NamedTuple, Protocol

import numpy as np
import torch

from agentmixer.runtime.host import Decision, Host
from agentmixer.tasks import Task
from agentmixer.tasks.base import TaskStep, to_torch
from agentmixer.train.algorithms.agentmixer_ppo import AgentMixerPPO
from agentmixer.train.joint_policy import mask_logits


class Arm(Protocol):
    """Something that plays one environment with all agents."""

    def reset(self, episode: int) -> None: ...

    def act(self, step: TaskStep) -> np.ndarray:
        """Actions [N] int32 for the current step of a task with one environment."""
        ...


class JointArm:
    """The joint policy's mode, PM and global state in the loop."""

    def __init__(self, algorithm: AgentMixerPPO):
        self.algorithm = algorithm
        self.h = algorithm.initial_memory(1)["actor"]

    def reset(self, episode: int) -> None:
        self.h = self.algorithm.initial_memory(1)["actor"]

    def act(self, step: TaskStep) -> np.ndarray:
        obs, state, mask = (to_torch(a, self.algorithm.device) for a in (step.obs, step.state, step.action_mask))
        action, _, self.h = self.algorithm.act_joint(obs, state, mask, self.h, greedy=True)
        return action[:, 0].int().cpu().numpy()


class ActorsArm:
    """The actors' modes in torch, as trained. Keeps each step's logits to judge near-ties by."""

    def __init__(self, algorithm: AgentMixerPPO):
        self.algorithm = algorithm
        self.logits: list[list[np.ndarray]] = []
        self.h = algorithm.initial_memory(1)["actor"]

    def reset(self, episode: int) -> None:
        self.h = self.algorithm.initial_memory(1)["actor"]
        self.logits.append([])

    @torch.no_grad()
    def act(self, step: TaskStep) -> np.ndarray:
        raw, _, self.h = self.algorithm.actor(to_torch(step.obs, self.algorithm.device), self.h)
        logits = mask_logits(raw, to_torch(step.action_mask, self.algorithm.device))[:, 0].cpu().numpy()
        self.logits[-1].append(logits)
        return logits.argmax(-1).astype(np.int32)


class DeployedArm:
    """The exported agents, one process each, over their links. Keeps every decision and step time."""

    def __init__(self, host: Host):
        self.host = host
        self.decisions: list[list[Decision]] = []
        self.step_ns: list[int] = []
        self._episode = self._step = 0

    def reset(self, episode: int) -> None:
        self._episode, self._step = episode, 0

    def act(self, step: TaskStep) -> np.ndarray:
        obs, mask = np.asarray(step.obs)[:, 0], np.asarray(step.action_mask)[:, 0]
        begin = time.monotonic_ns()
        decisions = self.host.step(self._episode, self._step, list(obs), list(mask))
        self.step_ns.append(time.monotonic_ns() - begin)
        self.decisions.append(decisions)
        self._step += 1
        return np.array([decision.action for decision in decisions], np.int32)


class Played(NamedTuple):
    """Episodes of one arm, in order. actions: one [T, N] array an episode."""

    returns: np.ndarray
    won: np.ndarray
    actions: list[np.ndarray]


def play(arm: Arm, task: Task, episodes: int, seed: int) -> Played:
    """Play episodes 0 .. episodes-1 of `seed` one after the other. Two arms that act alike see, bit for
    bit, the same episodes. task: one environment."""
    returns, won, actions = [], [], []
    for episode in range(episodes):
        step = task.reset(seed, np.array([episode]))
        arm.reset(episode)
        total, taken, ended = 0.0, [], False
        while not ended:
            action = arm.act(step)
            taken.append(action)
            step = task.step(torch.from_numpy(action[:, None].copy()))
            total += float(np.asarray(step.reward)[0])
            ended = bool(np.asarray(step.terminated)[0] or np.asarray(step.truncated)[0])
        returns.append(total)
        won.append(bool(np.asarray(step.won)[0]))
        actions.append(np.stack(taken))
    return Played(np.array(returns), np.array(won), actions)
