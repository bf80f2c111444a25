"""The agents' last layers under a latent z that a whole episode is played under (Mahajan et al. 2019)."""

from __future__ import annotations

import torch
from torch import Tensor

from agentmixer.train.stack import StackedLinear
from agentmixer.train.team import Modifier


class LatentUtilities(Modifier):
    """The agents' last layers, one for each value of z, and what episodes under each z earned lately.

    This is what a hypernetwork without hidden layers makes of a one-hot z (Mahajan et al. 2019, Figure 2). It stands in PM's
    place in the team: it reads the signal of the episode, of which z is the place of the largest number."""

    #: Share of what episodes earned that counts one update later.
    KEPT = 0.99

    def __init__(self, stack: int, hidden: int, actions: int, latents: int):
        super().__init__()
        self.stack, self.latents = stack, latents
        self.heads = StackedLinear(stack, hidden, latents * actions, gain=0.01)
        self.earned: Tensor
        self.episodes: Tensor
        self.register_buffer("earned", torch.zeros(latents))
        self.register_buffer("episodes", torch.zeros(latents))

    def of(self, features: Tensor, latent: Tensor) -> Tensor:
        """Utilities [N, B, A], not masked, of features [N, B, H] under z [B]."""
        agents, rows, hidden = features.shape
        each = self.heads(features.reshape(self.stack, -1, hidden)).view(agents, rows, self.latents, -1)
        return each.gather(2, latent.view(1, rows, 1, 1).expand(agents, -1, -1, each.shape[-1])).squeeze(2)

    def forward(
        self, state: Tensor, policy: Tensor, features: Tensor, memory: Tensor | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """state [B, S + Z], the signal last -> utilities [N, B, A], and the memory that was given, of which there is none."""
        return self.of(features, state[:, -self.latents :].argmax(-1)), memory

    def record(self, latent: Tensor, returned: Tensor) -> None:
        """Take in the returns [n] of episodes that ended, and their z [n]; older ones count less."""
        for total, new in ((self.earned, returned), (self.episodes, torch.ones_like(returned))):
            total.mul_(self.KEPT).index_add_(0, latent, new)

    @property
    def best(self) -> int:
        """The z whose episodes earned most lately; the first of several, and 0 before any ended."""
        mean = torch.where(self.episodes > 0, self.earned / self.episodes, -torch.inf)
        return int(mean.argmax())

    @torch.no_grad()
    def fold_into(self, head: StackedLinear) -> None:
        """Make the last layer of the best z that of the actors."""
        for own, every in ((head.weight, self.heads.weight), (head.bias, self.heads.bias)):
            own.copy_(every.unflatten(-1, (self.latents, -1))[..., self.best, :])
