"""A team's matrices as 8-bit whole numbers, and whether the team still decides and earns what it did.

Weights alone: every matrix is int8 with one scale an output, and is multiplied out before the product. Activations stay float32, because a
value near the middle of two steps would be rounded up on one processor and down on another, and golden traces would not repeat.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from agentmixer import intervals
from agentmixer.contract.results import Check, Report, judged
from agentmixer.contract.spec import Box, TaskSpec
from agentmixer.tasks import Task
from agentmixer.tasks.base import to_torch
from agentmixer.train.evaluate import evaluate, longest_episode
from agentmixer.train.settings import RunSettings
from agentmixer.train.stack import StackedLinear
from agentmixer.train.team import Team

#: The greatest whole number of a weight; the least is its negative.
GREATEST = 127
#: Least share of equal decisions. Real values count as equal within 1 % of their range.
AGREEMENT, NEAR = 0.99, 0.01
#: The episodes are those of no training, no evaluation and no golden trace.
SEED = 5_000_011
#: Environment steps that decisions are compared on.
STEPS = 16384
#: Episodes that returns are compared on, where they are won or lost; the run's `final_episodes` elsewhere.
WIN_EPISODES = 2000


@dataclass(frozen=True, kw_only=True)
class QuantizationReport(Report):
    """What int8 costs a team. agreement: share of equal decisions, [0, 1], of `decisions`; measure: win_rate or return, of the
    team as trained and with int8, and the difference of paired episodes with its 90 % interval."""

    agreement: float
    decisions: int
    measure: str
    trained: float
    quantized: float
    difference: dict[str, float | None]
    margin: float
    episodes: int


def scales(weight: Tensor, inputs: int) -> Tensor:
    """What each output's whole numbers are multiplied by: its greatest weight becomes GREATEST. inputs: the dimension of the inputs."""
    scale = weight.abs().amax(inputs, keepdim=True) / GREATEST
    return torch.where(scale > 0, scale, 1.0)


@torch.no_grad()
def quantize(team: Team) -> None:
    """Round every matrix of the actors to the values that int8 can hold."""
    body = team.actor.body
    weights = [layer.weight for layer in (*body.linears, team.actor.head) if isinstance(layer, StackedLinear)]
    if body.gru is not None:
        weights += [body.gru.input.weight, body.gru.hidden.weight]
    if body.stack > 1:  # what pads an observation has no part in a scale
        for own, size in zip(weights[0], team.spec.obs_sizes, strict=True):
            own[size:] = 0
    for weight in weights:
        scale = scales(weight, 1)
        weight.copy_((weight / scale).round() * scale)


def judge(
    team: Team, trained: Team, task: Task, run: RunSettings, progress: Callable[[str], None] = lambda _: None
) -> QuantizationReport:
    """Hold a quantised team against the team as it was trained, both alone and greedy.

    Raises nothing for a team that does not hold: that is in the report."""
    spec = task.spec
    equal, decisions = _agreement(team, trained, task, progress)
    episodes, longest = (
        WIN_EPISODES if spec.reports_wins else run.final_episodes,
        longest_episode(spec, run.judge_limit),
    )
    ours, theirs = (
        evaluate(chosen, task, episodes, SEED, longest=longest, progress=progress) for chosen in (team, trained)
    )
    a, b = (played.won.astype(float) if spec.reports_wins else played.returns for played in (ours, theirs))
    margin = intervals.MARGIN * (1.0 if spec.reports_wins else abs(float(b.mean())))
    gap = intervals.paired(a, b, 0.9)
    within = gap.low is not None and gap.high is not None and -margin <= gap.low and gap.high <= margin
    share, measure = equal / decisions, "win_rate" if spec.reports_wins else "return"
    what = measure.replace("_", " ")
    checks = (
        Check(
            name="agreement",
            status=judged(share >= AGREEMENT),
            sentence=f"{equal:,} of {decisions:,} decisions are the trained team's ({share:.2%}; {AGREEMENT:.0%} is asked)",
        ),
        Check(
            name=what,
            status=judged(within),
            sentence=f"int8 - trained {gap.told('+.3g')}, 90 % interval over {episodes:,} pairs of episodes, "
            f"{'within' if within else 'not shown to be within'} ±{margin:.3g}",
        ),
    )
    return QuantizationReport(
        bundle="", checks=checks, agreement=share, decisions=decisions, measure=measure, trained=float(b.mean()),
        quantized=float(a.mean()), difference=gap._asdict(), margin=margin, episodes=episodes,
    )  # fmt: skip


@torch.no_grad()
def _agreement(team: Team, trained: Team, task: Task, progress: Callable[[str], None]) -> tuple[int, int]:
    """How many decisions of agents that live are the same for both, and of how many. Both see what the quantised team comes to see."""
    spec, envs = task.spec, task.num_envs
    seen, memory, shadow = task.reset(SEED, np.arange(envs)), team.memory(envs)["actor"], trained.memory(envs)["actor"]
    equal = decisions = 0
    steps = max(1, STEPS // envs)
    for t in range(steps):
        progress(f"comparing decisions, step {t + 1} of {steps}")
        obs, mask = to_torch(seen.obs), to_torch(seen.action_mask)
        action, memory = team.act_alone(obs, mask, memory, greedy=True)
        other, shadow = trained.act_alone(obs, mask, shadow, greedy=True)
        action, other, active = team.to_task(action), trained.to_task(other), np.asarray(seen.active)
        same = _same(spec, action.numpy(), other.numpy())
        equal, decisions = equal + int((same & active).sum()), decisions + int(active.sum())
        seen = task.step(action)
        kept = 1.0 - torch.from_numpy(np.asarray(seen.terminated) | np.asarray(seen.truncated)).float().view(1, envs, 1)
        memory, shadow = memory * kept, shadow * kept
    return equal, decisions


def _same(spec: TaskSpec, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Which decisions are equal, [N, E]: whole numbers exactly, real values within NEAR of their range. a, b [N, E] or [N, E, W]."""
    if spec.discrete:
        return a == b
    same = np.zeros(a.shape[:2], bool)
    for i, space in enumerate(spec.action_spaces):
        room: np.ndarray | float = 0.0
        if isinstance(space, Box) and not space.whole:
            room = NEAR * (np.asarray(space.high, np.float32) - np.asarray(space.low, np.float32))
        same[i] = (np.abs(a[i, :, : space.size] - b[i, :, : space.size]) <= room).all(-1)
    return same
