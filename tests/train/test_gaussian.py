"""Real-valued actions: modes that agree by construction, densities by another implementation, scaled once."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from conftest import box_spec, tiny_algorithm

from agentmixer.errors import AgentMixerError
from agentmixer.train.joint_policy import GaussianJoint
from agentmixer.train.rollout import Rollout


def test_densities_and_entropies_against_torch_distributions() -> None:
    kind, generator = GaussianJoint(0.1, 0.9), [torch.Generator().manual_seed(0)]
    mean, score = torch.randn(2, 7, 3), torch.randn(2, 7, 3)
    mask = torch.ones(2, 7, 3, dtype=torch.bool)
    mask[1, :, 2] = False  # the second agent has two elements
    joint = kind.joint(kind.policy(mean, mask), score, mask)
    action = kind.sample(joint, kind.noise((2, 7, 3), generator))
    assert (action[1, :, 2] == 0).all()
    std = 0.1 + 0.8 * torch.sigmoid(score)
    for i, size in ((0, 3), (1, 2)):
        other = torch.distributions.Normal(mean[i, :, :size], std[i, :, :size])
        torch.testing.assert_close(kind.log_prob(joint, action)[i], other.log_prob(action[i, :, :size]).sum(-1))
        torch.testing.assert_close(kind.entropy(joint)[i], other.entropy().sum(-1))


def test_samples_have_the_joint_policys_mean_and_deviation() -> None:
    kind = GaussianJoint(0.1, 0.9)
    mask = torch.ones(1, 40_000, 1, dtype=torch.bool)
    joint = kind.joint(torch.full((1, 40_000, 1), 0.3), torch.zeros(1, 40_000, 1), mask)
    drawn = kind.sample(joint, kind.noise((1, 40_000, 1), [torch.Generator().manual_seed(1)]))
    # std .5; three standard errors of the mean are .0075, of the deviation .0053.
    assert abs(float(drawn.mean()) - 0.3) < 0.0075
    assert abs(float(drawn.std()) - 0.5) < 0.0053


def test_modes_agree_for_any_weights_states_and_observations() -> None:
    algorithm = tiny_algorithm(box_spec(), share_parameters=False, input_norm="running")
    for trial in range(20):
        generator = torch.Generator().manual_seed(trial)
        for module in (algorithm.team.pm, algorithm.team.actor):
            for p in module.parameters():
                p.data.normal_(generator=generator)
        obs, state = torch.randn(2, 50, 5, generator=generator) * 5, torch.randn(50, 11, generator=generator) * 5
        mask, memory = torch.ones(2, 50, 3, dtype=torch.bool), algorithm.team.memory(50)
        joint, _, _ = algorithm.team.act_jointly(obs, state, torch.zeros(50, 0), mask, memory, greedy=True)
        alone, _ = algorithm.team.act_alone(obs, mask, memory["actor"], greedy=True)
        assert torch.equal(joint, alone)


def test_the_spread_by_hand() -> None:
    """std = low + (high - low) sigmoid(gain x), element by element."""
    mean, x = torch.zeros(1, 1, 2), torch.tensor([[[0.0, 2.0]]])
    joint = GaussianJoint(0.1, 0.75, 0.3).joint(mean, x, torch.ones(1, 1, 2, dtype=torch.bool))
    want = torch.tensor([0.1 + 0.65 / 2, 0.1 + 0.65 / (1 + math.exp(-0.6))])
    torch.testing.assert_close(joint.std[0, 0], want)


def test_actions_reach_the_task_in_its_own_units_and_bounds() -> None:
    algorithm = tiny_algorithm(box_spec(), share_parameters=False)  # bounds: -2 .. 4 and -0.5 .. 0.5
    action = torch.tensor([0.0, 1.0, -5.0]).expand(2, 1, 3)
    got = algorithm.team.to_task(action)
    np.testing.assert_allclose(got[0, 0], [1.0, 4.0, -2.0])
    np.testing.assert_allclose(got[1, 0, :2], [0.0, 0.5])


def test_agents_that_differ_cannot_share_a_network() -> None:
    with pytest.raises(AgentMixerError, match="share_parameters=false"):
        tiny_algorithm(box_spec(), share_parameters=True)


def test_an_update_moves_actors_pm_and_critic_and_leaves_padding_without_effect() -> None:
    algorithm = tiny_algorithm(box_spec(), share_parameters=False, minibatches=1, chunk_length=1, pm_lr=1e-3)
    generator = torch.Generator().manual_seed(2)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator)

    obs, action = normal(2, 4, 3, 5), normal(2, 4, 3, 3)
    obs[1, ..., 3:] = 0
    action[1, ..., 2:] = 0
    mask = torch.ones(2, 4, 3, 3, dtype=torch.bool)
    mask[1, ..., 2:] = False
    never, memory = torch.zeros(1, 4, 3, dtype=torch.bool), algorithm.team.actor.body.memory
    rollout = Rollout(**{
        "obs": obs, "mask": mask, "active": torch.ones(2, 4, 3, dtype=torch.bool), "action": action,
        "log_prob": normal(2, 4, 3), "actor_memory": torch.zeros(2, 4, 3, memory), "critic_memory": torch.zeros(1, 4, 3, 0), "pm_memory": torch.zeros(1, 4, 3, 0),
        "value": normal(1, 4, 3), "final_value": torch.zeros(1, 4, 3), "last_value": normal(1, 3),
        "state": normal(1, 4, 3, 11), "signal": normal(1, 4, 3, 0), "reward": normal(1, 4, 3), "terminated": never, "truncated": never,
        "episode_start": torch.zeros(1, 4, 3),
    })  # fmt: skip
    before = {name: {k: v.clone() for k, v in m.state_dict().items()} for name, m in algorithm.modules.items()}
    (numbers,) = algorithm.update(rollout)
    assert "mode_agreement" not in numbers  # the mode is the mean by definition: there is nothing to measure
    for name in ("actor", "critic", "pm"):
        after = algorithm.modules[name].state_dict()
        assert any(not torch.equal(after[key], value) for key, value in before[name].items()), name
    # Whatever was learned, what stands in the padding changes nothing.
    mask, h = torch.ones(2, 6, 3, dtype=torch.bool), torch.zeros(2, 6, memory)
    mask[1, :, 2:] = False
    seen = normal(2, 6, 5)
    seen[1, :, 3:] = 0
    assert (algorithm.team.step(seen, mask, h).policy[1, :, 2:] == 0).all()
