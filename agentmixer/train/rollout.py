"""Where the environments stand, and collecting rollouts for PPO: T steps of E environments, stored agent-major."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from agentmixer.errors import AgentMixerError
from agentmixer.tasks.base import Task, TaskStep, to_torch

if TYPE_CHECKING:
    from agentmixer.train.algorithms import AgentMixerPPO, Algorithm


@dataclass
class Stream:
    """Where the environments stand between two rollouts."""

    step: TaskStep
    memory: dict[str, Tensor]
    #: [E], 1 where the current observation is the first of its episode.
    fresh: Tensor
    #: [E], return of the running episode so far.
    episode_return: Tensor


def start(algorithm: Algorithm, task: Task, seed: int) -> Stream:
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

    Returns the rollout: obs [N,T,E,D], mask [N,T,E,A], active and log_prob [N,T,E], action [N,T,E] or [N,T,E,A],
    h_actor and h_critic [N|K,T,E,M], value and final_value [K,T,E], last_value [K,E], state [T,E,S], signal [T,E,Z],
    reward, terminated, truncated, fresh [T,E]; and of the episodes that ended: return, won [episodes].

    Raises AgentMixerError naming environment and step if the task returned something that is not finite.
    """
    config, device = algorithm.config, algorithm.device
    steps, envs, agents = config.rollout_length, task.num_envs, task.spec.num_agents
    critics = algorithm.critic.critics
    actions = max(space.n for space in task.spec.action_spaces)

    def room(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        return torch.empty(shape, dtype=dtype, device=device)

    out = {
        "obs": room(agents, steps, envs, max(task.spec.obs_sizes)),
        "mask": room(agents, steps, envs, actions, dtype=torch.bool),
        "active": room(agents, steps, envs, dtype=torch.bool),
        "action": room(agents, steps, envs, dtype=torch.int64)
        if task.spec.discrete
        else room(agents, steps, envs, actions),
        "log_prob": room(agents, steps, envs),
        "h_actor": room(agents, steps, envs, algorithm.actor.body.memory),
        "h_critic": room(critics, steps, envs, algorithm.critic.body.memory),
        "value": room(critics, steps, envs),
        "final_value": torch.zeros(critics, steps, envs, device=device),
        "state": room(steps, envs, task.spec.state_size),
        "signal": room(steps, envs, config.signal),
        "reward": room(steps, envs),
        "terminated": room(steps, envs, dtype=torch.bool),
        "truncated": room(steps, envs, dtype=torch.bool),
        "fresh": room(steps, envs),
    }
    finished: dict[str, list[Tensor]] = {"return": [], "won": []}
    step = stream.step
    for t in range(steps):
        obs, state, mask = (to_torch(a, device) for a in (step.obs, step.state, step.action_mask))
        signal = algorithm.next_signal(stream.memory["signal"], stream.fresh)
        keep = (1.0 - stream.fresh).view(1, envs, 1)
        h_actor, h_critic = stream.memory["actor"] * keep, stream.memory["critic"] * keep
        action, log_prob, next_actor = algorithm.act_joint(obs, state, signal, mask, h_actor, greedy=False)
        step = task.step(algorithm.to_task(action))
        value, next_critic = algorithm.critic(state, h_critic)
        for name, array in (
            ("obs", obs), ("mask", mask), ("active", to_torch(stream.step.active, device)), ("action", action),
            ("log_prob", log_prob), ("h_actor", h_actor), ("h_critic", h_critic), ("value", value),
        ):  # fmt: skip
            out[name][:, t] = array
        reward, terminated, truncated = (to_torch(a, device) for a in (step.reward, step.terminated, step.truncated))
        out["state"][t], out["signal"][t], out["fresh"][t], out["reward"][t] = state, signal, stream.fresh, reward
        out["terminated"][t], out["truncated"][t] = terminated, truncated
        if truncated.any():
            out["final_value"][:, t] = algorithm.critic(to_torch(step.final_state, device), next_critic)[0]

        ended = terminated | truncated
        stream.episode_return += reward
        if ended.any():
            finished["return"].append(stream.episode_return[ended])
            finished["won"].append(to_torch(step.won, device)[ended])
        stream.episode_return.masked_fill_(ended, 0.0)
        stream.memory = {"actor": next_actor, "critic": next_critic, "signal": signal}
        stream.fresh = ended.float()
        stream.step = step

    check_finite(out, task.spec.agents)
    keep = (1.0 - stream.fresh).view(1, envs, 1)
    out["last_value"] = algorithm.critic(to_torch(step.state, device), stream.memory["critic"] * keep)[0]
    return out, {name: torch.cat(parts) if parts else torch.zeros(0) for name, parts in finished.items()}


def check_finite(out: dict[str, Tensor], agents: tuple[str, ...]) -> None:
    """Raise AgentMixerError naming the first environment and step whose numbers are not finite."""
    for name in ("obs", "state", "reward"):
        if not torch.isfinite(out[name]).all():
            where = (~torch.isfinite(out[name])).nonzero()
            where = where[where[:, 1 if name == "obs" else 0].argmin()]
            whose, (step, env) = (f" of {agents[where[0]]}", where[1:3]) if name == "obs" else ("", where[:2])
            raise AgentMixerError(
                f"environment {int(env)} returned a {name}{whose} that is not finite at step {int(step)} of this "
                "rollout; nothing was learned from it"
            )
