"""Where the environments stand, and collecting rollouts for PPO: T steps of E environments, stored agent-major."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
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
    """Where a task's environments of K teams stand between two rollouts: E of each team, team after team."""

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
def collect(
    algorithm: AgentMixerPPO, tasks: Sequence[Task], streams: Sequence[Stream]
) -> tuple[dict[str, Tensor], list[dict[str, Tensor]]]:
    """Run the joint policy for T steps. Advances `streams`, one a task.

    E environments may be shared out over several tasks, in order: the team then decides for one task's while others are
    simulated. That changes no result, for what is random in actions is drawn beforehand, for all environments.

    Returns the rollout of K teams with C critics each: obs [K*N,T,E,D], mask [K*N,T,E,A], active and log_prob
    [K*N,T,E], action [K*N,T,E] or [K*N,T,E,A], h_actor [K*N,T,E,M], h_critic [K*C,T,E,M], value and final_value
    [K*C,T,E], last_value [K*C,E], state [K,T,E,S], signal [K,T,E,Z], reward, terminated, truncated, fresh, return (of
    the episode so far) and won [K,T,E]; and of each team's episodes that ended: return, won [episodes].

    Raises AgentMixerError naming environment and step if a task returned something that is not finite.
    """
    config, device, teams, spec = algorithm.config, algorithm.device, algorithm.teams, tasks[0].spec
    steps, envs = config.rollout_length, sum(task.num_envs for task in tasks)
    rows, critics = algorithm.actor.body.agents, algorithm.critic.critics

    def room(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        return torch.empty(shape, dtype=dtype, device=device)

    out = {
        "obs": room(rows, steps, envs, max(spec.obs_sizes)),
        "mask": room(rows, steps, envs, algorithm.actions, dtype=torch.bool),
        "active": room(rows, steps, envs, dtype=torch.bool),
        "action": room(rows, steps, envs, dtype=torch.int64)
        if spec.discrete
        else room(rows, steps, envs, algorithm.actions),
        "log_prob": room(rows, steps, envs),
        "h_actor": room(rows, steps, envs, algorithm.actor.body.memory),
        "h_critic": room(critics, steps, envs, algorithm.critic.body.memory),
        "value": room(critics, steps, envs),
        "final_value": torch.zeros(critics, steps, envs, device=device),
        "last_value": room(critics, envs),
        "state": room(teams, steps, envs, spec.state_size),
        "signal": room(teams, steps, envs, config.signal),
        "reward": room(teams, steps, envs),
        "terminated": room(teams, steps, envs, dtype=torch.bool),
        "truncated": room(teams, steps, envs, dtype=torch.bool),
        "fresh": room(teams, steps, envs),
        "return": room(teams, steps, envs),
        "won": room(teams, steps, envs, dtype=torch.bool),
    }
    noise = [(algorithm.signal_noise(envs), algorithm.action_noise(envs)) for _ in range(steps)]
    first, lanes = 0, []
    with contextlib.ExitStack() as stack:
        for task, stream in zip(tasks, streams, strict=True):
            where = slice(first, first + task.num_envs)
            first = where.stop
            # JAX works beside Python unasked; what puts several teams' tasks together waits for it.
            threaded = len(tasks) > 1 and teams > 1
            thread = stack.enter_context(ThreadPoolExecutor(1)) if threaded else None
            lanes.append(_lane(algorithm, task, thread, stream, out, where, noise))
        for _ in range(steps + 1):
            for lane in lanes:
                next(lane, None)
    check_finite(out, spec.agents)
    ended = out["terminated"] | out["truncated"]
    finished = [{name: out[name][k][ended[k]] for name in ("return", "won")} for k in range(teams)]
    return out, finished


def _lane(
    algorithm: AgentMixerPPO,
    task: Task,
    thread: Executor | None,
    stream: Stream,
    out: dict[str, Tensor],
    where: slice,
    noise: list[tuple[Tensor, Tensor]],
) -> Iterator[None]:
    """Fill one task's share of `out`, the environments `where`. Gives way whenever the task is at work, in `thread` if
    given."""
    device, teams, envs = algorithm.device, algorithm.teams, where.stop - where.start
    step = stream.step
    for t, (for_signal, for_action) in enumerate(noise):
        obs, state, mask, active = (to_torch(a, device) for a in (step.obs, step.state, step.action_mask, step.active))
        for_signal = for_signal.unflatten(0, (teams, -1))[:, where].flatten(0, 1)
        signal = algorithm.next_signal(stream.memory["signal"], stream.fresh, for_signal)
        keep = (1.0 - stream.fresh).view(teams, envs, 1)
        h_actor, h_critic = (forget(stream.memory[name], keep) for name in ("actor", "critic"))
        action, log_prob, next_actor = algorithm.act_joint(
            obs, state, signal, mask, h_actor, greedy=False, noise=for_action[:, where]
        )
        wanted = algorithm.to_task(action)
        running = task.step(wanted) if thread is None else thread.submit(task.step, wanted)
        value, next_critic = algorithm.critic(state, h_critic)
        for name, array in (
            ("obs", obs), ("mask", mask), ("active", active), ("action", action), ("log_prob", log_prob),
            ("h_actor", h_actor), ("h_critic", h_critic), ("value", value),
        ):  # fmt: skip
            out[name][:, t, where] = array
        for name, array in (("state", state), ("signal", signal), ("fresh", stream.fresh)):
            out[name][:, t, where] = array.view(teams, envs, *array.shape[1:])
        yield
        step = running.result() if isinstance(running, Future) else running
        reward, terminated, truncated, won = (
            to_torch(a, device) for a in (step.reward, step.terminated, step.truncated, step.won)
        )
        stream.episode_return += reward
        for name, array in (
            ("reward", reward), ("terminated", terminated), ("truncated", truncated), ("won", won),
            ("return", stream.episode_return),
        ):  # fmt: skip
            out[name][:, t, where] = array.view(teams, envs)
        if truncated.any():
            out["final_value"][:, t, where] = algorithm.critic(to_torch(step.final_state, device), next_critic)[0]
        ended = terminated | truncated
        stream.episode_return.masked_fill_(ended, 0.0)
        stream.memory = {"actor": next_actor, "critic": next_critic, "signal": signal}
        stream.fresh = ended.float()
        stream.step = step
    keep = (1.0 - stream.fresh).view(teams, envs, 1)
    last, _ = algorithm.critic(to_torch(step.state, device), forget(stream.memory["critic"], keep))
    out["last_value"][:, where] = last


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
