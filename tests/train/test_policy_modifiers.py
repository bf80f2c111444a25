"""The Policy Modifier in its three kinds: what they compute, what correlates agents, how they start."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from conftest import tiny_algorithm
from torch import Tensor, nn
from torch.nn import functional as F

from agentmixer.errors import AgentMixerError
from agentmixer.train.policy_modifiers import POLICY_MODIFIERS, MixerPM, PolicyModifier
from agentmixer.train.settings import AgentMixerTeamSettings
from agentmixer.train.team import ActorStep

AGENTS, BATCH, STATE, POLICY, FEATURES, ACTIONS, HIDDEN = 3, 4, 6, 4, 5, 4, 7
KINDS = sorted(POLICY_MODIFIERS)


def make(kind: str, agents: int = AGENTS) -> PolicyModifier:
    return POLICY_MODIFIERS[kind](
        agents, STATE, POLICY, FEATURES, ACTIONS, width=8, agent_hidden=HIDDEN, channel_hidden=9
    )


def scrambled(pm: PolicyModifier) -> PolicyModifier:
    for p in pm.parameters():
        nn.init.normal_(p, std=0.3)
    return pm


def inputs(agents: int = AGENTS, batch: int = BATCH) -> tuple[Tensor, Tensor, Tensor]:
    policy = torch.randn(agents, batch, POLICY).softmax(-1)
    return torch.randn(batch, STATE), policy, torch.randn(agents, batch, FEATURES)


def plain(layer: Any, x: Tensor) -> Tensor:
    """The affine map of a single team, written out. x [..., in] -> [..., out]."""
    return x @ layer.weight[0] + layer.bias[0]


def normed(norm: Any, x: Tensor) -> Tensor:
    return F.layer_norm(x, x.shape[-1:], norm.weight[0], norm.bias[0])


def mixer_mix(pm: Any, x: Tensor, encoded: Tensor) -> Tensor:
    """Every channel on its own: N numbers in, N numbers out."""
    return torch.stack([plain(pm.agent_out, torch.relu(plain(pm.agent_in, x[:, c]))) for c in range(x.shape[1])], dim=1)


def hypernetwork_mix(pm: Any, x: Tensor, encoded: Tensor) -> Tensor:
    """Every channel on its own, by weights read off the hypernetwork's output number by number."""
    generated = iter(plain(pm.hyper, encoded))
    w1 = [[next(generated) for _ in range(HIDDEN)] for _ in range(AGENTS)]
    b1 = [next(generated) for _ in range(HIDDEN)]
    w2 = [[next(generated) for _ in range(AGENTS)] for _ in range(HIDDEN)]
    b2 = [next(generated) for _ in range(AGENTS)]
    assert next(generated, None) is None
    columns = []
    for c in range(x.shape[1]):
        y = [torch.relu(sum((w1[i][k] * x[i, c] for i in range(AGENTS)), b1[k])) for k in range(HIDDEN)]
        columns.append(torch.stack([sum((w2[k][i] * y[k] for k in range(HIDDEN)), b2[i]) for i in range(AGENTS)]))
    return torch.stack(columns, dim=1)


def attention_mix(pm: Any, x: Tensor, encoded: Tensor) -> Tensor:
    """Every agent's own weights over all agents."""
    q, k, v = plain(pm.agent_in, x).split(HIDDEN, dim=1)
    rows = []
    for i in range(AGENTS):
        weights = [torch.exp(q[i].dot(k[j]) / math.sqrt(HIDDEN)) for j in range(AGENTS)]
        rows.append(sum(weights[j] * v[j] for j in range(AGENTS)) / sum(weights))
    return plain(pm.agent_out, torch.stack(rows))


MIX = {"mixer": mixer_mix, "hypernetwork": hypernetwork_mix, "attention": attention_mix}


