"""A team of unlike agents: its joint policy is the product of what each kind of action has alone."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest
import torch
from conftest import tiny_algorithm, unlike_spec
from torch import Tensor
from torch.distributions import Categorical, Independent, Normal

from agentmixer.contract.spec import Box, Discrete, TaskSpec
from agentmixer.errors import AgentMixerError
from agentmixer.export.episodes import own_action
from agentmixer.export.exporter import evaluators
from agentmixer.export.graph import export_graph
from agentmixer.runtime.golden import silence
from agentmixer.train.algorithms import AgentMixerSAC
from agentmixer.train.deployed import DeployedActor
from agentmixer.train.joint_policy import GapJoint, GaussianJoint, ProductJoint
from agentmixer.train.mixed_policy import MixedJoint

ROWS = 50
#: Where the logits of agent 1's second element stand.
SECOND = slice(2, 6)


def masks() -> Tensor:
    """[4, ROWS, 6]: agents 0 and 1 may not do everything; of the rest, what exists is True."""
    allowed = torch.rand(4, ROWS, 6) < 0.6
    allowed[0, :, 1] = allowed[1, :, 0] = allowed[1, :, 4] = True
    allowed[0, :, 3:] = False
    allowed[2], allowed[3] = torch.tensor([1, 1, 0, 0, 0, 0]).bool(), torch.tensor([1, 0, 0, 0, 0, 0]).bool()
    return allowed


def kind() -> MixedJoint:
    return MixedJoint(unlike_spec(), ProductJoint(), GaussianJoint(0.1, 0.9))


def test_probabilities_and_entropies_are_those_of_torch_distributions() -> None:
    raw, score, mask = torch.randn(4, ROWS, 6), torch.randn(4, ROWS, 6), masks()
    of = kind()
    joint = of.joint(of.policy(raw, mask), score, mask)
    action = of.sample(joint, of.noise((4, ROWS, 6), [torch.Generator().manual_seed(1)]))
    logits = raw.masked_fill(~mask, -torch.inf)
    std = 0.1 + 0.8 * torch.sigmoid(score)
    first, second = Categorical(logits=logits[1, :, :2]), Categorical(logits=logits[1, :, SECOND])
    wanted = [
        (Categorical(logits=logits[0, :, :3]), action[0, :, 0]),
        (Independent(Normal(raw[2, :, :2], std[2, :, :2]), 1), action[2, :, :2]),
        (Normal(raw[3, :, 0], std[3, :, 0]), action[3, :, 0]),
    ]
    log_prob, entropy = of.log_prob(joint, action), of.entropy(joint)
    for agent, (distribution, own) in zip((0, 2, 3), wanted, strict=True):
        torch.testing.assert_close(log_prob[agent], distribution.log_prob(own))
        torch.testing.assert_close(entropy[agent], distribution.entropy())
    both = first.log_prob(action[1, :, 0]) + second.log_prob(action[1, :, 1])
    torch.testing.assert_close(log_prob[1], both)
    torch.testing.assert_close(entropy[1], first.entropy() + second.entropy())


def test_samples_come_as_often_as_they_are_probable() -> None:
    raw = torch.randn(4, 1, 6).expand(4, 40_000, 6)
    mask = masks()[:, :1].expand_as(raw)
    of = kind()
    joint = of.joint(of.policy(raw, mask), torch.zeros_like(raw), mask)
    action = of.sample(joint, of.noise((4, 40_000, 6), [torch.Generator().manual_seed(2)]))
    for agent, element, part in ((0, 0, slice(0, 3)), (1, 0, slice(0, 2)), (1, 1, SECOND)):
        logits = raw[agent, 0, part].masked_fill(~mask[agent, 0, part], -torch.inf)
        often = torch.bincount(action[agent, :, element].long(), minlength=len(logits)) / 40_000
        torch.testing.assert_close(often, logits.softmax(-1), atol=0.015, rtol=0)
    torch.testing.assert_close(action[2].mean(0), raw[2, 0, :2], atol=0.02, rtol=0)
    torch.testing.assert_close(action[2].std(0), torch.full((2,), 0.5), atol=0.02, rtol=0)


def test_the_mode_is_the_actors_in_every_element_whatever_the_modifier_says() -> None:
    of = MixedJoint(unlike_spec(), GapJoint(), GaussianJoint(0.1, 0.9))
    mask = masks()
    policy = of.policy(torch.randn(4, ROWS, 6), mask)
    joint = of.joint(policy, 5 * torch.randn(4, ROWS, 6), mask)
    torch.testing.assert_close(of.mode(joint), of.actor_mode(policy), rtol=0, atol=0)
    assert of.agree(joint, policy).all()
    assert (of.actor_mode(policy)[1, :, 1] == policy[1, :, SECOND].argmax(-1)).all()


def test_what_the_modifier_reads_are_probabilities_and_means() -> None:
    of, mask = kind(), masks()
    raw = torch.randn(4, ROWS, 6)
    features = of.features(of.policy(raw, mask))
    logits = raw.masked_fill(~mask, -torch.inf)
    torch.testing.assert_close(features[0, :, :3], logits[0, :, :3].softmax(-1))
    torch.testing.assert_close(
        features[1], torch.cat([logits[1, :, :2].softmax(-1), logits[1, :, SECOND].softmax(-1)], -1)
    )
    torch.testing.assert_close(features[2, :, :2], raw[2, :, :2])
    assert not features[0, :, 3:].any() and not features[2, :, 2:].any()


def test_a_discrete_team_has_the_same_probabilities_by_this_way() -> None:
    """Of agents who all choose one number, it is the discrete joint policy."""
    spec = msgspec.structs.replace(unlike_spec(), action_spaces=(Discrete(6),) * 4, fallback_actions=(0,) * 4)
    mixed, plain = MixedJoint(spec, GapJoint(), GaussianJoint(0.1, 0.9)), GapJoint()
    raw, score, mask = torch.randn(4, ROWS, 6), torch.randn(4, ROWS, 6), torch.ones(4, ROWS, 6, dtype=torch.bool)
    ours, theirs = mixed.joint(raw, score, mask), plain.joint(raw, score, mask)
    action = plain.sample(theirs, plain.noise((4, ROWS, 6), [torch.Generator().manual_seed(3)]))
    torch.testing.assert_close(mixed.log_prob(ours, action.float().unsqueeze(-1)), plain.log_prob(theirs, action))
    torch.testing.assert_close(mixed.entropy(ours), plain.entropy(theirs))


@pytest.mark.parametrize("mask", [False, True])
def test_each_graph_decides_what_the_team_decides(mask: bool) -> None:
    """By torch's single actor, ONNX Runtime and the reference evaluator; starts, bounds and rounding are in the graph."""
    spec = unlike_spec(mask)
    algorithm = tiny_algorithm(spec, share_parameters=False)
    team, allowed = (
        algorithm.team,
        masks() if mask else masks() | torch.tensor([3, 6, 0, 0]).view(4, 1, 1).gt(torch.arange(6)),
    )
    for parameter in team.actor.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    obs, memory = 3 * torch.randn(4, ROWS, 7), torch.randn(4, ROWS, team.actor.body.memory)
    with torch.no_grad():
        actors = team.step(obs, allowed, memory)
        actions = team.to_task(team.joint_policy.actor_mode(actors.policy))
    for i, space in enumerate(spec.action_spaces):
        single = DeployedActor(team.actor, spec, i)
        assert ("action_mask" in single.inputs) == (mask and not isinstance(space, Box))
        for name, step in evaluators(single, export_graph(single, {})).items():
            found, _, _ = step(
                obs[i].numpy(), allowed[i, :, : space.n].numpy(), memory[i].numpy(), silence(len(obs[i]))
            )
            wanted = own_action(spec, i, actions[i])
            assert found.dtype == wanted.dtype and found.shape == wanted.shape, name
            exact = not isinstance(space, Box) or space.whole
            assert np.allclose(found, wanted, rtol=0, atol=0 if exact else 1e-4), name
    wheel, fingers, arm, dial = actions
    for found, whole in ((wheel[:, 0], {2, 3, 4}), (fingers[:, 0], {0, 1}), (fingers[:, 1], {-1, 0, 1, 2})):
        assert set(found.tolist()) <= whole and found.unique().numel() > 1
    assert ((arm >= torch.tensor([-1.0, 0.0])) & (arm <= torch.tensor([1.0, 10.0]))).all() and (arm % 1).any()
    assert not (dial % 1).any() and dial[:, 0].unique().numel() > 1


def test_sac_says_that_it_cannot_learn_such_a_team() -> None:
    config = AgentMixerSAC.configure()
    with pytest.raises(
        AgentMixerError, match=r"agentmixer_sac learns teams whose agents all have .*; use agentmixer_ppo"
    ):
        AgentMixerSAC(unlike_spec(), config, [torch.Generator().manual_seed(0)])


def without_bounds() -> TaskSpec:
    space = Box((-1e15, -1e15, -2.0), (1e15, 3.0, 1e15))
    return msgspec.structs.replace(unlike_spec(), action_spaces=(space,) * 4, fallback_actions=((0.0, 0.0, 0.0),) * 4)


def test_a_real_value_without_a_bound_is_its_mean() -> None:
    team = tiny_algorithm(without_bounds(), share_parameters=False).team
    found = team.to_task(torch.tensor([[[7.5, -40.0, 9.0], [-1e9, 5.0, -6.0]]]).expand(4, 2, 3))
    torch.testing.assert_close(found[0], torch.tensor([[7.5, -40.0, 9.0], [-1e9, 3.0, -2.0]]))
