"""Agents that act one after another (MAT and ARMAPPO): who is told what, and that acting and learning see one policy."""

from __future__ import annotations

import pytest
import torch
from conftest import TINY, box_spec, tiny_spec
from test_mat import ROWS, masked, mat, observed

from agentmixer.contract.spec import TaskSpec
from agentmixer.errors import AgentMixerError
from agentmixer.tasks import make
from agentmixer.train.algorithms import ARMAPPO, MAPPO, MAT
from agentmixer.train.algorithms.armappo import ToldTeam
from agentmixer.train.rollout import Batch
from agentmixer.train.stream import begin
from agentmixer.train.team import Team


def armappo(spec: TaskSpec, seeds: tuple[int, ...] = (0,), **settings: object) -> ARMAPPO:
    config = ARMAPPO.configure().replace({**TINY, "share_parameters": spec.discrete, **settings})
    return ARMAPPO(spec, config, [torch.Generator().manual_seed(seed) for seed in seeds])


CASES = [
    pytest.param(make, spec, share, id=f"{make.__name__}-{'discrete' if spec.discrete else 'real'}-{share}")
    for make in (mat, armappo)
    for spec, share in ((tiny_spec(), True), (tiny_spec(), False), (box_spec(), False))
]


def scrambled(algorithm: MAPPO) -> Team:
    """Its team, with policies that are far from even."""
    for module in (algorithm.team.actor, algorithm.critic, algorithm.team.pm):
        for p in module.parameters():
            if p.requires_grad:
                torch.nn.init.normal_(p, std=0.3)
    return algorithm.team


def policies(team: Team, obs: torch.Tensor, mask: torch.Tensor, action: torch.Tensor) -> torch.Tensor:
    """The policies of one step as an update computes them, all at once."""
    memory, start = team.memory(obs.shape[1])["actor"], torch.zeros(team.count, 1, obs.shape[1])
    return team.unroll(obs[:, None], mask, memory, start, action[:, None]).policy


def acted(team: Team, obs: torch.Tensor, mask: torch.Tensor, greedy: bool) -> tuple[torch.Tensor, torch.Tensor]:
    memory, rows = team.memory(obs.shape[1]), obs.shape[1] * team.count
    state = torch.zeros(rows, team.spec.state_size)
    action, log_prob, _ = team.act_jointly(obs, state, torch.zeros(rows, 0), mask, memory, greedy)
    return action, log_prob


@pytest.mark.parametrize(("make_one", "spec", "share"), CASES)
@torch.no_grad()
def test_an_action_is_seen_by_those_who_act_later_and_by_nobody_else(make_one, spec: TaskSpec, share: bool) -> None:
    team = scrambled(make_one(spec, share_parameters=share))
    obs, mask = observed(spec), torch.ones_like(masked(spec))
    action = acted(team, obs, mask, greedy=False)[0]
    before = policies(team, obs, mask, action)
    for told in range(spec.num_agents):
        other = action.clone()
        other[told] = (other[told] + 1) % 4 if spec.discrete else other[told] + 1.0
        changed = (policies(team, obs, mask, other) != before).flatten(1).any(1)
        assert changed.tolist() == [agent > told for agent in range(spec.num_agents)]


@pytest.mark.parametrize(("make_one", "spec", "share"), CASES)
@torch.no_grad()
def test_what_acts_in_turn_is_what_learns_at_once(make_one, spec: TaskSpec, share: bool) -> None:
    """Log-probabilities of drawn actions are those that the update finds; greedy actions are modes; illegal ones are never
    drawn. Executed, the team does the same."""
    team = scrambled(make_one(spec, share_parameters=share))
    obs, mask, kind = observed(spec, 64), masked(spec, 64), team.joint_policy
    for greedy in (False, True):
        action, log_prob = acted(team, obs, mask, greedy)
        policy = policies(team, obs, mask, action)
        joint = kind.joint(policy, team.pm(None, policy, None)[0], mask)
        torch.testing.assert_close(kind.log_prob(joint, action), log_prob, rtol=1e-4, atol=1e-4)
        if greedy:
            torch.testing.assert_close(kind.mode(joint), action)
            alone, _ = team.act_alone(obs, mask, team.memory(64)["actor"], True)
            assert torch.equal(alone, action)
        if spec.discrete:
            assert mask.gather(-1, action.unsqueeze(-1)).all()
            drawn, _ = team.act_alone(obs, mask, team.memory(64)["actor"], False)
            assert mask.gather(-1, drawn.unsqueeze(-1)).all()
        else:
            assert not action[~mask].any()


