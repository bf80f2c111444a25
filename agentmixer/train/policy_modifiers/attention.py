"""The Policy Modifier with attention: one block, one head, agents as tokens (Vaswani et al. 2017)."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from agentmixer.train.policy_modifiers.base import PolicyModifier
from agentmixer.train.stack import StackedLinear


class AttentionPM(PolicyModifier):
    """mix(X) = W_O softmax(Q Kᵀ / √d) V, d the hidden width of mixing; Q, K and V are affine in each agent's token.

    With the rest of the block this is a pre-norm transformer layer. Agents are treated alike: only what stands
    in their tokens, the one-hot id among it, tells them apart.
    """

    def add_mixing(self, width: int, channels: int, hidden: int) -> None:
        """One map [channels -> 3 hidden] to queries, keys and values, and one back."""
        self.agent_in = StackedLinear(self.teams, channels, 3 * hidden, gain=1.0)
        self.agent_out = StackedLinear(self.teams, hidden, channels, gain=1.0)

    def mix(self, x: Tensor, encoded: Tensor) -> Tensor:
        """x [K, N, B, C] -> [K, N, B, C]; the state plays no part beyond its share of x."""
        rows = (self.teams, -1, x.shape[-1])
        both = self.agent_in(x.view(rows)).view(*x.shape[:3], -1)
        q, k, v = (part.transpose(1, 2) for part in both.chunk(3, -1))  # [K, B, N, hidden]
        y = F.scaled_dot_product_attention(q, k, v).transpose(1, 2)
        return self.agent_out(y.reshape(self.teams, -1, y.shape[-1])).view_as(x)
