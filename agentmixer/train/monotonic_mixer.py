"""QMIX's mixing network: from every agent's own utility to one value of the team."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F


class MonotonicMixer(nn.Module):
    """The team's action value, which never falls when an agent's utility rises (Rashid et al. 2018, eq. 5 and Figure 2).

    Two layers over the agents' utilities, whose weights and biases hypernetworks make of the state s, weights by their
    absolute values: Q_tot = |W2(s)| elu(|W1(s)| q + b1(s)) + V(s). Whatever the state is, the joint action with the greatest
    value is therefore the one in which every agent takes its own best action.

    utilities [N, B], state [B, S] -> [B]."""

    def __init__(self, agents: int, state: int, hidden: int, hyper_hidden: int):
        """hidden: width of the mixing layer. hyper_hidden: width of the networks that make the weights."""
        super().__init__()
        self.weight_in = hypernetwork(state, hyper_hidden, agents * hidden)
        self.bias_in = nn.Linear(state, hidden)
        self.weight_out = hypernetwork(state, hyper_hidden, hidden)
        self.value = hypernetwork(state, hidden, 1)

    def forward(self, utilities: Tensor, state: Tensor) -> Tensor:
        agents, rows = utilities.shape
        into = self.weight_in(state).abs().view(rows, agents, -1)
        mixed = F.elu((utilities.T.unsqueeze(-1) * into).sum(1) + self.bias_in(state))
        return (mixed * self.weight_out(state).abs()).sum(-1) + self.value(state).squeeze(-1)


def hypernetwork(inputs: int, hidden: int, outputs: int) -> nn.Sequential:
    """A network of one hidden layer."""
    return nn.Sequential(nn.Linear(inputs, hidden), nn.ReLU(), nn.Linear(hidden, outputs))
