"""What a recurrent off-policy algorithm stores: sequences of T steps, with the memory that actors had before the first."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from agentmixer.tasks.base import Task
from agentmixer.train import transitions
from agentmixer.train.replay import Replay
from agentmixer.train.stream import Outcome, Place, Seen, Stream
from agentmixer.train.team import Team


def memory(team: Team, num_envs: int) -> dict[str, Tensor]:
    """Nothing remembered yet, and nothing earned in the running episode: [1, E, 1]."""
    return team.memory(num_envs) | {"earned": torch.zeros(1, num_envs, 1, device=team.device)}


def collect(
    team: Team, tasks: Sequence[Task], streams: Sequence[Stream], steps: int
) -> tuple[dict[str, Tensor], list[dict[str, Tensor]]]:
    """Play on for T `steps`. Returns what `transitions.collect` does, and beside it of every step

    - signal [T, E, Z], episode_start [T, E] bool, and memory [N, T, E, M], the actors' before the step;
    - known [T, E] bool, whether it is known what the step led to. It is not where an environment failed, nor where an episode
      was cut off in a task that masks actions: which actions the last observation would have allowed is not told;
    - returned [T, E], the return of the episode that ended in the step, nan where none did."""
    return transitions.collect(team, tasks, streams, steps, _Recorder(team))


class _Recorder(transitions.Recorder):
    """Transitions with their place in an episode."""

    def decide(self, place: Place, seen: Seen, memory: dict[str, Tensor], noise: Tensor) -> Tensor:
        before = {"signal": seen.signal, "episode_start": seen.episode_start > 0, "memory": memory["actor"]}
        action = super().decide(place, seen, memory, noise)
        self.rows[place.t][place.envs.start] |= before
        return action

    def outcome(self, place: Place, seen: Seen, outcome: Outcome, memory: dict[str, Tensor]) -> None:
        super().outcome(place, seen, outcome, memory)
        row = self.rows[place.t][place.envs.start]
        earned = memory["earned"][0, :, 0] + row["reward"]
        memory["earned"] = earned.view(1, -1, 1)
        ended, known = row["terminated"] | row["truncated"], torch.ones_like(row["terminated"])
        if self.team.spec.has_action_mask:
            known = row["terminated"] | ~row["truncated"]
        if outcome.lost is not None:
            known, ended = known & ~outcome.lost, ended & ~outcome.lost
        row |= {"known": known, "returned": torch.where(ended, earned, torch.nan)}


def fields(team: Team, steps: int) -> list[tuple[str, Any, tuple[int, ...]]]:
    """What the replay holds of a sequence of T `steps`: name, element type and shape."""
    each = [(name, kind, (steps, *shape)) for name, kind, shape in transitions.fields(team) if name != "truncated"]
    each += [("signal", np.float32, (steps, team.signal))]
    each += [(name, np.bool_, (steps,)) for name in ("episode_start", "known")]
    return [*each, ("memory", np.float32, (team.spec.num_agents, team.actor.body.memory))]


def remember(replay: Replay, collected: dict[str, Tensor]) -> None:
    """Put what `collect` gave into the replay, a sequence an environment."""
    rows = np.empty(collected["reward"].shape[1], replay.record)
    for name, _, _ in replay.fields:
        array = collected[name][:, 0] if name == "memory" else collected[name]
        rows[name] = _turned(name, array).cpu().numpy()
    replay.add(rows)


def draw(replay: Replay, count: int, team: Team) -> dict[str, Tensor]:
    """B sequences drawn evenly: obs [N, T, B, D], state [T, B, S], memory [N, B, M] and so on."""
    rows = replay.sample(count, team.generators[0])
    batch = {
        name: _turned(name, torch.from_numpy(rows[name].copy())).contiguous().to(team.device)
        for name, _, _ in replay.fields
    }
    return batch | {"action": batch["action"].long()}


def _turned(name: str, array: Tensor) -> Tensor:
    """From the place of agents, steps and environments in a batch to that in records, or back: the order is reversed."""
    return array.transpose(0, 2 if transitions.env_axis(name) and name != "memory" else 1)
