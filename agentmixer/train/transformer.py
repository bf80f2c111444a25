"""The Multi-Agent Transformer's networks (Wen et al. 2022, arXiv 2205.14953): agents are tokens.

The encoder attends over all agents' observations and gives each agent's representation and value. The decoder gives agent i's
policy from the representations of agents 0 .. i and the actions of agents 0 .. i - 1.

Shapes: N agents, B rows, D observation, A actions or action elements, H hidden. One team at a time.
"""

from __future__ import annotations

from typing import Annotated

import torch
from msgspec import Meta
from torch import Tensor, nn
from torch.nn import functional as F

from agentmixer.config import about
from agentmixer.errors import AgentMixerError
from agentmixer.train.networks import Actor, Body, Critic
from agentmixer.train.settings import TeamSettings
from agentmixer.train.stack import StackedLayerNorm, StackedLinear

Few = Annotated[int, Meta(ge=1, le=16)]


class TransformerSettings(TeamSettings, frozen=True):
    """A team with a transformer, whose width is `hidden`."""

    blocks: Annotated[Few, about("transformer blocks of the encoder, and of the decoder")] = 1
    heads: Annotated[Few, about("attention heads of each block; they divide hidden")] = 1

    def check(self) -> None:
        super().check()
        if self.hidden % self.heads:
            raise AgentMixerError(f"heads is {self.heads}, which does not divide hidden, {self.hidden}")


def linear(inputs: int, outputs: int, gain: float = 1.0) -> nn.Linear:
    """An affine map with orthogonal weights of the given gain, zero bias."""
    layer = nn.Linear(inputs, outputs)
    nn.init.orthogonal_(layer.weight, gain)
    nn.init.zeros_(layer.bias)
    return layer


class Attention(nn.Module):
    """W_O softmax(Q Kᵀ / √d) V in each of several heads (Vaswani et al. 2017). query, key [B, N, H] -> [B, N, H].

    causal: token i attends to tokens 0 .. i alone. Values are those of `key`."""

    def __init__(self, hidden: int, heads: int, causal: bool):
        super().__init__()
        self.heads, self.causal = heads, causal
        self.query, self.key, self.value, self.out = (linear(hidden, hidden) for _ in range(4))

    def forward(self, query: Tensor, key: Tensor) -> Tensor:
        q, k, v = (
            layer(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)  # [B, heads, N, H / heads]
            for layer, x in ((self.query, query), (self.key, key), (self.value, key))
        )
        y = F.scaled_dot_product_attention(q, k, v, is_causal=self.causal)
        return self.out(y.transpose(1, 2).flatten(2))


class Block(nn.Module):
    """One block of the encoder, x [B, N, H] -> [B, N, H], or of the decoder, which is also given the encoder's `seen` [B, N, H].

    x ← LN(x + attention(x)); in the decoder x ← LN(seen + attention from `seen` to x); x ← LN(x + W₂ GELU(W₁ x)). The
    decoder's attention is causal. As in the authors' code, the representations are the queries of the decoder's second
    attention, and the actions so far its keys and values."""

    def __init__(self, hidden: int, heads: int, decoder: bool = False):
        super().__init__()
        self.attention, self.norm = Attention(hidden, heads, decoder), nn.LayerNorm(hidden)
        self.cross = Attention(hidden, heads, True) if decoder else None
        self.cross_norm = nn.LayerNorm(hidden) if decoder else None
        self.mlp, self.last_norm = (
            nn.Sequential(linear(hidden, hidden, 2**0.5), nn.GELU(), linear(hidden, hidden)), nn.LayerNorm(hidden)
        )  # fmt: skip

    def forward(self, x: Tensor, seen: Tensor | None = None) -> Tensor:
        x = self.norm(x + self.attention(x, x))
        if self.cross is not None and self.cross_norm is not None and seen is not None:
            x = self.cross_norm(seen + self.cross(seen, x))
        return self.last_norm(x + self.mlp(x))


class EncoderBody(Body):
    """A `Body` without memory whose features pass transformer blocks, in which agents see each other. Agents are told apart as in
    `Body`: each embeds its observation by itself, or all share one embedding and have a bias each."""

    def __init__(self, agents: int, obs: int, settings: TransformerSettings, sizes: tuple[int, ...] | None):
        shared, hidden, layers = settings.share_parameters, settings.hidden, settings.layers
        super().__init__(agents, shared, obs, hidden, layers, False, settings.input_norm, sizes)
        self.blocks = nn.ModuleList(Block(hidden, settings.heads) for _ in range(settings.blocks))

    def embed(self, x: Tensor) -> Tensor:
        y = super().embed(x).transpose(0, 1)
        for block in self.blocks:
            y = block(y)
        return y.transpose(0, 1)


class Encoder(Critic):
    """Representations and values of all agents, from all agents' observations: C = N critics, whose state [1, B, N * D] is
    these observations, one after the other.

    sizes: each agent's own number of inputs where agents have embeddings of their own, None where they share one."""

    networks = 1

    def __init__(self, agents: int, obs: int, settings: TransformerSettings, sizes: tuple[int, ...] | None):
        nn.Module.__init__(self)
        self.teams, self.critics = 1, agents
        self.body = EncoderBody(agents, obs, settings, sizes)
        self.head_in, self.head_norm = (
            StackedLinear(1, settings.hidden, settings.hidden),
            StackedLayerNorm(1, settings.hidden),
        )
        self.head = StackedLinear(1, settings.hidden, 1, gain=1.0)

    def inputs(self, state: Tensor) -> Tensor:
        """[1, ..., N * D] -> [N, ..., D]."""
        return state[0].unflatten(-1, (self.critics, -1)).movedim(-2, 0)

    def value(self, features: Tensor) -> Tensor:
        """Representations [N, B, H] -> normalised values [N, B]."""
        y = self.head_norm(F.gelu(self.head_in(features.reshape(1, -1, features.shape[-1]))))
        return self.head(y).view(features.shape[:2])


class Decoder(Actor):
    """The agents' policies, each from the actions of the agents before it and the encoder's representations."""

    networks = 1

    def __init__(self, agents: int, actions: int, settings: TransformerSettings):
        shared, hidden = settings.share_parameters, settings.hidden
        super().__init__(agents, shared, 1 + actions, actions, hidden, 0, False, "none")
        self.blocks = nn.ModuleList(Block(hidden, settings.heads, decoder=True) for _ in range(settings.blocks))

    def features(self, action: Tensor, seen: Tensor) -> Tensor:
        """action [N, B, A], one-hot or real values, of which agent i reads those of agents 0 .. i - 1; seen [N, B, H], the encoder's
        representations -> [N, B, H]. The sequence begins with a start token."""
        before = F.pad(action[:-1], (1, 0, 0, 0, 1, 0))
        before[0, :, 0] = 1.0
        x, seen = self.body.embed(before).transpose(0, 1), seen.transpose(0, 1)
        for block in self.blocks:
            x = block(x, seen)
        return x.transpose(0, 1)


def coded(action: Tensor, actions: int) -> Tensor:
    """Actions as networks read them: [..., A], one-hot of choices [...] int64, or the real values [..., A] that they are."""
    return action if action.is_floating_point() else F.one_hot(action, actions).to(torch.float32)
