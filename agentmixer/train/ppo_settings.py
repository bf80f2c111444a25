"""Settings of PPO for a team, which several algorithms share and add to."""

from __future__ import annotations

from collections.abc import Collection
from typing import Annotated, Self

import msgspec
from msgspec import Meta

from agentmixer.config import NonNegative, PositiveInt, Share, StepSize, about
from agentmixer.errors import AgentMixerError
from agentmixer.train import blocks
from agentmixer.train.settings import AlgorithmSettings, RunSettings, TeamSettings


class PPOSettings(AlgorithmSettings, frozen=True):
    """PPO for a team, whatever makes its joint policy."""

    epochs: Annotated[PositiveInt, about("passes over each rollout")] = 4
    minibatches: Annotated[PositiveInt, about("parts a pass is cut into; fewer where chunks are few, unless given")] = 4
    chunk_length: Annotated[
        PositiveInt, about("steps that gradients flow back through the GRU; fewer to fit a rollout, unless given")
    ] = 16
    actor_lr: Annotated[StepSize, about("Adam's step size, actors")] = 7e-4
    critic_lr: Annotated[StepSize, about("Adam's step size, critics")] = 7e-4
    lr_decay: Annotated[bool, about("let all step sizes fall linearly to zero over total_steps")] = True
    adam_eps: Annotated[Share, about("Adam's epsilon")] = 1e-5
    max_grad_norm: Annotated[NonNegative, about("gradient norm of each network is clipped here")] = 10.0
    clip: Annotated[float, Meta(ge=0.0, le=10.0), about("PPO's clipping of the probability ratio")] = 0.2
    gamma: Annotated[Share, about("discount")] = 0.99
    gae_lambda: Annotated[Share, about("GAE's lambda")] = 0.95
    entropy_coef: Annotated[NonNegative, about("weight of the joint policy's entropy")] = 0.01
    huber_delta: Annotated[
        float, Meta(ge=1e-6), about("where the value loss turns from square to linear, in standard deviations")
    ] = 10.0
    team_critic: Annotated[bool, about("one critic for the team instead of one an agent")] = True
    recurrent_critic: Annotated[bool, about("give critics a GRU of their own")] = False

    def fitted(self, team: TeamSettings, run: RunSettings, given: Collection[str]) -> Self:
        size = run.rollout_length, run.num_envs
        length, parts = blocks.fitting_chunks(*size, self.chunk_length, self.minibatches, given)
        return msgspec.structs.replace(self, chunk_length=length, minibatches=parts)

    def check(self, team: TeamSettings, run: RunSettings) -> None:
        if run.rollout_length % self.chunk_length:
            raise AgentMixerError(
                f"chunk_length {self.chunk_length} does not divide rollout_length {run.rollout_length}; "
                "gradients flow through whole chunks only"
            )
        chunks = run.num_envs * run.rollout_length // self.chunk_length
        if self.minibatches > chunks:
            raise AgentMixerError(
                f"minibatches is {self.minibatches}, but a rollout has only {chunks} chunks; raise num_envs or rollout_length"
            )
