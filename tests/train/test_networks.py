"""Actors and critics: independence, sharing, and gradients through time."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from agentmixer.train.blocks import chunks
from agentmixer.train.networks import Actor, Critic


def scrambled(module: nn.Module) -> nn.Module:
    for p in module.parameters():
        nn.init.normal_(p, std=0.3)
    return module


@pytest.mark.parametrize("shared", [True, False])
def test_an_actor_sees_its_own_observation_alone(shared: bool) -> None:
    actor = scrambled(Actor(3, shared, obs=5, actions=4, hidden=8, layers=1))
    obs, h = torch.randn(3, 6, 5), torch.randn(3, 6, 8)
    before = actor(obs, h)
    others = obs.clone()
    others[[0, 2]] = torch.randn(2, 6, 5)
    after = actor(others, h)
    for a, b in zip(before, after, strict=True):
        assert torch.equal(a[1], b[1])


def test_shared_actors_differ_by_their_bias_alone() -> None:
    actor = scrambled(Actor(2, True, obs=5, actions=4, hidden=8, layers=1))
    obs, h = torch.randn(1, 6, 5).expand(2, 6, 5), torch.randn(1, 6, 8).expand(2, 6, 8)
    logits, _, _ = actor(obs, h)
    assert not torch.equal(logits[0], logits[1])
    assert actor.body.agent_bias is not None
    actor.body.agent_bias.data.zero_()
    logits, _, _ = actor(obs, h)
    assert torch.equal(logits[0], logits[1])


def test_independent_actors_share_no_parameter() -> None:
    actor = scrambled(Actor(3, False, obs=5, actions=4, hidden=8, layers=1))
    actor(torch.randn(3, 6, 5), torch.zeros(3, 6, 8))[0][1].sum().backward()
    for name, p in actor.named_parameters():
        assert p.grad is not None
        assert p.grad[[0, 2]].abs().sum() == 0, name


def test_chunks_keep_steps_together_and_in_order() -> None:
    """Entry [:, l, c * E + e] is step c * L + l of environment e: flattening (L, N) as (N, L) scrambles time."""
    steps, envs, length = 6, 4, 3
    time_and_env = torch.stack(torch.meshgrid(torch.arange(steps), torch.arange(envs), indexing="ij"), -1).unsqueeze(0)
    cut = chunks(time_and_env, length)
    assert cut.shape == (1, length, 2 * envs, 2)
    for step in range(length):
        for chunk in range(2):
            for env in range(envs):
                assert cut[0, step, chunk * envs + env].tolist() == [chunk * length + step, env]


@pytest.mark.parametrize("length", [1, 2, 5])
@pytest.mark.parametrize("shared", [True, False])
def test_training_on_chunks_sees_what_acting_saw(length: int, shared: bool) -> None:
    """Unrolling the recorded chunks reproduces, step by step, the features computed while acting."""
    agents, steps, envs, hidden = 3, 10, 4, 8
    actor = scrambled(Actor(agents, shared, obs=5, actions=4, hidden=hidden, layers=1))
    obs = torch.randn(agents, steps, envs, 5)
    fresh = (torch.rand(steps, envs) < 0.3).float()
    h = torch.zeros(agents, envs, hidden)
    stored, acted = [], []
    for t in range(steps):
        h = h * (1 - fresh[t]).view(1, envs, 1)
        stored.append(h)
        features, h = actor.body(obs[:, t], h)
        acted.append(features)
    state, want = torch.stack(stored, 1), chunks(torch.stack(acted, 1), length)
    forget = chunks(fresh.expand(agents, steps, envs), length)
    got = actor.body.unroll(chunks(obs, length), chunks(state, length)[:, 0], forget)
    torch.testing.assert_close(got, want)


def test_gradients_reach_back_along_a_chunk_but_not_across_episodes() -> None:
    actor = scrambled(Actor(1, False, obs=5, actions=4, hidden=8, layers=1))
    for second_step_fresh, reaches in ((0.0, True), (1.0, False)):
        obs = torch.randn(1, 2, 1, 5, requires_grad=True)
        fresh = torch.tensor([[[0.0], [second_step_fresh]]])
        actor.body.unroll(obs, torch.zeros(1, 1, 8), fresh)[:, 1].sum().backward()
        assert obs.grad is not None
        assert bool(obs.grad[0, 0].abs().sum() > 0) == reaches


def test_critics_of_a_stack_are_independent() -> None:
    critic = scrambled(Critic(2, state=6, hidden=8, layers=1, recurrent=True))
    values, _ = critic(torch.randn(5, 6), torch.zeros(2, 5, 8))
    assert values.shape == (2, 5)
    assert not torch.equal(values[0], values[1])
