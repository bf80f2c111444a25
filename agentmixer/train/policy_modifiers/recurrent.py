"""The Policy Modifier as the authors' code builds it: a mixer over encoded tokens, with a memory of the states."""

from __future__ import annotations

import torch
from torch import Tensor

from agentmixer.train.networks import Body
from agentmixer.train.stack import StackedLayerNorm, StackedLinear
from agentmixer.train.team import Modifier


class RecurrentPM(Modifier):
    """What `MixerPM` takes from the paper's text, with what the text leaves out and the authors' code has: the state passes an MLP
    and a GRU, each agent's token is encoded to `width` numbers before agents mix, and a LayerNorm follows every hidden
    layer.

    token = LN(ReLU(W [state features ‖ signal ‖ LN(ReLU(W policy)) ‖ actor features ‖ one-hot id])); then
    X ← X + W2 LN(ReLU(W1 LN(X))) across agents, X ← X + W4 LN(ReLU(W3 LN(X))) within each agent, and a head over LN(X)
    that starts near zero.

    Shapes as in `PolicyModifier`, but the memory M is `width`. Gradients do not flow back through the memory: a step is learned
    from the memory that was recorded before it, as the authors do with chunks of one step. The policy is read as probabilities;
    the authors' code reads logits, in which those of illegal actions, -1e10, drown the others.
    """

    def __init__(
        self,
        agents: int,
        state: int,
        policy: int,
        features: int,
        actions: int,
        width: int,
        agent_hidden: int,
        channel_hidden: int,
        teams: int = 1,
        signal: int = 0,
        norm: str = "layer",
        layers: int = 1,
    ):
        super().__init__()
        self.agents, self.teams, self.state_size, self.memory = agents, teams, state, width
        self.state_encoder = Body(1, False, state, width, layers, True, norm, teams=teams)
        self.policy_encoder = StackedLinear(teams, policy, width)
        self.policy_norm = StackedLayerNorm(teams, width)
        self.token_encoder = StackedLinear(teams, 2 * width + signal + features + agents, width)
        self.token_norm = StackedLayerNorm(teams, width)
        self.agent_norm = StackedLayerNorm(teams, width)
        self.agent_in = StackedLinear(teams, agents, agent_hidden)
        self.agent_hidden_norm = StackedLayerNorm(teams, agent_hidden)
        self.agent_out = StackedLinear(teams, agent_hidden, agents)
        self.channel_norm = StackedLayerNorm(teams, width)
        self.channel_in = StackedLinear(teams, width, channel_hidden)
        self.channel_hidden_norm = StackedLayerNorm(teams, channel_hidden)
        self.channel_out = StackedLinear(teams, channel_hidden, width)
        self.last_norm = StackedLayerNorm(teams, width)
        self.head = StackedLinear(teams, width, actions, gain=0.01)

    def observe(self, state: Tensor) -> None:
        self.state_encoder.observe(state)

    def forward(
        self, state: Tensor, policy: Tensor, features: Tensor, memory: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        teams, agents, batch = self.teams, self.agents, features.shape[1]
        seen = state.reshape(teams, batch, -1)
        if memory is None:
            memory = seen.new_zeros(teams, batch, self.memory)
        encoded, memory = self.state_encoder(seen[..., : self.state_size], memory)
        shared = torch.cat([encoded, seen[..., self.state_size :]], -1).unsqueeze(1).expand(-1, agents, -1, -1)
        coded = self.policy_norm(self.policy_encoder(policy.reshape(teams, agents * batch, -1)).relu_())
        own = (array.reshape(teams, agents, batch, -1) for array in (coded, features))
        ids = torch.eye(agents, dtype=features.dtype, device=features.device).view(1, agents, 1, agents)
        tokens = torch.cat([shared, *own, ids.expand(teams, -1, batch, -1)], -1).flatten(1, 2)
        x = self.token_norm(self.token_encoder(tokens).relu_())
        across = self.agent_norm(x).view(teams, agents, -1).transpose(1, 2)  # [K, B * width, N]
        hidden = self.agent_hidden_norm(self.agent_in(across).relu_())
        x = x + self.agent_out(hidden).transpose(1, 2).reshape(x.shape)
        x = x + self.channel_out(self.channel_hidden_norm(self.channel_in(self.channel_norm(x)).relu_()))
        return self.head(self.last_norm(x)).view(*features.shape[:2], -1), memory
