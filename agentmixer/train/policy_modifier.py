"""The Policy Modifier (PM): an MLP-Mixer over agents and the global state (paper, eq. 5, Appendix A)."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def _linear(inputs: int, outputs: int, gain: float = math.sqrt(2)) -> nn.Linear:
    layer = nn.Linear(inputs, outputs)
    nn.init.orthogonal_(layer.weight, gain)
    nn.init.zeros_(layer.bias)
    return layer


class MixerPM(nn.Module):
    """One agent-mixing and one channel-mixing MLP over X = [state ‖ policy ‖ actor features ‖ one-hot id].

    state [B, S]; policy [N, B, P], the parameters of each actor's policy (for discrete actions its
    probabilities, because the logits of illegal actions would drown the others); features [N, B, H],
    the actors' features. The caller detaches what must not receive gradients. Returns [N, B, A].
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
    ):
        super().__init__()
        channels = 2 * width + features + agents
        self.agents = agents
        self.state_norm = nn.LayerNorm(state)
        self.state_encoder = _linear(state, width)
        self.policy_encoder = _linear(policy, width)
        self.agent_norm = nn.LayerNorm(channels)
        self.agent_in = _linear(agents, agent_hidden)
        self.agent_out = _linear(agent_hidden, agents, gain=1.0)
        self.channel_norm = nn.LayerNorm(channels)
        self.channel_in = _linear(channels, channel_hidden)
        self.channel_out = _linear(channel_hidden, channels, gain=1.0)
        self.head = _linear(channels, actions, gain=0.01)

    def forward(self, state: Tensor, policy: Tensor, features: Tensor) -> Tensor:
        agents, batch = features.shape[:2]
        encoded = torch.relu(self.state_encoder(self.state_norm(state)))
        ids = torch.eye(agents, dtype=state.dtype, device=state.device)
        x = torch.cat(
            [
                encoded.expand(agents, *encoded.shape),
                torch.relu(self.policy_encoder(policy)),
                features,
                ids.unsqueeze(1).expand(agents, batch, agents),
            ],
            dim=-1,
        )
        # Agents lead, so mixing across them is a plain product with everything else flattened.
        y = torch.addmm(self.agent_in.bias.unsqueeze(1), self.agent_in.weight, self.agent_norm(x).view(agents, -1))
        y = torch.addmm(self.agent_out.bias.unsqueeze(1), self.agent_out.weight, F.gelu(y))
        x = x + y.view_as(x)
        x = x + self.channel_out(F.gelu(self.channel_in(self.channel_norm(x))))
        return self.head(x)
