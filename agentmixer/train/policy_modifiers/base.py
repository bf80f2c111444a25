"""What every kind of Policy Modifier (PM) has in common (paper, eq. 5, Appendix A): all but how agents mix."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor

from agentmixer.train.stack import StackedLayerNorm, StackedLinear, StackedRunningNorm, affine
from agentmixer.train.team import Modifier


class PolicyModifier(Modifier, ABC):
    """One block over tokens X = [state ‖ policy ‖ actor features ‖ one-hot id], one token an agent.

    X ← X + mix(LN(X)) across agents, X ← X + W4 σ(W3 LN(X)) within each agent, then a head that starts near
    zero. Kinds differ in `mix`: its weights are learned (MixerPM), generated from the state (HyperPM) or
    computed from the tokens themselves (AttentionPM). σ is ReLU, the activation that Table 8 names.

    K teams train side by side, each with a PM of its own, N agents each. state [K * B, S + Z], the signal behind it; policy [K * N, B, P], the
    parameters of each actor's policy (for discrete actions its probabilities, because the logits of illegal actions
    would drown the others); features [K * N, B, H], the actors' features. The caller detaches what must not receive
    gradients. Returns [K * N, B, A], and the PM's memory after the step, [K, B, M]; these kinds have none (M = 0) and give back
    what they were given.

    norm: how the state is normalised: `layer` (LayerNorm) or `running` (moments of what was seen), as in `Body`.
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
    ):
        super().__init__()
        channels = 2 * width + features + agents
        self.agents, self.teams, self.state_size = agents, teams, state
        self.ids: Tensor
        self.register_buffer("ids", torch.eye(agents).unsqueeze(1), persistent=False)
        self.state_norm: StackedLayerNorm | StackedRunningNorm = (
            StackedRunningNorm(teams, state) if norm == "running" else StackedLayerNorm(teams, state)
        )
        self.state_encoder = StackedLinear(teams, state + signal, width)
        self.policy_encoder = StackedLinear(teams, policy, width)
        self.agent_norm = StackedLayerNorm(teams, channels)
        self.add_mixing(width, channels, agent_hidden)
        self.channel_norm = StackedLayerNorm(teams, channels)
        self.channel_in = StackedLinear(teams, channels, channel_hidden)
        self.channel_out = StackedLinear(teams, channel_hidden, channels, gain=1.0)
        self.head = StackedLinear(teams, channels, actions, gain=0.01)

    @abstractmethod
    def add_mixing(self, width: int, channels: int, hidden: int) -> None:
        """Add the layers of `mix`: width of the encoded state, channels C of a token, hidden width of mixing."""

    @abstractmethod
    def mix(self, x: Tensor, encoded: Tensor) -> Tensor:
        """What each agent takes from all. x [K, N, B, C], normalised tokens; encoded [K, B, width], the state
        -> [K, N, B, C].

        Agents meet here and nowhere else."""

    def tokens(self, encoded: Tensor, policy: Tensor, features: Tensor) -> Tensor:
        """encoded [K, B, width], policy [K * N, B, P], features [K * N, B, H] -> X [K, N, B, C]."""
        shape = (self.teams, self.agents, features.shape[1], -1)
        coded = self.policy_encoder(policy.reshape(self.teams, -1, policy.shape[-1])).relu()
        return torch.cat(
            [
                encoded.unsqueeze(1).expand(shape),
                coded.view(shape),
                features.view(shape),
                self.ids.expand(shape),
            ],
            dim=-1,
        )

    def encoded(self, state: Tensor) -> Tensor:
        """state [K, B, S + Z] -> [K, B, width]. The signal joins the state after the state's normalisation: normalised with it,
        a signal beside a state that never changes would keep little more than its sign."""
        own, signal = state[..., : self.state_size], state[..., self.state_size :]
        if not signal.shape[-1]:
            return self.state_norm.then(self.state_encoder, own).relu()
        return self.state_encoder(torch.cat([self.state_norm(own), signal], -1)).relu()

    def observe(self, state: Tensor) -> None:
        if isinstance(self.state_norm, StackedRunningNorm):
            self.state_norm.update(state)

    def forward(
        self, state: Tensor, policy: Tensor, features: Tensor, memory: Tensor | None = None
    ) -> tuple[Tensor, Tensor | None]:
        direct, inner = self.halves(state, policy, features)
        return self.whole(direct, inner, self.short()).view(*features.shape[:2], -1), memory

    def halves(self, state: Tensor, policy: Tensor, features: Tensor) -> tuple[Tensor, Tensor]:
        """What the output consists of: the head of X after mixing [K, N * B, A], and the hidden layer of channel mixing before its
        activation, [K, N * B, hidden]."""
        rows = (self.teams, self.agents * features.shape[1], -1)
        encoded = self.encoded(state.reshape(self.teams, -1, state.shape[-1]))
        x = self.tokens(encoded, policy, features)
        x = (x + self.mix(self.agent_norm(x.view(rows)).view_as(x), encoded)).view(rows)
        return affine(x, self.head.weight, self.head.bias), self.channel_in(self.channel_norm(x))

    @staticmethod
    def whole(direct: Tensor, inner: Tensor, short: Tensor) -> Tensor:
        """The output of both halves, [K, ., A]: head(x + channel_out(relu(inner))). short: what `short` gives."""
        return direct + affine(inner.relu(), short[:, :-1], short[:, -1])

    def short(self) -> Tensor:
        """The weights of one linear map that does what channel_out and then head do, [K, hidden + 1, A]. The last row is its bias."""
        out = self.channel_out
        return torch.bmm(torch.cat([out.weight, out.bias.unsqueeze(1)], 1), self.head.weight)
