"""The joint policy of a team of unlike agents: some choose whole numbers, one or several at once, others real values."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from agentmixer.contract.spec import Box, TaskSpec
from agentmixer.train.joint_policy import (
    Categorical,
    DiscreteJoint,
    GapJoint,
    Gaussian,
    GaussianJoint,
    GumbelJoint,
    JointPolicy,
    drawn,
    mask_logits,
    sample,
)
from agentmixer.train.settings import AgentMixerTeamSettings
from agentmixer.train.team import most_actions


class Mixed(NamedTuple):
    """A joint policy, of whole numbers [N, B, W, V] and of real values [N, B, W]. Of each agent one of both counts."""

    whole: Categorical
    real: Gaussian


class _Layout(NamedTuple):
    """Where what stands in [N, B, A], for N agents that may be those of several teams.

    real [N, 1, 1] bool: the agent's elements are real values, and A counts them. Elsewhere A counts the values of all
    elements, element after element: value v of element w stands at slot[n, 0, w * V + v], if exists[n, 0, w, v] says that
    there is one; what stands at a is value place[n, 0, a], counted as w * V + v, if taken[n, 0, a]. elements [N, 1, W]: which
    elements exist."""

    real: Tensor
    slot: Tensor
    exists: Tensor
    place: Tensor
    taken: Tensor
    elements: Tensor


class MixedJoint:
    """Each agent's elements are drawn independently, given the state: whole numbers as a joint policy of discrete actions
    has them (`whole`), an element each; real values as `real` has them. An action is [N, B, W] float32, W elements."""

    def __init__(self, spec: TaskSpec, whole: DiscreteJoint, real: GaussianJoint):
        self.whole, self.real = whole, real
        spaces, agents, self.size = spec.action_spaces, spec.num_agents, spec.action_size
        values = max(n for space in spaces if not isinstance(space, Box) for n, _ in space.choices)
        actions = most_actions(spec)
        slot = torch.zeros(agents, self.size, values, dtype=torch.long)
        exists = torch.zeros(agents, self.size, values, dtype=torch.bool)
        place = torch.zeros(agents, actions, dtype=torch.long)
        taken = torch.zeros(agents, actions, dtype=torch.bool)
        for i, space in enumerate(spaces):
            at = 0
            for w, (n, _) in enumerate(() if isinstance(space, Box) else space.choices):
                slot[i, w, :n] = torch.arange(at, at + n)
                exists[i, w, :n] = True
                place[i, at : at + n] = w * values + torch.arange(n)
                taken[i, at : at + n] = True
                at += n
        real_valued = torch.tensor([isinstance(space, Box) for space in spaces]).view(agents, 1, 1)
        arrays = (slot.flatten(1), exists, place, taken, exists.any(-1))
        self._layout = _Layout(real_valued, *(array.unsqueeze(1) for array in arrays))
        self._layouts: dict[tuple[int, torch.device], _Layout] = {}

    def _of(self, rows: int, device: torch.device) -> _Layout:
        """The layout of as many agents as `rows`, whole teams."""
        if (rows, device) not in self._layouts:
            teams = rows // len(self._layout.real)
            arrays = (array.repeat(teams, *(1,) * (array.dim() - 1)).to(device) for array in self._layout)
            self._layouts[rows, device] = _Layout(*arrays)
        return self._layouts[rows, device]

    def _values(self, array: Tensor, layout: _Layout) -> Tensor:
        """[N, B, A] -> [N, B, W, V]; what does not exist is whatever it is."""
        index = layout.slot.expand(-1, array.shape[1], -1)
        return array.gather(-1, index).view(*array.shape[:2], *layout.exists.shape[2:])

    def _logits(self, policy: Tensor, layout: _Layout) -> Tensor:
        return mask_logits(self._values(policy, layout), layout.exists.expand(-1, policy.shape[1], -1, -1))

    def policy(self, raw: Tensor, mask: Tensor) -> Tensor:
        real = self._of(len(raw), raw.device).real
        return torch.where(real, raw * mask, mask_logits(raw, mask))

    def features(self, policy: Tensor) -> Tensor:
        layout = self._of(len(policy), policy.device)
        probabilities = self.whole.features(self._logits(policy, layout)).flatten(2)
        back = probabilities.gather(-1, layout.place.expand(-1, policy.shape[1], -1)) * layout.taken
        return torch.where(layout.real, policy, back)

    def joint(self, policy: Tensor, score: Tensor, mask: Tensor) -> Mixed:
        layout = self._of(len(policy), policy.device)
        legal = self._values(mask, layout) & layout.exists
        whole = self.whole.joint(self._logits(policy, layout), self._values(score, layout), legal)
        size = self.size
        real = self.real.joint(policy[..., :size], score[..., :size], mask[..., :size] & layout.real)
        return Mixed(whole, real)

    def actor_mode(self, policy: Tensor) -> Tensor:
        layout = self._of(len(policy), policy.device)
        return self._either(self.whole.actor_mode(self._logits(policy, layout)), policy[..., : self.size], layout)

    def noise(self, shape: tuple[int, ...], generators: Sequence[torch.Generator]) -> Tensor:
        """Exponential for whole numbers, normal for real values."""
        real = self._of(shape[0], generators[0].device).real
        whole = drawn(torch.Tensor.exponential_, shape, generators)
        return torch.where(real, drawn(torch.Tensor.normal_, shape, generators), whole)

    def actor_sample(self, policy: Tensor, noise: Tensor) -> Tensor:
        layout = self._of(len(policy), policy.device)
        choice = sample(self._logits(policy, layout), self._values(noise, layout).abs())
        return self._either(choice, policy[..., : self.size], layout)

    def mode(self, joint: Mixed) -> Tensor:
        return self._either(self.whole.mode(joint.whole), self.real.mode(joint.real), self._layout_of(joint))

    def sample(self, joint: Mixed, noise: Tensor) -> Tensor:
        layout = self._layout_of(joint)
        choice = self.whole.sample(joint.whole, self._values(noise, layout).abs())
        return self._either(choice, self.real.sample(joint.real, noise[..., : self.size]), layout)

    def log_prob(self, joint: Mixed, action: Tensor) -> Tensor:
        layout = self._layout_of(joint)
        choice = action.clamp(0, layout.exists.shape[-1] - 1).long()
        whole = (self.whole.log_prob(joint.whole, choice) * layout.elements).sum(-1)
        return torch.where(layout.real.squeeze(-1), self.real.log_prob(joint.real, action), whole)

    def entropy(self, joint: Mixed) -> Tensor:
        layout = self._layout_of(joint)
        whole = (self.whole.entropy(joint.whole) * layout.elements).sum(-1)
        return torch.where(layout.real.squeeze(-1), self.real.entropy(joint.real), whole)

    def agree(self, joint: Mixed, policy: Tensor) -> Tensor:
        """Where actions are real values, both modes are the mean by definition."""
        layout = self._layout_of(joint)
        same: Tensor = self.whole.agree(joint.whole, self._logits(policy, layout)).all(-1)
        return same | layout.real.squeeze(-1)

    def against(self, joint: Mixed, policy: Tensor) -> dict[str, Tensor]:
        """Of agents whose actions are whole numbers; 0 of others."""
        layout = self._layout_of(joint)
        found = self.whole.against(joint.whole, self._logits(policy, layout))
        return {name: (array * layout.elements).sum(-1) for name, array in found.items()}

    def anneal(self, start: float, end: float, schedule: str, progress: float) -> None:
        """See `GumbelJoint.anneal`."""
        self.whole.anneal(start, end, schedule, progress)

    def _layout_of(self, joint: Mixed) -> _Layout:
        return self._of(len(joint.real.mean), joint.real.mean.device)

    def _either(self, choice: Tensor, real: Tensor, layout: _Layout) -> Tensor:
        """Of each agent what counts, [N, B, W]."""
        return torch.where(layout.real, real, choice.to(real.dtype))


def joint_for(spec: TaskSpec, whole: DiscreteJoint, real: GaussianJoint) -> JointPolicy:
    """What of both suits a team's actions, or the two together."""
    if spec.real_valued:
        return real
    return whole if spec.discrete else MixedJoint(spec, whole, real)


def make_joint(spec: TaskSpec, settings: AgentMixerTeamSettings) -> JointPolicy:
    """The kind of joint policy that settings and actions ask for."""
    gain = settings.sigmoid_gain
    gumbel = settings.joint == "gumbel"
    whole = GumbelJoint(settings.tau, settings.u_scale, gain) if gumbel else GapJoint(settings.reach)
    return joint_for(spec, whole, GaussianJoint(settings.std_low, settings.std_high, gain))
