"""What everything outside an algorithm uses of it: the loop, evaluation, checkpoints, export, the rehearsal."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor, nn

from agentmixer.contract.spec import TaskSpec
from agentmixer.tasks.base import Task
from agentmixer.train.joint_policy import JointPolicy
from agentmixer.train.networks import Actor
from agentmixer.train.replay import Replay

if TYPE_CHECKING:
    from agentmixer.train.rollout import Stream


class Algorithm(Protocol):
    """A team and how it learns. Shapes are those of `AgentMixerPPO`.

    `Config` is the class of its settings; they include total_steps, num_envs, rollout_length, actor_lr, signal and
    those of evaluation and checkpoints. `modules` and `optimisers` are what a checkpoint holds."""

    Config: type[Any]
    spec: TaskSpec
    config: Any
    device: str
    generator: torch.Generator
    actor: Actor
    joint_policy: JointPolicy
    modules: dict[str, nn.Module]
    optimisers: dict[str, Any]

    def __init__(self, spec: TaskSpec, config: Any, device: str, generator: torch.Generator): ...

    @property
    def replay(self) -> Replay | None:
        """Transitions kept beside the checkpoints, if the algorithm keeps any."""
        ...

    def initial_memory(self, num_envs: int) -> dict[str, Tensor]:
        """What is carried from step to step; `actor` [N, E, M] and `signal` [E, Z] are always there."""
        ...

    def next_signal(self, signal: Tensor, fresh: Tensor) -> Tensor:
        """The shared random vector of the coming step, [E, Z]."""
        ...

    def joint(self, state: Tensor, signal: Tensor, policy: Tensor, features: Tensor, mask: Tensor) -> Any:
        """The joint policy from the actors' policies."""
        ...

    def act_joint(
        self, obs: Tensor, state: Tensor, signal: Tensor, mask: Tensor, h: Tensor, greedy: bool
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Actions, their joint log-probabilities and the actors' next memory."""
        ...

    def act_decentralised(self, obs: Tensor, mask: Tensor, h: Tensor, greedy: bool) -> tuple[Tensor, Tensor]:
        """Actions from the actors alone, and their next memory."""
        ...

    def to_task(self, action: Tensor) -> Tensor:
        """Actions as the task takes them."""
        ...

    def schedule(self, progress: float) -> None:
        """Set what changes along a run. progress: share of total_steps done, [0, 1]."""
        ...

    def collect(self, task: Task, stream: Stream) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Act for rollout_length steps: experience for `update`, and return and won of the episodes that ended."""
        ...

    def update(self, rollout: dict[str, Tensor]) -> dict[str, float]:
        """Learn from what `collect` gave. Returns numbers to log."""
        ...
