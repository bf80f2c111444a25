"""One agent's actor, cut out of the stack: all that is exported. PM and critics stay behind."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from agentmixer.train.joint_policy import ILLEGAL
from agentmixer.train.networks import Actor
from agentmixer.train.stack import StackedLayerNorm, StackedLinear


class DeployedActor(nn.Module):
    """Agent `index` of a stacked Actor as a plain feed-forward step with its recurrent state outside.

    Only primitives are used (no nn.GRU), normalisation and masking are inside, and a shared network's
    per-agent bias is folded into the first layer: nothing is left for the caller to remember.
    """

    def __init__(self, actor: Actor, index: int):
        super().__init__()
        body = actor.body
        slot = 0 if body.stack == 1 else index
        self.hidden = body.hidden
        self.norm = _layer_norm(body.norm, slot)
        linears = [_linear(layer, slot) for layer in body.linears]
        if body.agent_bias is not None:
            linears[0].bias.data += body.agent_bias.data[index].cpu()
        self.linears = nn.ModuleList(linears)
        self.norms = nn.ModuleList(_layer_norm(norm, slot) for norm in body.norms)
        assert body.gru is not None and body.gru_norm is not None
        self.gru_input, self.gru_hidden = _linear(body.gru.input, slot), _linear(body.gru.hidden, slot)
        self.gru_norm = _layer_norm(body.gru_norm, slot)
        self.head = _linear(actor.head, slot)

    def forward(self, obs: Tensor, action_mask: Tensor, state_in: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """obs [B, D] float32, action_mask [B, A] bool, state_in [B, H] float32 ->
        action [B] int64 (the mode), masked logits [B, A], state_out [B, H]."""
        x = self.norm(obs)
        for linear, norm in zip(self.linears, self.norms, strict=True):
            x = norm(F.relu(linear(x)))
        input_reset, input_update, input_new = self.gru_input(x).chunk(3, -1)
        hidden_reset, hidden_update, hidden_new = self.gru_hidden(state_in).chunk(3, -1)
        reset = torch.sigmoid(input_reset + hidden_reset)
        update = torch.sigmoid(input_update + hidden_update)
        new = torch.tanh(input_new + reset * hidden_new)
        state_out = new + update * (state_in - new)
        logits = self.head(self.gru_norm(state_out))
        logits = torch.where(action_mask, logits, ILLEGAL)
        return logits.argmax(-1), logits, state_out


def _linear(layer: nn.Module, slot: int) -> nn.Linear:
    assert isinstance(layer, StackedLinear)
    weight, bias = layer.weight.data[slot], layer.bias.data[slot]
    plain = nn.Linear(*weight.shape)
    plain.weight.data.copy_(weight.T)
    plain.bias.data.copy_(bias)
    return plain


def _layer_norm(norm: nn.Module, slot: int) -> nn.LayerNorm:
    assert isinstance(norm, StackedLayerNorm)
    plain = nn.LayerNorm(norm.weight.shape[1])
    plain.weight.data.copy_(norm.weight.data[slot])
    plain.bias.data.copy_(norm.bias.data[slot])
    return plain
