"""What an on-policy algorithm stores of T steps of E environments, how it is collected, and how it is cut for an update."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from agentmixer.tasks.base import Task, to_torch
from agentmixer.train.blocks import chunks, pick
from agentmixer.train.networks import Critic
from agentmixer.train.stream import Outcome, Place, Seen, Stream, check_numbers, play_on
from agentmixer.train.team import Team


@dataclass
class Rollout:
    """T steps of E environments of K teams, agent-major; N and C (critics) count those of all teams.

    | fields | shape |
    |---|---|
    | obs, mask | [N, T, E, D], [N, T, E, A] bool |
    | active, log_prob | [N, T, E]: bool, and the joint policy's log-probability of the action |
    | action | [N, T, E] int64, or [N, T, E, A] float32 |
    | actor_memory, critic_memory, pm_memory | [N, T, E, M], [C, T, E, M], [K, T, E, P]: before the step |
    | value, final_value | [C, T, E]: of the state, and of the state that an episode was cut off at (elsewhere 0) |
    | last_value | [C, E]: of the state after the last step |
    | state, signal | [K, T, E, S], [K, T, E, Z] |
    | episode_start, reward, terminated, truncated | [K, T, E] |

    Values are normalised, as the critic gives them.
    """

    obs: Tensor
    mask: Tensor
    active: Tensor
    action: Tensor
    log_prob: Tensor
    actor_memory: Tensor
    critic_memory: Tensor
    pm_memory: Tensor
    value: Tensor
    final_value: Tensor
    last_value: Tensor
    state: Tensor
    signal: Tensor
    episode_start: Tensor
    reward: Tensor
    terminated: Tensor
    truncated: Tensor


class Batch(NamedTuple):
    """A rollout cut into chunks of L steps for an update: fields of `Rollout` as [., L, B, ...] with B chunks, the actors' and
    critics' memories of a chunk's first step [., 1, B, M], advantages and normalised returns [C, L, B]."""

    obs: Tensor
    mask: Tensor
    active: Tensor
    action: Tensor
    log_prob: Tensor
    actor_memory: Tensor
    critic_memory: Tensor
    pm_memory: Tensor
    value: Tensor
    state: Tensor
    signal: Tensor
    episode_start: Tensor
    advantage: Tensor
    returns: Tensor

    @classmethod
    def cut(cls, r: Rollout, advantage: Tensor, returns: Tensor, length: int) -> Batch:
        """Chunks of `length` steps, which must divide T. advantage, returns [C, T, E]."""
        arrays = (
            r.obs, r.mask, r.active, r.action, r.log_prob, r.actor_memory, r.critic_memory, r.pm_memory, r.value, r.state,
            r.signal, r.episode_start, advantage, returns,
        )  # fmt: skip
        cut = cls(*(chunks(array, length) for array in arrays))
        return cut._replace(actor_memory=cut.actor_memory[:, :1], critic_memory=cut.critic_memory[:, :1])

    def central(self) -> tuple[Tensor, Tensor, Tensor]:
        """What the Policy Modifier is given beside the actors' policies, L * B rows: state [K * L * B, S], signal
        [K * L * B, Z], and its memory before the step [K, L * B, P]."""
        return self.state.flatten(0, 2), self.signal.flatten(0, 2), self.pm_memory.flatten(1, 2)

    def part(self, part: Tensor | None, block: slice) -> Batch:
        """Some of each team's chunks; see `blocks.pick`."""
        return Batch(*(pick(array, part, block) for array in self))

    def all_alike(self) -> bool:
        """Whether all rows are alike in what the networks see, as in a matrix game."""
        seen = self.state, self.signal, self.obs, self.mask, self.actor_memory, self.critic_memory, self.pm_memory
        return all(bool((array == array[:, :, :1]).all()) for array in seen)

    def first(self) -> Batch:
        """The first chunk alone."""
        return Batch(*(array[:, :, :1] for array in self))


