"""MAGPO: its losses by hand, what its guider is told, and what never passes between guider and actors."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import TINY, box_spec, quiet, random_rollout, tiny_spec
from safetensors.torch import load_file
from torch import Tensor

from agentmixer.contract.spec import TaskSpec
from agentmixer.errors import AgentMixerError
from agentmixer.export import exporter as exporting
from agentmixer.study.analysis import joint_distribution
from agentmixer.tasks import check, make
from agentmixer.train import checkpoint, trainer
from agentmixer.train import run as runs
from agentmixer.train.algorithms import MAGPO
from agentmixer.train.algorithms.magpo import divergence, double_clip, outside
from agentmixer.train.guided_team import GuidedTeam
from agentmixer.train.rollout import Batch
from agentmixer.train.run import Run
from agentmixer.train.stream import begin


def magpo(spec: TaskSpec | None = None, **settings: object) -> MAGPO:
    """With weights large enough that everything makes a difference."""
    config = MAGPO.configure().replace({**TINY, **settings})
    algorithm = MAGPO(spec or tiny_spec(), config, [torch.Generator().manual_seed(0)])
    with torch.no_grad():
        for head in (algorithm.team.actor.head, algorithm.team.pm.network.head):  # type: ignore[union-attr]
            head.weight.normal_(std=0.5)
    return algorithm


def logs(*probabilities: float) -> Tensor:
    return torch.tensor(probabilities).log()


# ---- losses ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("g", "a", "b", "advantage", "expected", "moves"),
    [
        (0.5, 0.5, 0.5, 2.0, 2.0, True),  # nothing has moved
        (0.55, 0.5, 0.5, 2.0, 2.2, True),  # within both clips: g/b
        (0.7, 0.6, 0.5, 2.0, 2.4, False),  # PPO's clip: 1.2
        (0.7, 0.6, 0.5, -2.0, -2.8, True),  # the worse of both
        (0.55, 0.3, 0.5, 2.0, 1.8, False),  # g/a = 1.83 counts as 1.5: 1.5 x .3 / .5 = .9
        (0.55, 0.3, 0.5, -2.0, -2.2, True),  # g/b = 1.1 is worse
        (0.1, 0.3, 0.2, -2.0, -2.0, False),  # g/a = 1/3 counts as 2/3: .2 / .2 = 1
    ],
)
def test_the_double_clip_by_hand(g: float, a: float, b: float, advantage: float, expected: float, moves: bool) -> None:
    """clip .2, delta 1.5. moves: whether there is a gradient to the guider."""
    log_g = logs(g).requires_grad_()
    found = double_clip(log_g, logs(a), logs(b), torch.tensor([advantage]), 0.2, 1.5)
    torch.testing.assert_close(found, torch.tensor([expected]))
    found.sum().backward()
    assert (log_g.grad != 0).item() is moves


def test_divergence_and_where_it_counts_by_hand() -> None:
    first, second = logs(0.5, 0.5).view(1, 1, 2), logs(0.25, 0.75).view(1, 1, 2)
    expected = 0.5 * math.log(2) + 0.5 * math.log(2 / 3)
    torch.testing.assert_close(divergence(first, second), torch.tensor([[expected]]))
    assert outside(logs(0.5, 0.5, 0.3, 0.3), logs(0.3, 0.4, 0.4, 0.5), 1.5).tolist() == [True, False, False, True]


def test_the_policy_loss_term_by_term() -> None:
    """As the file states it, from the guider's and the actors' distributions alone; dead agents count for nothing."""
    algorithm = magpo(recurrent_actor=False, chunk_length=1, alpha=0.7, delta=1.2, entropy_coef=0.03)
    team = algorithm.team
    assert isinstance(team, GuidedTeam)
    rollout = random_rollout(algorithm)
    batch = Batch.cut(rollout, *algorithm.advantages(rollout), 1)
    loss, numbers = algorithm.policy_loss(batch, algorithm.counts(batch.active))

    mask, action = batch.mask.flatten(1, 2), batch.action.flatten(1, 2)
    actors = team.step(batch.obs.flatten(1, 2), mask, team.memory(mask.shape[1])["actor"])
    a_all = actors.policy.softmax(-1)
    g_all = team.given(actors, batch.state.flatten(0, 2), action).masked_fill(~mask, -math.inf).softmax(-1)
    a, g = (p.gather(-1, action.unsqueeze(-1)).squeeze(-1) for p in (a_all, g_all))
    b, advantage, active = batch.log_prob.flatten(1, 2).exp(), batch.advantage.flatten(1), batch.active.flatten(1, 2)
    kl = torch.where(mask, g_all * (g_all / a_all.clamp_min(1e-30)).clamp_min(1e-30).log(), 0.0).sum(-1)
    entropy = -torch.where(mask, g_all * g_all.clamp_min(1e-30).log(), 0.0).sum(-1)
    near = ((g / a).clamp(1 / 1.2, 1.2) * a / b).clamp(0.8, 1.2)
    guider = torch.min(g / b * advantage, near * advantage) + 0.03 * entropy
    guider = guider - ((g / a > 1.2) | (g / a < 1 / 1.2)) * kl
    learner = 0.7 * torch.min(a / b * advantage, (a / b).clamp(0.8, 1.2) * advantage) - kl
    torch.testing.assert_close(loss, -(guider + learner)[active].mean().view(1), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(numbers["actor_kl"], kl[active].mean().view(1), rtol=1e-4, atol=1e-5)


def test_no_gradient_passes_between_guider_and_actors() -> None:
    """Each one's gradient is the same whatever the other's terms weigh."""
    first = magpo(alpha=1.0, delta=1.001)  # the guider is pulled back nearly everywhere
    rollout = random_rollout(first)
    batch = Batch.cut(rollout, *first.advantages(rollout), 4)
    worthless = batch._replace(advantage=torch.zeros_like(batch.advantage))

    def gradients(batch: Batch, **settings: object) -> list[list[Tensor]]:
        """Of actors, and of the guider."""
        algorithm = magpo(**settings)
        algorithm.load([first.share(0)])
        loss, _ = algorithm.policy_loss(batch, algorithm.counts(batch.active))
        both = [list(network.parameters()) for network in (algorithm.team.actor, algorithm.team.pm)]
        found = torch.autograd.grad(loss.sum(), both[0] + both[1])
        return [list(found[: len(both[0])]), list(found[len(both[0]) :])]

    actors, guider = gradients(batch, alpha=1.0, delta=1.001)
    alike, pulled_less = gradients(batch, alpha=1.0, delta=1e6)
    imitating, unmoved = gradients(worthless, alpha=0.0, delta=1e6, entropy_coef=0.0)
    learning_less, still = gradients(batch, alpha=0.0, delta=1.001)
    torch.testing.assert_close(alike, actors, rtol=0, atol=0)
    torch.testing.assert_close(still, guider, rtol=0, atol=0)
    assert not any(gradient.any() for gradient in unmoved)
    assert any(gradient.any() for gradient in imitating)
    torch.testing.assert_close(learning_less, imitating)
    assert not torch.equal(pulled_less[-1], guider[-1]) and not torch.equal(learning_less[-1], actors[-1])


# ---- what the guider is told -----------------------------------------------------------------------


def seen(spec: TaskSpec, rows: int = 6) -> tuple[Tensor, Tensor, Tensor]:
    """obs [N, B, D], state [B, S], mask [N, B, A]: two of the actions of every agent are legal."""
    agents, actions = spec.num_agents, max(space.n for space in spec.action_spaces)
    mask = torch.rand(agents, rows, actions).argsort(-1) < 2
    return torch.randn(agents, rows, max(spec.obs_sizes)), torch.randn(rows, spec.state_size), mask


def test_the_guider_is_told_the_actions_of_the_agents_before() -> None:
    algorithm = magpo()
    team = algorithm.team
    assert isinstance(team, GuidedTeam)
    obs, state, mask = seen(team.spec)
    actors = team.step(obs, mask, team.memory(6)["actor"])
    action = torch.randint(4, (3, 6))
    before = team.given(actors, state, action)
    for j in range(3):
        other = action.clone()
        other[j] = (other[j] + 1) % 4
        moved = (team.given(actors, state, other) != before).flatten(1).any(1)
        assert moved.tolist() == [i > j for i in range(3)]
        other_obs = obs.clone()
        other_obs[j] += 1
        moved = (team.given(actors._replace(features=other_obs), state, action) != before).flatten(1).any(1)
        assert moved.tolist() == [i == j for i in range(3)]
    assert (team.given(actors, state + 1, action) != before).flatten(1).any(1).all()


def test_what_is_stored_while_acting_is_what_the_update_computes() -> None:
    """Only legal actions are drawn."""
    task = make("passage", "two_agents", 4)
    algorithm = magpo(task.spec, num_envs=4, rollout_length=8)
    (rollout, _), team = (
        algorithm.collect([task], [begin(algorithm.team, algorithm.memory(4), task.reset(1))]),
        algorithm.team,
    )
    assert isinstance(team, GuidedTeam)
    batch = Batch.cut(rollout, *algorithm.advantages(rollout), 4)
    mask, action = batch.mask.flatten(1, 2), batch.action.flatten(1, 2)
    actors = team.unroll(batch.obs, mask, batch.actor_memory[:, 0], batch.episode_start)
    joint = team.joint_policy.joint(actors.policy, team.given(actors, batch.state.flatten(0, 2), action), mask)
    found = team.joint_policy.log_prob(joint, action)
    torch.testing.assert_close(found, batch.log_prob.flatten(1, 2), rtol=0, atol=2e-6)
    assert found.std() > 0.1
    task.close()

    team = magpo().team
    assert isinstance(team, GuidedTeam)
    obs, state, mask = seen(team.spec, 50)
    action, log_prob, _ = team.act_jointly(obs, state, torch.zeros(50, 0), mask, team.memory(50), greedy=False)
    assert mask.gather(-1, action.unsqueeze(-1)).all()
    actors = team.step(obs, mask, team.memory(50)["actor"])
    joint = team.joint_policy.joint(actors.policy, team.given(actors, state, action), mask)
    torch.testing.assert_close(team.joint_policy.log_prob(joint, action), log_prob, rtol=0, atol=2e-6)


def test_actions_are_drawn_from_the_guider_s_distribution_over_joint_actions() -> None:
    """Also the exact distribution that `analyze` uses sums to one, and its greedy path is what acts greedily."""
    task = make("matrix", "climbing", 1)
    algorithm = magpo(task.spec, share_parameters=False, recurrent_actor=False)
    team, step = algorithm.team, task.reset(0)
    table = joint_distribution(team, task)
    assert table.shape == (3, 3) and abs(table.sum() - 1) < 1e-6
    assert abs(table - table.sum(0) * table.sum(1, keepdims=True)).max() > 0.01  # no product
    rows = 20_000
    obs, state, mask = (torch.from_numpy(np.array(array)) for array in (step.obs, step.state, step.action_mask))
    many = obs.expand(-1, rows, -1), state.expand(rows, -1), torch.zeros(rows, 0), mask.expand(-1, rows, -1)
    action, log_prob, _ = team.act_jointly(*many, team.memory(rows), greedy=False)
    counts = np.bincount(3 * action[0].numpy() + action[1].numpy(), minlength=9).reshape(3, 3) / rows
    assert abs(counts - table).max() < 4 * 0.5 / math.sqrt(rows)
    np.testing.assert_allclose(log_prob.sum(0).exp(), table[action[0], action[1]], rtol=1e-4)
    greedy, _, _ = team.act_jointly(*many, team.memory(rows), greedy=True)
    first = table.sum(1).argmax()
    assert greedy[:, 0].tolist() == [first, table[first].argmax()]
    task.close()


def test_actors_act_on_their_own_observations_alone() -> None:
    team = magpo(share_parameters=False).team
    obs, _, mask = seen(team.spec)
    memory = team.memory(6)["actor"]
    action, after = team.act_alone(obs, mask, memory, greedy=True)
    others = torch.randn_like(obs)
    others[1] = obs[1]
    for p in team.pm.parameters():
        p.data.normal_()
    again, later = team.act_alone(others, mask, memory, greedy=True)
    assert torch.equal(action[1], again[1]) and torch.equal(after[1], later[1])
    assert not torch.equal(after[0], later[0])


def test_other_actions_than_discrete_ones_are_refused() -> None:
    with pytest.raises(AgentMixerError, match="magpo learns teams whose agents all have Discrete actions"):
        magpo(box_spec(), share_parameters=False)


# ---- runs ------------------------------------------------------------------------------------------


def started(path: Path, **settings: Any) -> Run:
    backend, options = check("passage", "two_agents", None, {})
    small = {**TINY, "num_envs": 16, "chunk_length": 2, "rollout_length": 4, "total_steps": 192, "eval_interval": 0}
    config = MAGPO.configure("default", "passage").replace(small | {"checkpoint_interval": 64} | settings)
    return runs.create("passage", "two_agents", backend, "magpo", "default", 1, "cpu", options, config, path)


def test_a_run_trains_resumes_to_the_same_bits_and_is_exported(tmp_path: Path) -> None:
    unbroken, broken = started(tmp_path / "unbroken"), started(tmp_path / "broken", total_steps=64)
    assert trainer.train(unbroken, quiet()) and trainer.train(broken, quiet())
    assert trainer.train(runs.extend(runs.load(broken.path), "192", None), quiet(), resume=True)
    ours, theirs = (load_file(checkpoint.latest(run)) for run in (broken, unbroken))
    assert ours.keys() == theirs.keys() and any(".pm." in name for name in ours)
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    lines = [json.loads(line) for line in (unbroken.path / "metrics.jsonl").read_text().splitlines()]
    assert all(line["actor_kl"] >= 0 and line["pm_grad_norm"] > 0 and line["actor_grad_norm"] > 0 for line in lines)
    exported = exporting.export(runs.load(unbroken.path), tmp_path / "bundle")
    assert all(parity.passed for kinds in exported.parity.values() for parity in kinds.values())
