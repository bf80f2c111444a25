"""Judging a policy by whole episodes: joint or decentralised, greedy or sampled."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch

from agentmixer.contract.spec import TaskSpec
from agentmixer.tasks.base import Task, to_torch
from agentmixer.tasks.side_by_side import lost_in
from agentmixer.train.settings import JUDGE_LIMIT
from agentmixer.train.team import Team


class Episodes(NamedTuple):
    """One entry an episode, in episode order. unended: episodes that were cut off at `longest`; they are lost, with the
    return that they had."""

    returns: np.ndarray
    won: np.ndarray
    lengths: np.ndarray
    unended: np.ndarray

    def note(self) -> str:
        """Which episodes did not end, in a sentence; nothing if all did."""
        cut = np.flatnonzero(self.unended)
        if not len(cut):
            return ""
        return (
            f"{len(cut)} of {len(self.unended)} episodes did not end within {self.lengths[cut[0]]:,} steps (the first: "
            f"episode {cut[0]}); they count as lost"
        )


class Interrupted(Exception):
    """Episodes were given up because somebody asked to stop."""


def longest_episode(spec: TaskSpec, limit: int) -> int:
    """Steps after which an episode that is judged is given up. limit: the setting `judge_limit`.

    A task that keeps its own limit never comes there: twice that, since an environment may count otherwise than we do."""
    return 2 * spec.episode_limit or limit


@torch.no_grad()
def evaluate(
    team: Team, task: Task, episodes: int, seed: int, joint: bool = False, greedy: bool = True,
    longest: int = JUDGE_LIMIT, stop: Callable[[], bool] = lambda: False,
    progress: Callable[[str], None] = lambda _: None,
) -> Episodes:  # fmt: skip
    """Play episodes 0 .. episodes-1 of `seed`, each from its own random stream, E at a time.

    longest: steps after which an episode is cut off. stop: asked before every step. Raises Interrupted once it says yes.
    progress: called with how far it is."""
    device, envs = team.device, task.num_envs
    returns, won, lengths = np.zeros(episodes), np.zeros(episodes, bool), np.zeros(episodes, int)
    unended = np.zeros(episodes, bool)
    for begin in range(0, episodes, envs):
        progress(f"episodes {begin} of {episodes}")
        step = task.reset(seed, np.arange(begin, begin + envs))
        memory = team.memory(envs)
        signal = memory.pop("signal")
        episode_start = torch.ones(envs, device=device)
        count = min(envs, episodes - begin)
        running = np.ones(envs, bool)
        total, length = np.zeros(envs), np.zeros(envs, int)
        victory = np.zeros(envs, bool)
        while running[:count].any() and length.max() < longest:
            if stop():
                raise Interrupted
            progress(f"episodes {begin + count - running[:count].sum()} of {episodes}")
            obs, state, mask = (to_torch(a, device) for a in (step.obs, step.state, step.action_mask))
            if joint:
                signal = team.next_signal(signal, episode_start)
                action, _, memory = team.act_jointly(obs, state, signal, mask, memory, greedy)
            else:
                action, memory["actor"] = team.act_alone(obs, mask, memory["actor"], greedy)
            step = task.step(team.to_task(action))
            ended = np.asarray(step.terminated) | np.asarray(step.truncated)
            total += np.asarray(step.reward) * running
            length += running
            whole = ended
            if (lost := lost_in(task)) is not None:  # where the environment failed, its next episode is judged instead
                again = running & lost
                total[again], length[again], whole = 0.0, 0, ended & ~again
            victory |= running & whole & np.asarray(step.won)
            running &= ~whole
            episode_start = torch.from_numpy(ended).to(device).float()
            memory = {name: array * (1.0 - episode_start).view(1, envs, 1) for name, array in memory.items()}
        chosen = slice(begin, begin + count)
        returns[chosen], won[chosen], lengths[chosen] = total[:count], victory[:count], length[:count]
        unended[chosen] = running[:count]
    return Episodes(returns, won, lengths, unended)
