"""Actors and critics: a normalised input, an MLP, a GRU unless left out, a head (paper, Tables 5-11)."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor, nn

from agentmixer.train.stack import NoNorm, StackedGRUCell, StackedLayerNorm, StackedLinear, StackedRunningNorm


class Body(nn.Module):
    """The part that actors and critics have in common, for N agents held as a stack of S networks.

    Every agent has its own network, or one network serves all and agents differ by a learned bias in the first
    layer (what a one-hot id appended to the normalised input would give), which export folds into each agent's
    own graph. S = N or 1.

    teams: how many teams train side by side. Everything leads with teams then: K * N for N, K * S for S.

    norm: how the input is normalised: `layer` (LayerNorm), `running` (moments of what was seen) or `none`.
    sizes: each agent's own number of inputs, where they differ; the rest is zero padding.
    told: elements behind the inputs, which are not normalised.

    x [N, B, inputs + told], h [N, B, M] -> features [N, B, H], new h [N, B, M]; the memory M is H, or 0 without a GRU.
    """

    def __init__(
        self,
        agents: int,
        shared: bool,
        inputs: int,
        hidden: int,
        layers: int,
        recurrent: bool,
        norm: str = "layer",
        sizes: tuple[int, ...] | None = None,
        teams: int = 1,
        told: int = 0,
    ):
        super().__init__()
        sizes = None if sizes is None else sizes * teams
        stack = teams if shared else teams * agents
        self.agents, self.stack, self.hidden = teams * agents, stack, hidden
        self.memory = hidden if recurrent else 0
        self.norm: StackedLayerNorm | StackedRunningNorm | NoNorm
        if norm == "none":
            self.norm = NoNorm()
        else:
            self.norm = (
                StackedRunningNorm(stack, inputs) if norm == "running" else StackedLayerNorm(stack, inputs, sizes)
            )
        widths = [inputs] + [hidden] * (layers + 1)
        self.linears = nn.ModuleList(StackedLinear(stack, i, o) for i, o in itertools.pairwise(widths))
        self.norms = nn.ModuleList(StackedLayerNorm(stack, hidden) for _ in widths[1:])
        self.agent_bias = nn.Parameter(torch.zeros(self.agents, hidden)) if shared and agents > 1 else None
        self.gru = StackedGRUCell(stack, hidden, hidden) if recurrent else None
        self.gru_norm = StackedLayerNorm(stack, hidden) if recurrent else None
        self.inputs, self.told = inputs, StackedLinear(stack, told, hidden) if told else None

    def fold(self, x: Tensor) -> Tensor:
        """[N, B, F] -> [S, N * B / S, F], a view."""
        return x.reshape(self.stack, -1, x.shape[-1])

    def embed(self, x: Tensor) -> Tensor:
        """The feed-forward part. x [N, B, inputs + told] -> [N, B, H]."""
        first, *others = zip(self.linears, self.norms, strict=True)
        y = self.norm.then(first[0], self.fold(x[..., : self.inputs]))  # type: ignore[arg-type]
        if self.told is not None:
            y = y + self.told(self.fold(x[..., self.inputs :]))
        if self.agent_bias is not None:
            y = (y.view(self.agents, -1, self.hidden) + self.agent_bias.unsqueeze(1)).view_as(y)
        y = first[1](y.relu_())
        for linear, norm in others:
            y = norm(linear(y).relu_())
        return y.view(self.agents, -1, self.hidden)

    def observe(self, x: Tensor) -> None:
        """Let a running normaliser take in x [N, ..., inputs]."""
        if isinstance(self.norm, StackedRunningNorm):
            self.norm.update(self.fold(x))

    def recur(self, y: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        """One recurrent step. y [N, B, H], h [N, B, M] -> features [N, B, H], new h [N, B, M]."""
        if self.gru is None or self.gru_norm is None:
            return y, h
        new = self.gru(self.fold(y), self.fold(h))
        return self.gru_norm(new).view_as(y), new.view_as(h)

    def forward(self, x: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        return self.recur(self.embed(x), h)

    def unroll(self, x: Tensor, h: Tensor, episode_start: Tensor) -> Tensor:
        """Features along chunks of L steps.

        x [N, L, B, inputs + told]; h [N, B, M] at the chunk's first step; episode_start [N, L, B], 1 where a step is the
        first of its episode (its recurrent state starts from zero) -> [N, L, B, H].
        """
        return self.unroll_both(x, h, episode_start)[0]

    def unroll_both(self, x: Tensor, h: Tensor, episode_start: Tensor) -> tuple[Tensor, Tensor]:
        """Features as of `unroll`, and the memory after every step, [N, L, B, M]."""
        y = self.embed(x.flatten(1, 2)).view(*x.shape[:3], self.hidden)
        if self.gru is None or self.gru_norm is None:
            return y, y[..., :0]
        states = self.gru.unroll(y, h, 1.0 - episode_start)
        return self.gru_norm(self.fold(states)).view_as(states), states


class Actor(nn.Module):
    """N actors. Each sees its own observation and its own recurrent state alone, and beside it what it is told, if anything
    (`Body`)."""

    def __init__(
        self,
        agents: int,
        shared: bool,
        obs: int,
        actions: int,
        hidden: int,
        layers: int,
        recurrent: bool = True,
        norm: str = "layer",
        sizes: tuple[int, ...] | None = None,
        teams: int = 1,
        told: int = 0,
    ):
        super().__init__()
        self.body = Body(agents, shared, obs, hidden, layers, recurrent, norm, sizes, teams, told)
        self.head = StackedLinear(self.body.stack, hidden, actions, gain=0.01)

    @property
    def networks(self) -> int:
        """How many networks it holds, each of which has its gradient clipped by itself."""
        return self.body.stack

    def output(self, features: Tensor) -> Tensor:
        """features [N, B, H] -> unmasked logits or means [N, B, A]."""
        return self.head(self.body.fold(features)).view(*features.shape[:2], -1)

    def forward(self, obs: Tensor, h: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """obs [N, B, D + told], h [N, B, M] -> unmasked logits or means [N, B, A], features [N, B, H], new h [N, B, M]."""
        features, h = self.body(obs, h)
        return self.output(features), features, h


class Critic(nn.Module):
    """C state-value functions over the global state: one an agent (paper), or one for the team (C = 1).

    teams: how many teams train side by side; C is then that of all, and states lead team after team."""

    def __init__(
        self, critics: int, state: int, hidden: int, layers: int, recurrent: bool, norm: str = "layer", teams: int = 1
    ):
        super().__init__()
        self.teams, self.critics = teams, teams * critics
        self.body = Body(critics, False, state, hidden, layers, recurrent, norm, teams=teams)
        self.head = StackedLinear(self.critics, hidden, 1, gain=1.0)

    @property
    def networks(self) -> int:
        """How many networks it holds, each of which has its gradient clipped by itself."""
        return self.critics

    def inputs(self, state: Tensor) -> Tensor:
        """What every critic reads of states [teams, ..., S] -> [C, ..., inputs]: all."""
        return self.each(state)

    def each(self, state: Tensor) -> Tensor:
        """The same for every critic: [teams, ...] -> [C, ...], a view for a single team."""
        own = self.critics // self.teams
        return state.unsqueeze(1).expand(-1, own, *state.shape[1:]).reshape(self.critics, *state.shape[1:])

    def value(self, features: Tensor) -> Tensor:
        """features [C, B, H] -> normalised values [C, B]."""
        return self.head(features).squeeze(-1)

    def forward(self, state: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        """state [teams * B, S], h [C, B, M] -> normalised values [C, B], new h [C, B, M]."""
        features, h = self.body(self.inputs(state.view(self.teams, -1, state.shape[-1])), h)
        return self.value(features), h