@pytest.mark.parametrize("kind", KINDS)
def test_pm_equals_its_block_written_out_per_sample(kind: str) -> None:
    """Eq. 5 written out for one sample: X + mix(LN(X)) over agents, then X + W4 s(W3 LN(X)) over channels."""
    pm: Any = scrambled(make(kind))
    state, policy, features = inputs()
    got = pm(state, policy, features)
    assert got.shape == (AGENTS, BATCH, ACTIONS)
    for b in range(BATCH):
        encoded = torch.relu(plain(pm.state_encoder, normed(pm.state_norm, state[b])))
        rows = [
            torch.cat(
                [encoded, torch.relu(plain(pm.policy_encoder, policy[i, b])), features[i, b], torch.eye(AGENTS)[i]]
            )
            for i in range(AGENTS)
        ]
        x = torch.stack(rows)
        x = x + MIX[kind](pm, normed(pm.agent_norm, x), encoded)
        x = x + plain(pm.channel_out, torch.relu(plain(pm.channel_in, normed(pm.channel_norm, x))))
        torch.testing.assert_close(got[:, b], plain(pm.head, x), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_pm_correlates_agents_through_each_other_s_policies(kind: str) -> None:
    """Another agent's policy changes an agent's output, also at the start, and in its own sample alone."""
    for pm in (make(kind), scrambled(make(kind))):
        state, policy, features = inputs()
        before = pm(state, policy, features)
        policy[1, 2] = policy[1, 2].roll(1)
        after = pm(state, policy, features)
        for i in range(AGENTS):
            assert not torch.allclose(before[i, 2], after[i, 2], atol=1e-6, rtol=0.0)
        others = [0, 1, 3]
        torch.testing.assert_close(before[:, others], after[:, others], atol=1e-6, rtol=0.0)


@pytest.mark.parametrize("kind", KINDS)
def test_agents_meet_in_mix_alone(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pm = scrambled(make(kind))
    monkeypatch.setattr(pm, "mix", lambda x, encoded: torch.zeros_like(x))
    state, policy, features = inputs()
    before = pm(state, policy, features)
    policy[1] = policy[1].roll(1, dims=-1)
    after = pm(state, policy, features)
    assert torch.equal(before[[0, 2]], after[[0, 2]])
    assert not torch.equal(before[1], after[1])


@pytest.mark.parametrize("kind", KINDS)
def test_pm_starts_nearly_flat(kind: str) -> None:
    """Sizes of a 5v5 battle: the gap between an agent's greatest and least output is small beside a logit's unit."""
    torch.manual_seed(0)
    pm = POLICY_MODIFIERS[kind](5, 90, 10, 64, 10, width=32, agent_hidden=16, channel_hidden=64)
    out = pm(torch.randn(256, 90), torch.randn(5, 256, 10).softmax(-1), torch.randn(5, 256, 64))
    gap = out.amax(-1) - out.amin(-1)
    assert gap.mean() < 0.1
    assert gap.max() < 0.25


@pytest.mark.parametrize("agents", [1, 4])
@pytest.mark.parametrize("kind", KINDS)
def test_gradients_are_finite_and_reach_every_parameter(kind: str, agents: int) -> None:
    pm = make(kind, agents)
    pm(*inputs(agents, batch=64)).square().sum().backward()
    for name, p in pm.named_parameters():
        assert p.grad is not None
        assert p.grad.isfinite().all(), name
        # A lone agent attends to itself whatever its query and key are.
        assert agents == 1 or p.grad.abs().sum() > 0, name


@pytest.mark.parametrize("kind", KINDS)
def test_attention_alone_treats_agents_alike(kind: str) -> None:
    """Attention knows agents by what stands in their tokens; the MLPs over agents have a place for each."""
    pm = scrambled(make(kind))
    x, encoded = torch.randn(1, AGENTS, BATCH, pm.agent_norm.weight.shape[1]), torch.randn(1, BATCH, 8)
    order = [2, 0, 1]
    alike = torch.allclose(pm.mix(x[:, order], encoded), pm.mix(x, encoded)[:, order], atol=1e-5)
    assert alike == (kind == "attention")


@pytest.mark.parametrize("kind", KINDS)
def test_ids_tell_agents_of_equal_policy_and_features_apart(kind: str) -> None:
    pm = scrambled(make(kind))
    state, policy, features = inputs()
    out = pm(state, policy[:1].expand_as(policy), features[:1].expand_as(features))
    assert not torch.allclose(out[0], out[1], atol=1e-3)


@pytest.mark.parametrize("kind", KINDS)
def test_only_the_hypernetwork_mixes_by_the_state(kind: str) -> None:
    """The same tokens mixed in another state."""
    pm = scrambled(make(kind))
    x = torch.randn(1, AGENTS, BATCH, pm.agent_norm.weight.shape[1])
    one, two = pm.mix(x, torch.rand(1, BATCH, 8)), pm.mix(x, torch.rand(1, BATCH, 8))
    assert torch.equal(one, two) == (kind != "hypernetwork")


def test_a_hypernetwork_without_state_is_a_mixer() -> None:
    """With nothing but its bias the hypernetwork generates one MLP for all states: that of a mixer."""
    torch.manual_seed(1)
    hyper: Any = make("hypernetwork")
    mixer: Any = make("mixer")
    nn.init.zeros_(hyper.hyper.weight)
    parts = (mixer.agent_in.weight, mixer.agent_in.bias, mixer.agent_out.weight, mixer.agent_out.bias)
    with torch.no_grad():
        for p, part in zip(parts, hyper.hyper.bias[0].split(hyper.sizes), strict=True):
            p.copy_(part.view_as(p))
    x = torch.randn(1, AGENTS, BATCH, 10)
    torch.testing.assert_close(hyper.mix(x, torch.rand(1, BATCH, 8)), mixer.mix(x, torch.rand(1, BATCH, 8)))
    # Orthogonal, gain √2: how a mixer's own weights start.
    torch.testing.assert_close(parts[0][0] @ parts[0][0].T, 2 * torch.eye(AGENTS), atol=1e-5, rtol=0.0)


@pytest.mark.parametrize("kind", KINDS)
def test_the_setting_chooses_the_kind(kind: str) -> None:
    assert type(tiny_algorithm(pm=kind).team.pm) is POLICY_MODIFIERS[kind]


def test_an_unknown_kind_is_refused() -> None:
    with pytest.raises(
        AgentMixerError, match="setting pm must be one of mixer, hypernetwork, attention, none, got mlp"
    ):
        AgentMixerTeamSettings().replace({"pm": "mlp"})


def test_a_signal_keeps_its_size_beside_a_state_that_never_changes() -> None:
    """In a game of one state, PM tells every signal from every other, and doubling the state's scale changes nothing."""
    pm = scrambled(MixerPM(AGENTS, 1, POLICY, FEATURES, ACTIONS, 8, HIDDEN, 9, signal=1))
    _, policy, features = inputs(batch=5)
    policy, features = (array[:, :1].expand(-1, 5, -1) for array in (policy, features))
    signal = torch.tensor([-2.0, -0.5, 0.5, 0.9, 2.0]).unsqueeze(1)
    with torch.no_grad():
        score, scaled = (pm(torch.cat([state, signal], 1), policy, features) for state in (torch.ones(5, 1), torch.full((5, 1), 2.0)))  # fmt: skip
    torch.testing.assert_close(score, scaled)
    apart = (score.unsqueeze(1) - score.unsqueeze(2)).abs().amax((0, 3))
    assert (apart + torch.eye(5) > 1e-3).all()


@pytest.mark.parametrize("joint", ["gap", "gumbel"])
def test_without_a_pm_the_joint_policy_is_the_actors_own_and_stays_so(joint: str) -> None:
    algorithm = tiny_algorithm(pm="none", joint=joint)
    mask = torch.rand(3, 5, 4) < 0.7
    mask[..., 0] = True
    policy = algorithm.team.joint_policy.policy(torch.randn(3, 5, 4), mask)
    actors = ActorStep(policy, torch.randn(3, 5, 16), torch.zeros(3, 5, 16))
    found = algorithm.team.joint(actors, torch.randn(5, 11), torch.zeros(5, 0), mask)
    torch.testing.assert_close(found.log_pi.exp(), policy.softmax(-1))
    assert not any(parameter.requires_grad for parameter in algorithm.team.pm.parameters())


def test_without_a_pm_a_gaussian_team_learns_one_spread_an_element() -> None:
    from conftest import box_spec

    algorithm = tiny_algorithm(box_spec(), pm="none", share_parameters=False)
    first, second = (
        algorithm.team.pm(torch.randn(5, 11), torch.randn(2, 5, 3), torch.randn(2, 5, 16)) for _ in range(2)
    )
    torch.testing.assert_close(first, second)
    assert first.shape == (2, 5, 3)
    assert [parameter.shape for parameter in algorithm.team.pm.parameters() if parameter.requires_grad] == [(2, 1, 3)]
