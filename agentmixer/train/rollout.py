"""Collecting experience: T steps of E environments, stored agent-major."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from agentmixer.tasks.base import Task, TaskStep, to_torch
from agentmixer.train.algorithms.agentmixer_ppo import AgentMixerPPO


@dataclass
class Stream:
    """Where the environments stand between two rollouts."""

    step: TaskStep
    memory: dict[str, Tensor]
    #: [E], 1 where the current observation is the first of its episode.
    fresh: Tensor
    #: [E], return of the running episode so far.
    episode_return: Tensor


def start(algorithm: AgentMixerPPO, task: Task, seed: int) -> Stream:
    """Reset all environments."""
    device = algorithm.device
    return Stream(
        step=task.reset(seed),
        memory=algorithm.initial_memory(task.num_envs),
        fresh=torch.ones(task.num_envs, device=device),
        episode_return=torch.zeros(task.num_envs, device=device),
    )


@torch.no_grad()
def collect(algorithm: AgentMixerPPO, task: Task, stream: Stream) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Run the joint policy for T steps. Advances `stream`.

    Returns the rollout: obs [N,T,E,D], mask [N,T,E,A], active [N,T,E], action and log_prob [N,T,E],
    h_actor [N,T,E,H], h_critic [K,T,E,H], value and final_value [K,T,E], last_value [K,E], state [T,E,S],
    reward, terminated, truncated, fresh [T,E]; and of the episodes that ended: return [M], won [M].
    """
    config, device = algorithm.config, algorithm.device
    steps, envs, agents = config.rollout_length, task.num_envs, task.spec.num_agents
    critics, hidden = algorithm.critic.critics, config.hidden
    actions, obs_size = task.spec.action_spaces[0].n, task.spec.obs_sizes[0]

    def room(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        return torch.empty(shape, dtype=dtype, device=device)

    out = {
        "obs": room(agents, steps, envs, obs_size),
        "mask": room(agents, steps, envs, actions, dtype=torch.bool),
        "active": room(agents, steps, envs, dtype=torch.bool),
        "action": room(agents, steps, envs, dtype=torch.int64),
        "log_prob": room(agents, steps, envs),
        "h_actor": room(agents, steps, envs, hidden),
        "h_critic": room(critics, steps, envs, hidden),
        "value": room(critics, steps, envs),
        "final_value": torch.zeros(critics, steps, envs, device=device),
        "state": room(steps, envs, task.spec.state_size),
        "reward": room(steps, envs),
        "terminated": room(steps, envs, dtype=torch.bool),
        "truncated": room(steps, envs, dtype=torch.bool),
        "fresh": room(steps, envs),
    }
    finished: dict[str, list[Tensor]] = {"return": [], "won": []}
    step = stream.step
    for t in range(steps):
        obs, state, mask = (to_torch(a, device) for a in (step.obs, step.state, step.action_mask))
        keep = (1.0 - stream.fresh).view(1, envs, 1)
        h_actor, h_critic = stream.memory["actor"] * keep, stream.memory["critic"] * keep
        action, log_prob, next_actor = algorithm.act_joint(obs, state, mask, h_actor, greedy=False)
        step = task.step(action.int())
        value, next_critic = algorithm.critic(state, h_critic)
        for name, array in (
            ("obs", obs), ("mask", mask), ("active", to_torch(stream.step.active, device)), ("action", action),
            ("log_prob", log_prob), ("h_actor", h_actor), ("h_critic", h_critic), ("value", value),
        ):  # fmt: skip
            out[name][:, t] = array
        reward, terminated, truncated = (to_torch(a, device) for a in (step.reward, step.terminated, step.truncated))
        out["state"][t], out["fresh"][t], out["reward"][t] = state, stream.fresh, reward
        out["terminated"][t], out["truncated"][t] = terminated, truncated
        if truncated.any():
            out["final_value"][:, t] = algorithm.critic(to_torch(step.final_state, device), next_critic)[0]

        ended = terminated | truncated
        stream.episode_return += reward
        if ended.any():
            finished["return"].append(stream.episode_return[ended])
            finished["won"].append(to_torch(step.won, device)[ended])
        stream.episode_return.masked_fill_(ended, 0.0)
        stream.memory = {"actor": next_actor, "critic": next_critic}
        stream.fresh = ended.float()
        stream.step = step

    keep = (1.0 - stream.fresh).view(1, envs, 1)
    out["last_value"] = algorithm.critic(to_torch(step.state, device), stream.memory["critic"] * keep)[0]
    return out, {name: torch.cat(parts) if parts else torch.zeros(0) for name, parts in finished.items()}
