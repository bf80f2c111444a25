"""What an off-policy algorithm stores: transitions, and how they are collected."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from agentmixer.tasks.base import Task, to_torch
from agentmixer.train.stream import Outcome, Place, Seen, Stream, check_numbers, play_on
from agentmixer.train.team import Team


def collect(
    team: Team, tasks: Sequence[Task], streams: Sequence[Stream], steps: int, recorder: Recorder | None = None
) -> tuple[dict[str, Tensor], list[dict[str, Tensor]]]:
    """Play on for T `steps` (see `stream.play_on`); one team.

    Returns transitions: obs [N,T,E,D], state [T,E,S], mask [N,T,E,A] and active [N,T,E], the same as next_obs
    and so on, action [N,T,E] or [N,T,E,A] within [-1, 1], reward, terminated, truncated [T,E]; and the episodes
    that ended.

    What follows an episode's last step is what it ended with. Its mask is not known, nor who could still act:
    next_mask is the next episode's, next_active as before the step.

    recorder: one that records more than that.

    Raises AgentMixerError naming environment and step if a task returned a number that is not finite or too large."""
    recorder = recorder or Recorder(team)
    finished = play_on(team, tasks, streams, steps, recorder)
    out = recorder.transitions()
    for obs, state in (("obs", "state"), ("next_obs", "next_state")):
        check_numbers(out[obs], out[state].unsqueeze(0), out["reward"].unsqueeze(0), team.spec)
    return out, finished


class Recorder:
    """The transitions of one rollout, a row a step; a task's environments beside the others'."""

    def __init__(self, team: Team):
        self.team = team
        self.rows: list[dict[int, dict[str, Tensor]]] = []

    def decide(self, place: Place, seen: Seen, memory: dict[str, Tensor], noise: Tensor) -> Tensor:
        if len(self.rows) == place.t:
            self.rows.append({})
        action, _, after = self.team.act_jointly(
            seen.obs, seen.state, seen.signal, seen.mask, memory, greedy=False, noise=noise
        )
        memory |= after
        # A task may reuse its arrays.
        self.rows[place.t][place.envs.start] = {
            "obs": seen.obs.clone(),
            "state": seen.state.clone(),
            "mask": seen.mask.clone(),
            "active": seen.active.clone(),
            "action": action if self.team.spec.discrete else action.clamp(-1.0, 1.0),
        }
        return action

    def meanwhile(self, place: Place, seen: Seen, memory: dict[str, Tensor]) -> None:
        """Critics learn from the replay; there is nothing to ask them here."""

    def outcome(self, place: Place, seen: Seen, outcome: Outcome, memory: dict[str, Tensor]) -> None:
        row, following = self.rows[place.t][place.envs.start], outcome.following
        device, ended = self.team.device, outcome.terminated | outcome.truncated
        if outcome.lost is not None:
            row["active"] &= ~outcome.lost
        row |= {
            "next_obs": to_torch(following.final_obs, device).clone(),
            "next_state": to_torch(following.final_state, device).clone(),
            "next_mask": to_torch(following.action_mask, device).clone(),
            "next_active": torch.where(ended, row["active"], to_torch(following.active, device)),
            "reward": outcome.reward.clone(),
            "terminated": outcome.terminated.clone(),
            "truncated": outcome.truncated.clone(),
        }

    def end(self, envs: slice, state: Tensor, memory: dict[str, Tensor]) -> None:
        """The last transition says what came after it."""

    def transitions(self) -> dict[str, Tensor]:
        """All steps of all environments, as `collect` returns them."""
        names = self.rows[0][0]
        steps = [
            {name: torch.cat([lane[name] for lane in lanes.values()], env_axis(name)) for name in names}
            for lanes in self.rows
        ]
        return {name: torch.stack([step[name] for step in steps], env_axis(name)) for name in names}


def fields(team: Team) -> list[tuple[str, Any, tuple[int, ...]]]:
    """What the replay holds of a transition: name, element type and shape."""
    spec, agents = team.spec, team.spec.num_agents
    looks: list[tuple[str, Any, tuple[int, ...]]] = [
        ("obs", np.float32, (agents, max(spec.obs_sizes))),
        ("state", np.float32, (spec.state_size,)),
        ("mask", np.bool_, (agents, team.actions)),
        ("active", np.bool_, (agents,)),
    ]
    action = (np.int32, (agents,)) if spec.discrete else (np.float32, (agents, team.actions))
    after: list[tuple[str, Any, tuple[int, ...]]] = [("reward", np.float32, ())]
    after += [(name, np.bool_, ()) for name in ("terminated", "truncated")]
    return [*looks, *((f"next_{name}", kind, shape) for name, kind, shape in looks), ("action", *action), *after]


def env_axis(name: str) -> int:
    """Where environments (or transitions drawn) stand among a field's dimensions: behind agents, if it has any."""
    return 1 if name.removeprefix("next_") in ("obs", "mask", "active", "action", "memory") else 0