def collect(
    team: Team, critic: Critic, tasks: Sequence[Task], streams: Sequence[Stream], steps: int
) -> tuple[Rollout, list[dict[str, Tensor]]]:
    """Play on for `steps` steps (see `stream.play_on`). Returns the rollout, and the episodes that ended.

    Raises AgentMixerError naming environment and step if a task returned a number that is not finite or too large."""
    rollout = _room(team, critic, steps, sum(task.num_envs for task in tasks))
    finished = play_on(team, tasks, streams, steps, _Recorder(team, critic, rollout))
    check_numbers(rollout.obs, rollout.state, rollout.reward, team.spec)
    return rollout, finished


def _room(team: Team, critic: Critic, steps: int, envs: int) -> Rollout:
    """An empty rollout; `final_value` is zero."""
    spec, rows, critics, teams = team.spec, team.actor.body.agents, critic.critics, team.count

    def room(leading: int, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        return torch.empty((leading, steps, envs, *shape), dtype=dtype, device=team.device)

    return Rollout(
        obs=room(rows, max(spec.obs_sizes)),
        mask=room(rows, team.actions, dtype=torch.bool),
        active=room(rows, dtype=torch.bool),
        action=room(rows, dtype=torch.int64) if spec.discrete else room(rows, spec.action_size),
        log_prob=room(rows),
        actor_memory=room(rows, team.actor.body.memory),
        critic_memory=room(critics, critic.body.memory),
        pm_memory=room(teams, team.pm.memory),
        value=room(critics),
        final_value=room(critics).zero_(),
        last_value=torch.empty(critics, envs, device=team.device),
        state=room(teams, spec.state_size),
        signal=room(teams, team.signal),
        episode_start=room(teams),
        reward=room(teams),
        terminated=room(teams, dtype=torch.bool),
        truncated=room(teams, dtype=torch.bool),
    )


class _Recorder:
    """Fills a rollout, step by step."""

    def __init__(self, team: Team, critic: Critic, rollout: Rollout):
        self.team, self.critic, self.rollout = team, critic, rollout

    def decide(self, place: Place, seen: Seen, memory: dict[str, Tensor], noise: Tensor) -> Tensor:
        t, envs, r = *place, self.rollout
        action, log_prob, after = self.team.act_jointly(
            seen.obs, seen.state, seen.signal, seen.mask, memory, greedy=False, noise=noise
        )
        for kept, array in (
            (r.obs, seen.obs), (r.mask, seen.mask), (r.active, seen.active), (r.action, action), (r.log_prob, log_prob),
            (r.actor_memory, memory["actor"]), (r.critic_memory, memory["critic"]), (r.pm_memory, memory["pm"]),
        ):  # fmt: skip
            kept[:, t, envs] = array
        for kept, array in ((r.state, seen.state), (r.signal, seen.signal), (r.episode_start, seen.episode_start)):
            kept[:, t, envs] = array.unflatten(0, (self.team.count, envs.stop - envs.start))
        memory |= after
        return action

    def meanwhile(self, place: Place, seen: Seen, memory: dict[str, Tensor]) -> None:
        # The copy: the task is at work, and may be writing what comes next into the arrays that were seen.
        state = self.rollout.state[:, place.t, place.envs].flatten(0, 1)
        value, memory["critic"] = self.critic(state, memory["critic"])
        self.rollout.value[:, place.t, place.envs] = value

    def outcome(self, place: Place, seen: Seen, outcome: Outcome, memory: dict[str, Tensor]) -> None:
        t, envs, r = *place, self.rollout
        for kept, array in (
            (r.reward, outcome.reward), (r.terminated, outcome.terminated), (r.truncated, outcome.truncated),
        ):  # fmt: skip
            kept[:, t, envs] = array.view(self.team.count, -1)
        if outcome.lost is not None:
            lost = outcome.lost.view(self.team.count, -1).repeat_interleave(self.team.spec.num_agents, 0)
            r.active[:, t, envs] &= ~lost
        if outcome.truncated.any():
            final = to_torch(outcome.following.final_state, self.team.device)
            r.final_value[:, t, envs] = self.critic(final, memory["critic"])[0]

    def end(self, envs: slice, state: Tensor, memory: dict[str, Tensor]) -> None:
        self.rollout.last_value[:, envs] = self.critic(state, memory["critic"])[0]
