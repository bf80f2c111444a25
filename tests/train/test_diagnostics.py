"""What says how a team learns, against numbers by hand and another implementation."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from conftest import tiny_algorithm
from torch import Tensor
from torch.distributions import Categorical, kl_divergence

from agentmixer.contract.spec import Box, MultiDiscrete
from agentmixer.train import diagnostics
from agentmixer.train.joint_policy import DiscreteJoint, GapJoint, GaussianJoint, GumbelJoint, ProductJoint
from agentmixer.train.mixed_policy import MixedJoint
from agentmixer.train.team import ActorStep


def test_explained_variance_by_hand() -> None:
    """Of 1, 2, 3, 4 and 100, which does not count: all, nothing, half; and of returns that do not vary."""
    returns = torch.tensor([[[1.0, 2.0, 3.0, 4.0, 100.0]]] * 3 + [[[5.0] * 5]])
    value = torch.tensor(
        [[[1.0, 2.0, 3.0, 4.0, 0.0]], [[2.5] * 5], [[1.0, 2.0, 2.0, 3.0, 9.0]], [[1.0, 2.0, 3.0, 4.0, 5.0]]]
    )
    counted = torch.tensor([True, True, True, True, False]).expand(4, 1, 5)
    found = diagnostics.explained_variance(returns, value, counted)
    # The third errs by 0, 0, 1, 1: variance .25 of 1.25.
    torch.testing.assert_close(found, torch.tensor([1.0, 0.0, 0.8, 0.0]))


@pytest.mark.parametrize("kind", [GapJoint(3.0), GumbelJoint(0.7), ProductJoint()])
def test_entropy_of_actors_and_divergence_from_them_are_torchs(kind: DiscreteJoint) -> None:
    torch.manual_seed(0)
    mask = torch.rand(3, 50, 5) < 0.7
    mask[..., 0] = True
    policy = kind.policy(torch.randn(3, 50, 5) * 2, mask)
    joint = kind.joint(policy, torch.randn(3, 50, 5), mask)
    found = kind.against(joint, policy)
    own = Categorical(logits=policy)
    torch.testing.assert_close(found["actor_entropy"], own.entropy())
    torch.testing.assert_close(
        found["actor_kl"], kl_divergence(Categorical(logits=joint.scores), own), atol=1e-5, rtol=1e-5
    )
    assert (found["actor_kl"] >= -1e-6).all() and (found["actor_kl"].max() < 1e-6) == isinstance(kind, ProductJoint)


def test_unlike_agents_are_told_of_by_their_whole_numbers() -> None:
    """Two independent elements add up; an agent of real values has no spread of its own."""
    spec: Any = SimpleNamespace(
        action_spaces=(MultiDiscrete((2, 3), (0, 0)), Box((-1.0,), (1.0,))), num_agents=2, action_size=2
    )
    whole = GumbelJoint(1.0)
    kind, mask = MixedJoint(spec, whole, GaussianJoint(0.1, 0.5)), torch.ones(2, 4, 5, dtype=torch.bool)
    mask[1, :, 1:] = False
    raw, score = torch.randn(2, 4, 5), torch.randn(2, 4, 5)
    policy = kind.policy(raw, mask)
    found = kind.against(kind.joint(policy, score, mask), policy)
    for name in ("actor_entropy", "actor_kl"):
        parts = [(raw[:1, :, part], score[:1, :, part]) for part in (slice(0, 2), slice(2, 5))]
        every = [torch.ones_like(own, dtype=torch.bool) for own, _ in parts]
        byhand = sum(whole.against(whole.joint(own, s, m), own)[name] for (own, s), m in zip(parts, every, strict=True))
        torch.testing.assert_close(found[name][:1], byhand)
        assert (found[name][1] == 0).all()
    assert GaussianJoint(0.1, 0.5).against(None, policy) == {}  # type: ignore[arg-type]


class Coin:
    """Two agents that both do what the signal's sign says, with the probability `sure`."""

    count, actions, signal, device, joint_policy = 1, 2, 1, "cpu", ProductJoint()

    def __init__(self, sure: float):
        self.sure = sure

    def step(self, obs: Tensor, mask: Tensor, memory: Tensor) -> ActorStep:
        return ActorStep(torch.zeros(mask.shape), torch.empty(0), memory)

    def joint(self, actors: ActorStep, state: Tensor, signal: Tensor, mask: Tensor, memory: Tensor) -> Any:
        heads = torch.where(signal[:, 0] > 0, self.sure, 1 - self.sure)
        policy = torch.stack([1 - heads, heads], -1).log().expand(2, -1, -1)
        return self.joint_policy.joint(policy, policy, mask)


@pytest.mark.parametrize("sure", [1 - 1e-7, 0.8, 0.5])
def test_total_correlation_of_two_who_follow_a_coin(sure: float) -> None:
    """Both do the same with p = s² + (1 - s)², and each either thing with 1/2."""
    envs = 8192
    rollout: Any = SimpleNamespace(
        mask=torch.ones(2, 1, envs, 2, dtype=torch.bool), actor_memory=torch.zeros(2, 1, envs, 0),
        state=torch.zeros(1, 1, envs, 1), obs=torch.zeros(2, 1, envs, 1), pm_memory=torch.zeros(1, 1, envs, 0),
    )  # fmt: skip
    same = sure**2 + (1 - sure) ** 2
    exact = math.log(2) + (same * math.log(same) + (1 - same) * math.log(1 - same) if same < 1 - 1e-6 else 0.0)
    found = diagnostics.total_correlation(Coin(sure), rollout)  # type: ignore[arg-type]
    assert found.item() == pytest.approx(exact, abs=0.05)
    if sure == 0.5:
        assert abs(found.item()) < 1e-6  # a product, under whatever signals


def test_no_random_number_of_the_team_is_used() -> None:
    algorithm = tiny_algorithm(signal=2)
    before = [generator.get_state() for generator in algorithm.team.generators]
    shapes = {"obs": (*algorithm.team.spec.obs_sizes[:1],)}
    agents, spec = algorithm.team.spec.num_agents, algorithm.team.spec
    rollout: Any = SimpleNamespace(
        mask=torch.ones(agents, 1, 4, algorithm.team.actions, dtype=torch.bool),
        actor_memory=algorithm.team.memory(4)["actor"].unsqueeze(1), state=torch.randn(1, 1, 4, spec.state_size),
        obs=torch.randn(agents, 1, 4, *shapes["obs"]), pm_memory=torch.zeros(1, 1, 4, 0),
    )  # fmt: skip
    torch.manual_seed(3)
    drawn = torch.rand(1)
    torch.manual_seed(3)
    assert diagnostics.total_correlation(algorithm.team, rollout).shape == (1,)
    assert torch.rand(1) == drawn
    assert all(torch.equal(a, g.get_state()) for a, g in zip(before, algorithm.team.generators, strict=True))