@pytest.mark.parametrize("make_one", [mat, armappo])
@torch.no_grad()
def test_joint_actions_are_drawn_as_often_as_they_are_likely(make_one) -> None:
    """All 64 joint actions of three agents, of which the probabilities make 1."""
    spec, draws = tiny_spec(), 20_000
    team = scrambled(make_one(spec))
    obs, mask = observed(spec, 1), torch.ones(3, 1, 4, dtype=torch.bool)
    each = torch.cartesian_prod(*[torch.arange(4)] * 3).T.contiguous()  # [3, 64]
    log_pi = policies(team, obs.expand(-1, 64, -1), mask.expand(-1, 64, -1), each).log_softmax(-1)
    likely = log_pi.gather(-1, each.unsqueeze(-1)).sum((0, 2)).exp()
    torch.testing.assert_close(likely.sum(), torch.tensor(1.0))
    action, _ = acted(team, obs.expand(-1, draws, -1), mask.expand(-1, draws, -1), greedy=False)
    often = torch.bincount(16 * action[0] + 4 * action[1] + action[2], minlength=64) / draws
    assert ((often - likely).abs() < 5 * (likely * (1 - likely) / draws).sqrt() + 1e-4).all()
    alone = [log_pi[i].exp().unique(dim=0) for i in range(3)]
    assert [len(policy) for policy in alone] == [1, 4, 16]  # one policy for each thing told


@pytest.mark.usefixtures("short_episodes")
@pytest.mark.parametrize("kind", [MAT, ARMAPPO])
@pytest.mark.parametrize(("task", "scenario"), [("predator_prey", "5x5"), ("mamujoco", "Reacher-2x1")])
def test_before_the_first_gradient_step_every_ratio_is_one(kind: type[MAPPO], task: str, scenario: str) -> None:
    config = kind.configure("default", task).replace({**TINY, "num_envs": 4}).fitted(TINY)
    played = kind.shown(make(task, scenario, 4))
    algorithm = kind(played.spec, config, [torch.Generator().manual_seed(0)])
    stream = begin(algorithm.team, algorithm.memory(4), played.reset(1))
    scrambled(algorithm)
    rollout, _ = algorithm.collect([played], [stream])
    batch = Batch.cut(rollout, *algorithm.advantages(rollout), config.algorithm.chunk_length)
    with torch.no_grad():
        _, numbers = algorithm.policy_loss(batch, algorithm.counts(batch.active))
    assert abs(float(numbers["approx_kl"])) < 1e-6 and float(numbers["clip_fraction"]) == 0
    (told,) = algorithm.update(rollout)
    assert told["policy_loss"] != 0 and told["value_loss"] > 0 and told["actor_grad_norm"] > 0
    played.close()


def test_what_an_agent_is_told() -> None:
    """Three agents, two teams; agent 0 is told nothing, agent 1 of agent 0, agent 2 of both. Two numbers an action."""
    team = armappo(tiny_spec(actions=2), (0, 1)).team
    assert isinstance(team, ToldTeam)
    told = team.told(torch.tensor([[0], [1], [0], [1], [1], [1]]))
    assert told.tolist() == [
        [[0, 0, 0, 0]], [[1, 0, 0, 0]], [[1, 0, 0, 1]], [[0, 0, 0, 0]], [[0, 1, 0, 0]], [[0, 1, 0, 1]],
    ]  # fmt: skip


@torch.no_grad()
def test_teams_side_by_side_act_as_each_would_alone() -> None:
    spec = tiny_spec()
    both, obs, mask = armappo(spec, (0, 1)), observed(spec, 2 * ROWS), masked(spec, 2 * ROWS)
    together = torch.cat([obs[:, :ROWS], obs[:, ROWS:]]), torch.cat([mask[:, :ROWS], mask[:, ROWS:]])
    action, log_prob = acted(both.team, *together, greedy=False)
    for k in range(2):
        own = slice(k * ROWS, (k + 1) * ROWS)
        alone = acted(armappo(spec, (k,)).team, obs[:, own], mask[:, own], greedy=False)
        assert torch.equal(alone[0], action[3 * k : 3 * k + 3])
        torch.testing.assert_close(alone[1], log_prob[3 * k : 3 * k + 3])


def test_an_agent_that_is_alone_is_told_nothing() -> None:
    """ARMAPPO is MAPPO there."""
    spec = tiny_spec(agents=1)
    theirs = MAPPO(spec, MAPPO.configure().replace(TINY), [torch.Generator().manual_seed(0)])
    ours, obs, mask = armappo(spec), observed(spec), masked(spec)
    for a, b in zip(acted(ours.team, obs, mask, False), acted(theirs.team, obs, mask, False), strict=True):
        assert torch.equal(a, b)


def test_no_agent_has_a_policy_of_its_observation_alone() -> None:
    for team in (mat(tiny_spec()).team, armappo(tiny_spec()).team):
        with pytest.raises(AgentMixerError, match="act one after another, each told what those before it do"):
            team.step(observed(tiny_spec()), masked(tiny_spec()), torch.zeros(3, ROWS, 16))
