"""AIL: a teacher that sees the state, and actors that imitate it."""

from __future__ import annotations

import math

import pytest
import torch
from conftest import TINY, box_spec, tiny_spec, unlike_spec
from test_rollout import Countdown
from torch import nn

from agentmixer.contract.spec import TaskSpec
from agentmixer.errors import AgentMixerError
from agentmixer.train.algorithms import AIL
from agentmixer.train.algorithms.ail import divergence
from agentmixer.train.joint_policy import Categorical, Gaussian
from agentmixer.train.rollout import Batch, Rollout
from agentmixer.train.stream import begin


def make(spec: TaskSpec | None = None, seeds: tuple[int, ...] = (0,), **settings: object) -> AIL:
    config = AIL.configure().replace({**TINY, "share_parameters": spec is None, **settings})
    return AIL(spec or tiny_spec(), config, [torch.Generator().manual_seed(seed) for seed in seeds])


def collected(algorithm: AIL, beta: float) -> Rollout:
    for module in (algorithm.team.actor, algorithm.team.pm):
        for p in module.parameters():
            nn.init.normal_(p, std=0.5)
    algorithm.beta = beta
    task = Countdown()
    out, _ = algorithm.collect([task], [begin(algorithm.team, algorithm.memory(3), task.reset(0))])
    return out


def test_the_teacher_s_share_falls_to_none() -> None:
    algorithm = make(beta_end=0.4)
    for progress, want in ((0.0, 1.0), (0.1, 0.75), (0.4, 0.0), (1.0, 0.0)):
        algorithm.schedule(progress)
        assert algorithm.beta == pytest.approx(want)


def test_one_coin_an_episode_says_who_plays_it() -> None:
    """Both kinds of episodes are in a rollout; within one the signal never changes; log-probabilities are those of who played, which
    the update finds again before its first step."""
    algorithm = make(rollout_length=32, num_envs=3, chunk_length=4)
    out = collected(algorithm, 0.5)
    changed = (out.signal[0, 1:] != out.signal[0, :-1]).squeeze(-1)
    assert torch.equal(changed, out.episode_start[0, 1:] > 0)
    taught = algorithm.team.taught(out.signal, 0.5)
    assert 0.2 < taught.float().mean() < 0.8
    batch = Batch.cut(out, torch.ones_like(out.value), out.value, 4)
    _, numbers = algorithm.policy_loss(batch, algorithm.counts(batch.active))
    assert numbers["approx_kl"] < 1e-9
    algorithm.beta = 1.0  # were all of it the teacher's, this would show
    _, numbers = algorithm.policy_loss(batch, algorithm.counts(batch.active))
    assert numbers["approx_kl"] > 1e-3


def test_jointly_the_teacher_acts_and_alone_the_actors() -> None:
    algorithm = make(rollout_length=32, num_envs=3)
    collected(algorithm, 0.0)
    team, seen = algorithm.team, Countdown().reset(0)
    obs, state, mask = (torch.from_numpy(array) for array in (seen.obs, seen.state, seen.action_mask))
    team.pm.policy.head.bias.data[:, 2] += 100.0
    team.actor.head.bias.data[:, 1] += 100.0
    memory = team.memory(3)
    joint, _, _ = team.act_jointly(obs, state, torch.full((3, 1), 9.0), mask, memory, greedy=True)
    alone, _ = team.act_alone(obs, mask, memory["actor"], greedy=True)
    assert joint.eq(2).all() and alone.eq(1).all()


@pytest.mark.parametrize("real", [False, True])
def test_imitation_moves_the_actors_alone_and_reward_the_teacher_alone(real: bool) -> None:
    algorithm = make(box_spec() if real else None, rollout_length=8, num_envs=3, chunk_length=1, entropy_coef=0.0)
    from conftest import random_rollout

    rollout = random_rollout(algorithm)
    batch = Batch.cut(rollout, *algorithm.advantages(rollout), 1)

    def gradients(beta: float, advantage: float) -> list[float]:
        algorithm.beta = beta
        for module in (algorithm.team.actor, algorithm.team.pm):
            module.zero_grad()
        part = batch._replace(advantage=batch.advantage * advantage)
        algorithm.policy_loss(part, algorithm.counts(part.active))[0].sum().backward()
        return [
            sum(float(p.grad.abs().sum()) for p in module.parameters() if p.grad is not None)
            for module in (algorithm.team.actor, algorithm.team.pm)
        ]

    (actors, teacher), (same, more), (still, none) = gradients(1.0, 1.0), gradients(1.0, 3.0), gradients(0.0, 1.0)
    assert actors == pytest.approx(same, rel=1e-5) == pytest.approx(still, rel=1e-5) and actors > 0
    assert teacher > 0 and more > 2 * teacher and none == 0


def test_the_divergence_by_hand() -> None:
    p, q = torch.tensor([0.5, 0.25, 0.25]), torch.tensor([0.25, 0.25, 0.5])
    found = divergence(Categorical(p.log(), p.log()), Categorical(q.log(), q.log()))
    assert float(found) == pytest.approx(0.5 * math.log(2) + 0.25 * math.log(0.5))
    one, exists = torch.tensor([[[0.0, 1.0, 9.0]]]), torch.tensor([[[1.0, 1.0, 0.0]]])
    other, std = torch.tensor([[[0.5, 1.0, 0.0]]]), torch.full((1, 1, 3), 0.25)
    assert float(divergence(Gaussian(one, std, exists), Gaussian(other, std, exists))) == pytest.approx(2.0)


def test_unlike_agents_are_refused() -> None:
    with pytest.raises(
        AgentMixerError, match="ail learns teams whose agents all have Discrete or all have Box actions"
    ):
        make(unlike_spec())
