"""Where the environments stand, and collecting rollouts for PPO: T steps of E environments, stored agent-major."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from agentmixer.errors import TeamError
from agentmixer.tasks.base import Task, TaskStep, to_torch

if TYPE_CHECKING:
    from agentmixer.train.algorithms import AgentMixerPPO, Algorithm


@dataclass
class Stream:
    """Where the environments of K teams stand between two rollouts: E of each team, team after team."""

    step: TaskStep
    memory: dict[str, Tensor]
    #: [K * E], 1 where the current observation is the first of its episode.
    fresh: Tensor
    #: [K * E], return of the running episode so far.
    episode_return: Tensor


def start(algorithm: Algorithm, task: Task, seed: int) -> Stream:
    """Reset all environments."""
    return begin(algorithm, task.num_envs, task.reset(seed))


def begin(algorithm: Algorithm, envs: int, step: TaskStep) -> Stream:
    """A stream of `envs` environments a team that were just reset, nothing remembered and nothing earned."""
    device, count = algorithm.device, algorithm.teams * envs
    return Stream(
        step=step,
        memory=algorithm.initial_memory(envs),
        fresh=torch.ones(count, device=device),
        episode_return=torch.zeros(count, device=device),
    )


@torch.no_grad()
def collect(algorithm: AgentMixerPPO, task: Task, stream: Stream) -> tuple[dict[str, Tensor], list[dict[str, Tensor]]]:
    """Run the joint policy for T steps. Advances `stream`.

    Returns the rollout of K teams with C critics each: obs [K*N,T,E,D], mask [K*N,T,E,A], active and log_prob
    [K*N,T,E], action [K*N,T,E] or [K*N,T,E,A], h_actor [K*N,T,E,M], h_critic [K*C,T,E,M], value and final_value
    [K*C,T,E], last_value [K*C,E], state [K,T,E,S], signal [K,T,E,Z], reward, terminated, truncated, fresh [K,T,E]; and
    of each team's episodes that ended: return, won [episodes].

    Raises AgentMixerError naming environment and step if the task returned something that is not finite.
    """
    config, device, teams = algorithm.config, algorithm.device, algorithm.teams
    steps, envs = config.rollout_length, task.num_envs
    rows, critics = algorithm.actor.body.agents, algorithm.critic.critics

    def room(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        return torch.empty(shape, dtype=dtype, device=device)

    out = {
        "obs": room(rows, steps, envs, max(task.spec.obs_sizes)),
        "mask": room(rows, steps, envs, algorithm.actions, dtype=torch.bool),
        "active": room(rows, steps, envs, dtype=torch.bool),
        "action": room(rows, steps, envs, dtype=torch.int64)
        if task.spec.discrete
        else room(rows, steps, envs, algorithm.actions),
        "log_prob": room(rows, steps, envs),
        "h_actor": room(rows, steps, envs, algorithm.actor.body.memory),
        "h_critic": room(critics, steps, envs, algorithm.critic.body.memory),
        "value": room(critics, steps, envs),
        "final_value": torch.zeros(critics, steps, envs, device=device),
        "state": room(teams, steps, envs, task.spec.state_size),
        "signal": room(teams, steps, envs, config.signal),
        "reward": room(teams, steps, envs),
        "terminated": room(teams, steps, envs, dtype=torch.bool),
        "truncated": room(teams, steps, envs, dtype=torch.bool),
        "fresh": room(teams, steps, envs),
    }
    finished: list[tuple[Tensor, Tensor, Tensor]] = []
    step = stream.step
    for t in range(steps):
        obs, state, mask = (to_torch(a, device) for a in (step.obs, step.state, step.action_mask))
        signal = algorithm.next_signal(stream.memory["signal"], stream.fresh)
        keep = (1.0 - stream.fresh).view(teams, envs, 1)
        h_actor, h_critic = (forget(stream.memory[name], keep) for name in ("actor", "critic"))
        action, log_prob, next_actor = algorithm.act_joint(obs, state, signal, mask, h_actor, greedy=False)
        step = task.step(algorithm.to_task(action))
        value, next_critic = algorithm.critic(state, h_critic)
        for name, array in (
            ("obs", obs), ("mask", mask), ("active", to_torch(stream.step.active, device)), ("action", action),
            ("log_prob", log_prob), ("h_actor", h_actor), ("h_critic", h_critic), ("value", value),
        ):  # fmt: skip
            out[name][:, t] = array
        reward, terminated, truncated = (to_torch(a, device) for a in (step.reward, step.terminated, step.truncated))
        for name, array in (
            ("state", state), ("signal", signal), ("fresh", stream.fresh), ("reward", reward),
            ("terminated", terminated), ("truncated", truncated),
        ):  # fmt: skip
            out[name][:, t] = array.view(teams, envs, *array.shape[1:])
        if truncated.any():
            out["final_value"][:, t] = algorithm.critic(to_torch(step.final_state, device), next_critic)[0]

        ended = terminated | truncated
        stream.episode_return += reward
        finished.append((ended, stream.episode_return.clone(), to_torch(step.won, device).clone()))
        stream.episode_return.masked_fill_(ended, 0.0)
        stream.memory = {"actor": next_actor, "critic": next_critic, "signal": signal}
        stream.fresh = ended.float()
        stream.step = step

    check_finite(out, task.spec.agents)
    keep = (1.0 - stream.fresh).view(teams, envs, 1)
    out["last_value"] = algorithm.critic(to_torch(step.state, device), forget(stream.memory["critic"], keep))[0]
    ended, returns, won = (torch.stack(parts).view(steps, teams, envs) for parts in zip(*finished, strict=True))
    return out, [{"return": returns[:, k][ended[:, k]], "won": won[:, k][ended[:, k]]} for k in range(teams)]


def forget(memory: Tensor, keep: Tensor) -> Tensor:
    """memory [K * G, E, M] times keep [K, E, 1]."""
    teams, groups = len(keep), len(memory) // len(keep)
    return (memory.view(teams, groups, *memory.shape[1:]) * keep.unsqueeze(1)).view_as(memory)


def check_finite(out: dict[str, Tensor], agents: tuple[str, ...]) -> None:
    """obs [K*N, T, E, D], state [K, T, E, S], reward [K, T, E]. Raise TeamError naming the first environment and step
    whose numbers are not finite."""
    for name in ("obs", "state", "reward"):
        if not torch.isfinite(out[name]).all():
            where = (~torch.isfinite(out[name])).nonzero()
            row, step, env = where[where[:, 1].argmin(), :3].tolist()
            whose = f" of {agents[row % len(agents)]}" if name == "obs" else ""
            raise TeamError(
                f"environment {env} returned a {name}{whose} that is not finite at step {step} of this "
                "rollout; nothing was learned from it",
                row // len(agents) if name == "obs" else row,
            )
