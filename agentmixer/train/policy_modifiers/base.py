"""What every kind of Policy Modifier (PM) has in common (paper, eq. 5, Appendix A): all but how agents mix."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def linear(inputs: int, outputs: int, gain: float = math.sqrt(2)) -> nn.Linear:
    """An affine map with orthogonal weights of the given gain and zero bias."""
    layer = nn.Linear(inputs, outputs)
    nn.init.orthogonal_(layer.weight, gain)
    nn.init.zeros_(layer.bias)
    return layer


class PolicyModifier(nn.Module, ABC):
    """One block over tokens X = [state ‖ policy ‖ actor features ‖ one-hot id], one token an agent.

    X ← X + mix(LN(X)) across agents, X ← X + W4 σ(W3 LN(X)) within each agent, then a head that starts near
    zero. Kinds differ in `mix`: its weights are learned (MixerPM), generated from the state (HyperPM) or
    computed from the tokens themselves (AttentionPM).

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
        self.state_encoder = linear(state, width)
        self.policy_encoder = linear(policy, width)
        self.agent_norm = nn.LayerNorm(channels)
        self.add_mixing(width, channels, agent_hidden)
        self.channel_norm = nn.LayerNorm(channels)
        self.channel_in = linear(channels, channel_hidden)
        self.channel_out = linear(channel_hidden, channels, gain=1.0)
        self.head = linear(channels, actions, gain=0.01)

    @abstractmethod
    def add_mixing(self, width: int, channels: int, hidden: int) -> None:
        """Add the layers of `mix`: width of the encoded state, channels C of a token, hidden width of mixing."""

    @abstractmethod
    def mix(self, x: Tensor, encoded: Tensor) -> Tensor:
        """What each agent takes from all. x [N, B, C], normalised tokens; encoded [B, width], the state -> [N, B, C].

        Agents meet here and nowhere else."""

    def tokens(self, encoded: Tensor, policy: Tensor, features: Tensor) -> Tensor:
        """encoded [B, width], policy [N, B, P], features [N, B, H] -> X [N, B, C]."""
        agents, batch = features.shape[:2]
        ids = torch.eye(agents, dtype=features.dtype, device=features.device)
        return torch.cat(
            [
                encoded.expand(agents, *encoded.shape),
                torch.relu(self.policy_encoder(policy)),
                features,
                ids.unsqueeze(1).expand(agents, batch, agents),
            ],
            dim=-1,
        )

    def forward(self, state: Tensor, policy: Tensor, features: Tensor) -> Tensor:
        encoded = torch.relu(self.state_encoder(self.state_norm(state)))
        x = self.tokens(encoded, policy, features)
        x = x + self.mix(self.agent_norm(x), encoded)
        x = x + self.channel_out(F.gelu(self.channel_in(self.channel_norm(x))))
        return self.head(x)
