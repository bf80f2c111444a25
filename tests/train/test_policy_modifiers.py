"""The Policy Modifier in its three kinds: what they compute, what correlates agents, how they start."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from conftest import random_rollout, tiny_algorithm
from test_rollout import Countdown
from torch import Tensor, nn
from torch.nn import functional as F

from agentmixer.errors import AgentMixerError
from agentmixer.train.algorithms import AgentMixerSAC
from agentmixer.train.policy_modifiers import POLICY_MODIFIERS, MixerPM, PolicyModifier, RecurrentPM
from agentmixer.train.rollout import Batch
from agentmixer.train.settings import AgentMixerTeamSettings
from agentmixer.train.stream import begin
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
    got, _ = pm(state, policy, features)
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
        before, _ = pm(state, policy, features)
        policy[1, 2] = policy[1, 2].roll(1)
        after, _ = pm(state, policy, features)
        for i in range(AGENTS):
            assert not torch.allclose(before[i, 2], after[i, 2], atol=1e-6, rtol=0.0)
        others = [0, 1, 3]
        torch.testing.assert_close(before[:, others], after[:, others], atol=1e-6, rtol=0.0)


@pytest.mark.parametrize("kind", KINDS)
def test_agents_meet_in_mix_alone(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pm = scrambled(make(kind))
    monkeypatch.setattr(pm, "mix", lambda x, encoded: torch.zeros_like(x))
    state, policy, features = inputs()
    before, _ = pm(state, policy, features)
    policy[1] = policy[1].roll(1, dims=-1)
    after, _ = pm(state, policy, features)
    assert torch.equal(before[[0, 2]], after[[0, 2]])
    assert not torch.equal(before[1], after[1])


@pytest.mark.parametrize("kind", KINDS)
def test_pm_starts_nearly_flat(kind: str) -> None:
    """Sizes of a 5v5 battle: the gap between an agent's greatest and least output is small beside a logit's unit."""
    torch.manual_seed(0)
    pm = POLICY_MODIFIERS[kind](5, 90, 10, 64, 10, width=32, agent_hidden=16, channel_hidden=64)
    out, _ = pm(torch.randn(256, 90), torch.randn(5, 256, 10).softmax(-1), torch.randn(5, 256, 64))
    gap = out.amax(-1) - out.amin(-1)
    assert gap.mean() < 0.1
    assert gap.max() < 0.25


@pytest.mark.parametrize("agents", [1, 4])
@pytest.mark.parametrize("kind", KINDS)
def test_gradients_are_finite_and_reach_every_parameter(kind: str, agents: int) -> None:
    pm = make(kind, agents)
    pm(*inputs(agents, batch=64))[0].square().sum().backward()
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
    out, _ = pm(state, policy[:1].expand_as(policy), features[:1].expand_as(features))
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
        AgentMixerError,
        match="setting pm must be one of mixer, hypernetwork, attention, recurrent, causal, none, got mlp",
    ):
        AgentMixerTeamSettings().replace({"pm": "mlp"})


def recurrent(signal: int = 0, norm: str = "layer") -> Any:
    return scrambled(RecurrentPM(AGENTS, STATE, POLICY, FEATURES, ACTIONS, 8, HIDDEN, 9, 1, signal, norm, 1))  # type: ignore[arg-type]


def test_the_recurrent_pm_equals_its_block_written_out_per_sample() -> None:
    """The authors' form: encoders of one width with a LayerNorm after every ReLU, and torch's own GRU over states."""
    pm = recurrent(signal=2)
    state, policy, features = inputs()
    signal, memory = torch.randn(BATCH, 2), torch.randn(1, BATCH, 8)
    got, after = pm(torch.cat([state, signal], 1), policy, features, memory)
    body = pm.state_encoder
    gru = nn.GRUCell(8, 8)
    for ours, theirs in (
        (body.gru.input, (gru.weight_ih, gru.bias_ih)),
        (body.gru.hidden, (gru.weight_hh, gru.bias_hh)),
    ):
        theirs[0].data, theirs[1].data = ours.weight[0].T, ours.bias[0]
    for b in range(BATCH):
        y = normed(body.norm, state[b])
        for linear, norm in zip(body.linears, body.norms, strict=True):
            y = normed(norm, torch.relu(plain(linear, y)))
        remembered = gru(y, memory[0, b])
        torch.testing.assert_close(after[0, b], remembered, atol=1e-5, rtol=1e-5)
        shared = torch.cat([normed(body.gru_norm, remembered), signal[b]])
        x = torch.stack([
            torch.cat([shared, normed(pm.policy_norm, torch.relu(plain(pm.policy_encoder, policy[i, b]))), features[i, b], torch.eye(AGENTS)[i]])
            for i in range(AGENTS)
        ])  # fmt: skip
        x = normed(pm.token_norm, torch.relu(plain(pm.token_encoder, x)))
        column = normed(pm.agent_norm, x)
        x = x + torch.stack([
            plain(pm.agent_out, normed(pm.agent_hidden_norm, torch.relu(plain(pm.agent_in, column[:, c])))) for c in range(8)
        ], dim=1)  # fmt: skip
        hidden = normed(pm.channel_hidden_norm, torch.relu(plain(pm.channel_in, normed(pm.channel_norm, x))))
        x = x + plain(pm.channel_out, hidden)
        torch.testing.assert_close(got[:, b], plain(pm.head, normed(pm.last_norm, x)), atol=1e-4, rtol=1e-4)


def test_what_the_recurrent_pm_learns_from_is_what_it_acted_by() -> None:
    """The log-probabilities that an update computes before its first step are those of acting, memory and all; and the memory
    says something."""
    settings = {"pm": "recurrent", "rollout_length": 8, "chunk_length": 4, "num_envs": 3, "joint": "gumbel"}
    algorithm = tiny_algorithm(**settings)
    scrambled(algorithm.team.pm)
    task = Countdown()
    out, _ = algorithm.collect([task], [begin(algorithm.team, algorithm.memory(3), task.reset(0))])
    for env, period in enumerate((2, 3, 4)):
        first = np.arange(8) % period == 0
        assert not out.pm_memory[0, first, env].any()
        assert out.pm_memory[0, ~first, env].abs().amin(-1).gt(0).any()
    batch = Batch.cut(out, torch.ones_like(out.value), out.value, 4)
    _, numbers = algorithm.policy_loss(batch, algorithm.counts(batch.active))
    assert numbers["approx_kl"] < 1e-9
    batch.pm_memory.zero_()
    _, numbers = algorithm.policy_loss(batch, algorithm.counts(batch.active))
    assert numbers["approx_kl"] > 1e-5


@pytest.mark.parametrize("kind", [*KINDS, "recurrent"])
def test_pm_sees_the_state_as_input_norm_says(kind: str) -> None:
    """Moments of what was seen: another unit of a state's element changes nothing, where LayerNorm would hear it shout. The
    moments move at an update alone."""
    algorithm = tiny_algorithm(pm=kind, input_norm="running", chunk_length=1, recurrent_actor=False)
    pm = scrambled(algorithm.team.pm)
    unit = torch.ones(11)
    unit[3] = 1000.0
    states = torch.randn(200, 11)
    policy, features = torch.rand(3, 200, 4), torch.randn(3, 200, 16)
    found = []
    for scale in (torch.ones(11), unit):
        norm = pm.state_encoder.norm if kind == "recurrent" else pm.state_norm
        norm.mean.zero_(), norm.variance.fill_(1.0), norm.count.zero_()
        before = pm(states * scale, policy, features)[0]
        pm.observe((states * scale).unsqueeze(0))
        found.append(pm(states * scale, policy, features)[0])
        assert not torch.allclose(before, found[-1], atol=1e-3)
    torch.testing.assert_close(*found, atol=1e-4, rtol=1e-4)
    algorithm.update(random_rollout(algorithm))
    assert norm.count.item() == 200 + 8 * 16


def test_sac_has_no_memory_for_a_recurrent_pm() -> None:
    config = AgentMixerSAC.configure("default", "matrix").replace({"pm": "recurrent", "recurrent_actor": False})
    with pytest.raises(AgentMixerError, match="pm must not be recurrent for SAC"):
        config.check()


def test_a_signal_keeps_its_size_beside_a_state_that_never_changes() -> None:
    """In a game of one state, PM tells every signal from every other, and doubling the state's scale changes nothing."""
    pm = scrambled(MixerPM(AGENTS, 1, POLICY, FEATURES, ACTIONS, 8, HIDDEN, 9, signal=1))
    _, policy, features = inputs(batch=5)
    policy, features = (array[:, :1].expand(-1, 5, -1) for array in (policy, features))
    signal = torch.tensor([-2.0, -0.5, 0.5, 0.9, 2.0]).unsqueeze(1)
    with torch.no_grad():
        score, scaled = (pm(torch.cat([state, signal], 1), policy, features)[0] for state in (torch.ones(5, 1), torch.full((5, 1), 2.0)))  # fmt: skip
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
        algorithm.team.pm(torch.randn(5, 11), torch.randn(2, 5, 3), torch.randn(2, 5, 16))[0] for _ in range(2)
    )
    torch.testing.assert_close(first, second)
    assert first.shape == (2, 5, 3)
    assert [parameter.shape for parameter in algorithm.team.pm.parameters() if parameter.requires_grad] == [(2, 1, 3)]
