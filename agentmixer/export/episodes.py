"""Episodes that the trained actors play for export: golden traces, and what the agents come to see and do.

Both are of their own seeds, apart from training, evaluation and rehearsals.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch

from agentmixer.contract.spec import Box, TaskSpec
from agentmixer.export.team_noise import TeamNoise
from agentmixer.runtime.actions import array_type, parts
from agentmixer.runtime.golden import Golden
from agentmixer.tasks import Task
from agentmixer.tasks.base import to_torch
from agentmixer.train.team import Team

GOLDEN_SEED, PROFILE_SEED = 2_000_003, 4_000_037
GOLDEN_STEPS = 256
#: Decisions that a profile is measured on, of all environments together, and first observations; fewer of a single environment.
PROFILE_STEPS, PROFILE_STARTS = 16384, 1024
#: Each environment plays a whole episode, or so much of it.
PROFILE_EPISODE = 512


class Seen(NamedTuple):
    """What one agent came to see and do: what `profile.measure` takes, see there."""

    obs: np.ndarray
    fresh: np.ndarray
    first: np.ndarray
    actions: np.ndarray


@torch.no_grad()
def record(
    team: Team, task: Task, steps: int = GOLDEN_STEPS, progress: Callable[[str], None] = lambda _: None,
    sampled: bool = False,
) -> list[Golden]:  # fmt: skip
    """Let the trained (stacked) actors play for `steps` steps of one environment, greedily, or with whole numbers that are drawn
    (`sampled`).

    The last sixteenth meets what play never shows: noise of standard deviation 10, and masks that forbid half of what is
    legal. progress: called with how far it is."""
    generator = np.random.default_rng(GOLDEN_SEED)
    progress(f"recording {steps} steps")
    seen = task.reset(GOLDEN_SEED)
    spec, device = task.spec, team.device
    memory = team.memory(1)["actor"]
    noise = TeamNoise(team, [GOLDEN_SEED] * spec.num_agents if sampled else None)
    rows: list[list[tuple[np.ndarray, ...]]] = [[] for _ in spec.agents]
    fresh = True
    for t in range(steps):
        progress(f"recording step {t + 1} of {steps}")
        obs, mask = to_torch(seen.obs, device), to_torch(seen.action_mask, device)
        if t >= steps - steps // 16:
            wild = torch.from_numpy(generator.normal(0.0, 10.0, obs.shape).astype(np.float32)).to(device)
            obs = torch.stack([torch.where(torch.arange(obs.shape[-1], device=device) < size, wild[i], 0.0)
                               for i, size in enumerate(spec.obs_sizes)])  # fmt: skip
            mask = _narrowed(spec, mask.cpu().numpy(), generator).to(device)
        if fresh:
            memory = torch.zeros_like(memory)
        actors = team.step(obs, mask, memory)
        if fresh:
            noise.begin()
        drawn = noise.draw()
        policy, memory = actors.policy + drawn, actors.memory
        action = team.to_task(team.joint_policy.actor_mode(policy))
        for i, (size, space) in enumerate(zip(spec.obs_sizes, spec.action_spaces, strict=True)):
            mine = own_action(spec, i, action[i, 0])
            own = noise.agents[i].size
            arrays = obs[i, 0, :size], mask[i, 0, : space.n], policy[i, 0, : space.n], memory[i, 0], drawn[i, 0, :own]
            seen_obs, legal, given, after, by = (array.cpu().numpy().copy() for array in arrays)
            rows[i].append((seen_obs, legal, np.array(fresh), mine, given, after, by))
        seen = task.step(action)
        fresh = bool(np.asarray(seen.terminated)[0] or np.asarray(seen.truncated)[0])
    return [Golden(*(np.stack(column) for column in zip(*agent, strict=True))) for agent in rows]


def _narrowed(spec: TaskSpec, masks: np.ndarray, generator: np.random.Generator) -> torch.Tensor:
    """Masks [N, 1, A] that forbid half of what is legal, and leave something legal in every element."""
    narrowed = masks.copy()
    for own, space in zip(narrowed[:, 0] if spec.has_action_mask else (), spec.action_spaces, strict=False):
        if not isinstance(space, Box):
            for part in parts(space, own[: space.n]):
                kept = part & (generator.random(len(part)) < 0.5)
                part[:] = kept if kept.any() else part
    return torch.from_numpy(narrowed)


def own_action(spec: TaskSpec, index: int, action: torch.Tensor) -> np.ndarray:
    """What a task was given for one agent, as that agent's `Agent.act` gives it. action [...] or [..., W]."""
    space = spec.action_spaces[index]
    dtype, shape = array_type(space)
    array = action.cpu().numpy()
    if not spec.discrete:
        array = array[..., : space.size].reshape((*array.shape[:-1], *shape))
    return array.astype(dtype)


@torch.no_grad()
def profiles(
    team: Team, task: Task, progress: Callable[[str], None] = lambda _: None, seed: int = PROFILE_SEED, steps: int = 0,
    sampled: bool = False,
) -> list[Seen]:  # fmt: skip
    """Let the trained actors play alone, and keep what each agent sees and does.

    progress: called with how far it is; seed: of the episodes; steps: of each environment, as many as a profile takes unless given;
    sampled: draw whole numbers, not their modes."""
    spec, device, envs = task.spec, team.device, task.num_envs
    if not steps:
        steps = max(PROFILE_STEPS // envs, min(spec.episode_limit, PROFILE_EPISODE)) if envs > 1 else PROFILE_STEPS // 4
    starts = []
    for begin in range(0, PROFILE_STARTS if envs > 1 else 4, envs):
        seen = task.reset(seed, np.arange(begin, begin + envs))
        starts.append(np.array(seen.obs))
    memory, fresh = team.memory(envs)["actor"], torch.ones(envs, device=device)
    kept: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
    for t in range(steps):
        progress(f"profiling step {t + 1} of {steps}")
        memory = memory * (1.0 - fresh).view(1, envs, 1)
        obs = to_torch(seen.obs, device)
        action, memory = team.act_alone(obs, to_torch(seen.action_mask, device), memory, greedy=not sampled)
        taken = team.to_task(action)
        kept.append((obs.cpu().numpy().copy(), fresh.cpu().numpy() > 0, taken.cpu().numpy().copy()))
        seen = task.step(taken)
        fresh = torch.from_numpy(np.asarray(seen.terminated) | np.asarray(seen.truncated)).to(device).float()
    # Environment after environment, so that decisions of an episode follow one another.
    obs_all, fresh_all, actions = (np.stack(column) for column in zip(*kept, strict=True))
    begun = fresh_all.T.reshape(-1)
    rows = obs_all.transpose(1, 2, 0, 3).reshape(spec.num_agents, steps * envs, -1)
    done = actions.swapaxes(0, 1).swapaxes(1, 2).reshape(spec.num_agents, steps * envs, *actions.shape[3:])
    first = np.concatenate(starts, 1)
    return [
        Seen(
            rows[i][:, :size],
            begun,
            np.concatenate([first[i], rows[i][begun]])[:, :size],
            own_action(spec, i, torch.from_numpy(done[i])),
        )
        for i, size in enumerate(spec.obs_sizes)
    ]
