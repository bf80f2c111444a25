"""One agent's actor, cut out of the stack: all that is exported. PM and critics stay behind."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from agentmixer.contract.manifest import NOISE
from agentmixer.contract.spec import Box, Discrete, TaskSpec
from agentmixer.runtime.actions import ranges
from agentmixer.train.joint_policy import ILLEGAL
from agentmixer.train.networks import Actor
from agentmixer.train.stack import StackedLayerNorm, StackedLinear, StackedRunningNorm


class DeployedActor(nn.Module):
    """Agent `index` of a team's stacked actors as a plain feed-forward step with its recurrent state outside.

    Only primitives are used (no nn.GRU), and whatever a caller could forget is inside: normalisation, masking,
    bounds and scaling of real-valued actions, a shared network's per-agent bias. Padding that the stack needs
    for agents of different sizes is cut off.

    Inputs in order: obs [B, D] float32; action_mask [B, A] bool if the task masks and the agent's actions are whole
    numbers; noise [B, A] float32 if they are drawn; state_in [B, H] float32 if there is memory. Outputs: action in the task's
    own terms, [B] int64 (Discrete), [B, W] int64 (MultiDiscrete) or [B, W] float32 (Box); logits (masked) or mean (in units of
    half the action range, not clamped) [B, A]; state_out [B, H] if there is memory.

    The action is the mode. With `sampled`, noise is added to the logits of whole numbers, and the action is the greatest of the
    sums: with standard Gumbel noise, an action drawn from the policy; with zeros, the mode.
    """

    centre: Tensor
    scale: Tensor
    low: Tensor
    high: Tensor

    def __init__(self, actor: Actor, spec: TaskSpec, index: int, sampled: bool = False):
        super().__init__()
        body, space = actor.body, spec.action_spaces[index]
        slot = 0 if body.stack == 1 else index
        self.obs, self.actions, self.memory = spec.obs_sizes[index], space.n, body.memory
        self.space, real = space, isinstance(space, Box)
        self.masked, self.drawn = spec.has_action_mask and not real, sampled and not real
        self.norm = _input_norm(body.norm, slot, self.obs)
        linears = [_linear(layer, slot) for layer in body.linears]
        linears[0].weight.data = linears[0].weight.data[:, : self.obs].clone()
        if body.agent_bias is not None:
            linears[0].bias.data += body.agent_bias.data[index].cpu()
        self.linears = nn.ModuleList(linears)
        self.norms = nn.ModuleList(_layer_norm(norm, slot) for norm in body.norms)
        if body.gru is not None and body.gru_norm is not None:
            self.gru_input, self.gru_hidden = _linear(body.gru.input, slot), _linear(body.gru.hidden, slot)
            self.gru_norm = _layer_norm(body.gru_norm, slot)
        self.head = _linear(actor.head, slot)
        self.head.weight.data = self.head.weight.data[: space.n].clone()
        self.head.bias.data = self.head.bias.data[: space.n].clone()
        if real:
            for name, bound in ranges(space)._asdict().items():
                self.register_buffer(name, torch.from_numpy(bound))

    @property
    def inputs(self) -> list[str]:
        """Names of the inputs, in order."""
        return ["obs"] + ["action_mask"] * self.masked + [NOISE] * self.drawn + ["state_in"] * (self.memory > 0)

    @property
    def outputs(self) -> list[str]:
        """Names of the outputs, in order."""
        policy = "mean" if isinstance(self.space, Box) else "logits"
        return ["action", policy] + ["state_out"] * (self.memory > 0)

    def forward(self, obs: Tensor, *rest: Tensor) -> tuple[Tensor, ...]:
        x = self.norm(obs)
        for linear, norm in zip(self.linears, self.norms, strict=True):
            x = norm(F.relu(linear(x)))
        after: tuple[Tensor, ...] = ()
        if self.memory:
            state_out = self._recur(x, rest[-1])
            x, after = self.gru_norm(state_out), (state_out,)
        raw = self.head(x)
        if self.drawn:
            raw = raw + rest[self.masked]
        space = self.space
        if isinstance(space, Box):
            scaled = self.centre + self.scale * raw
            scaled = scaled.round() if space.whole else scaled
            return torch.minimum(torch.maximum(scaled, self.low), self.high), raw, *after
        logits = torch.where(rest[0], raw, ILLEGAL) if self.masked else raw
        if isinstance(space, Discrete):
            return logits.argmax(-1) + space.start, logits, *after
        chosen = [part.argmax(-1) for part in logits.split(space.sizes, -1)]
        return torch.stack(chosen, -1) + torch.tensor(space.starts), logits, *after

    def _recur(self, x: Tensor, h: Tensor) -> Tensor:
        input_reset, input_update, input_new = self.gru_input(x).chunk(3, -1)
        hidden_reset, hidden_update, hidden_new = self.gru_hidden(h).chunk(3, -1)
        reset = torch.sigmoid(input_reset + hidden_reset)
        update = torch.sigmoid(input_update + hidden_update)
        new = torch.tanh(input_new + reset * hidden_new)
        return new + update * (h - new)


class RunningNorm(nn.Module):
    """One agent's part of a StackedRunningNorm, as constants."""

    mean: Tensor
    scale: Tensor

    def __init__(self, norm: StackedRunningNorm, slot: int, size: int):
        super().__init__()
        self.register_buffer("mean", norm.mean[slot, :size].clone())
        self.register_buffer("scale", norm.scale()[slot, :size].clone())
        self.limit = norm.LIMIT

    def forward(self, x: Tensor) -> Tensor:
        return ((x - self.mean) * self.scale).clamp(-self.limit, self.limit)


def _input_norm(norm: nn.Module, slot: int, size: int) -> nn.Module:
    return RunningNorm(norm, slot, size) if isinstance(norm, StackedRunningNorm) else _layer_norm(norm, slot, size)


def _linear(layer: nn.Module, slot: int) -> nn.Linear:
    assert isinstance(layer, StackedLinear)
    weight, bias = layer.weight.data[slot], layer.bias.data[slot]
    plain = nn.Linear(*weight.shape)
    plain.weight.data.copy_(weight.T)
    plain.bias.data.copy_(bias)
    return plain


def _layer_norm(norm: nn.Module, slot: int, size: int | None = None) -> nn.LayerNorm:
    assert isinstance(norm, StackedLayerNorm)
    size = size or norm.weight.shape[1]
    plain = nn.LayerNorm(size)
    plain.weight.data.copy_(norm.weight.data[slot, :size])
    plain.bias.data.copy_(norm.bias.data[slot, :size])
    return plain
