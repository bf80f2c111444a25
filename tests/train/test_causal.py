"""`pm=causal`: what each agent is told, that acting and learning agree, its losses by hand, and what is left at the end."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
import pytest
import torch
from conftest import box_spec, random_rollout, tiny_algorithm, tiny_spec
from torch import Tensor

from agentmixer.errors import AgentMixerError
from agentmixer.study.analysis import joint_distribution
from agentmixer.tasks import check, make
from agentmixer.train.algorithms import AgentMixerPPO, AgentMixerSAC
from agentmixer.train.causal_loss import of_later_agents
from agentmixer.train.causal_team import CausalTeam
from agentmixer.train.rollout import Batch
from agentmixer.train.team import ActorStep

ROWS = 6


def causal(spec: Any = None, **settings: object) -> AgentMixerPPO:
    """With weights large enough that everything makes a difference."""
    algorithm = tiny_algorithm(spec, pm="causal", **{"share_parameters": False, **settings})
    with torch.no_grad():
        algorithm.team.pm.head.weight.normal_(std=0.5)  # type: ignore[union-attr, operator]
        algorithm.team.actor.head.weight.normal_(std=0.5)
    return algorithm


def team_of(algorithm: AgentMixerPPO) -> CausalTeam:
    assert isinstance(algorithm.team, CausalTeam)
    return algorithm.team


def step_of(team: CausalTeam) -> tuple[ActorStep, Tensor, Tensor]:
    """What the actors make of random observations, the state, and the mask."""
    rows, sizes = team.actor.body.agents, torch.tensor([space.n for space in team.spec.action_spaces] * team.count)
    mask = (torch.arange(team.actions) < sizes.view(-1, 1, 1)).expand(-1, ROWS, -1)
    if team.spec.discrete:
        mask = mask & (torch.rand(mask.shape) < 0.7)
        mask[..., 0] = True
    obs = torch.randn(rows, ROWS, max(team.spec.obs_sizes))
    with torch.no_grad():
        actors = team.step(obs, mask, torch.zeros(rows, ROWS, team.actor.body.memory))
    return actors, torch.randn(team.count * ROWS, team.spec.state_size), mask


@pytest.mark.parametrize("spec", [tiny_spec(), box_spec()], ids=["discrete", "real-valued"])
@pytest.mark.parametrize("free", [True, False])
def test_what_is_learned_from_is_what_acted(spec: Any, free: bool) -> None:
    """N turns, of two teams side by side, and one pass over the same actions give the same log-probabilities."""
    team = team_of(causal(spec, seeds=[0, 1]))
    team.joint_policy.free = free
    actors, state, mask = step_of(team)
    action, log_prob, score = team._turns(actors, state, team.action_noise(ROWS))
    with torch.no_grad():
        given = team.given(actors, state, action)
    torch.testing.assert_close(given, score, atol=1e-5, rtol=1e-5)
    kind: Any = team.joint_policy
    torch.testing.assert_close(
        kind.log_prob(kind.joint(actors.policy, given, mask), action), log_prob, atol=1e-5, rtol=1e-5
    )


@pytest.mark.parametrize("spec", [tiny_spec(), box_spec()], ids=["discrete", "real-valued"])
def test_an_agent_is_told_of_those_before_it_alone(spec: Any) -> None:
    """Another action of agent j changes the output of every later agent, and of no other by a single bit."""
    team = team_of(causal(spec))
    actors, state, _ = step_of(team)
    action, _, _ = team._turns(actors, state, team.action_noise(ROWS))
    with torch.no_grad():
        before = team.given(actors, state, action)
        for j in range(spec.num_agents):
            other = action.clone()
            other[j] = (other[j] + 1) % spec.action_spaces[j].n if spec.discrete else other[j] + 1.0
            after = team.given(actors, state, other)
            assert torch.equal(before[: j + 1], after[: j + 1])
            for later in range(j + 1, spec.num_agents):
                assert not torch.allclose(before[later], after[later], atol=1e-4)


def test_agents_can_be_random_and_agree() -> None:
    """What no product of policies can: half the time both play 0, else both play 1. Drawn actions have these frequencies, and the
    distribution that `analyze` computes is the same."""
    check("matrix", "climbing", None, {})
    task = make("matrix", "climbing", 4000)
    algorithm = AgentMixerPPO(
        task.spec, AgentMixerPPO.configure("default", "matrix"), [torch.Generator().manual_seed(0)]
    )
    team = team_of(algorithm)
    with torch.no_grad():
        pm = team.pm
        for parameter in (pm.head.weight, pm.channel_in.weight, pm.told, pm.agent_out.weight, pm.channel_out.weight):
            parameter.zero_()
        pm.told[0].copy_(10 * torch.eye(3, pm.told.shape[2]))  # of agent 0's action a, hidden unit a
        pm.channel_out.weight[0, :3, :3] = torch.eye(3)
        pm.head.weight[0, :3, :3] = 3 * torch.eye(3)
        pm.head.bias[0] = torch.tensor([0.0, 0.0, -40.0])  # nobody plays 2
    step = task.reset(0)
    obs, state, mask = (torch.from_numpy(np.array(a)) for a in (step.obs, step.state, step.action_mask))
    action, _, _ = team.act_jointly(obs, state, torch.zeros(4000, 0), mask, team.memory(4000), greedy=False)
    drawn = torch.zeros(3, 3).index_put_((action[0], action[1]), torch.tensor(1 / 4000), accumulate=True)
    exact = torch.from_numpy(joint_distribution(team, task)).float()
    torch.testing.assert_close(drawn, exact, atol=0.03, rtol=0.0)
    torch.testing.assert_close(exact, torch.diag(torch.tensor([0.5, 0.5, 0.0])), atol=0.03, rtol=0.0)


@pytest.mark.parametrize("spec", [tiny_spec(), box_spec()], ids=["discrete", "real-valued"])
def test_at_the_end_of_a_run_modes_are_the_actors_whatever_the_weights(spec: Any) -> None:
    algorithm = causal(spec)
    team = team_of(algorithm)
    algorithm.schedule(0.95)
    for trial in range(20):
        torch.manual_seed(trial)
        with torch.no_grad():
            for parameter in [*team.pm.parameters(), *team.actor.parameters()]:
                parameter.copy_(torch.randn_like(parameter) * 2)
        actors, state, mask = step_of(team)
        kind: Any = team.joint_policy
        action, _, _ = team._turns(actors, state)
        assert torch.equal(action, kind.actor_mode(actors.policy))
        with torch.no_grad():
            joint = kind.joint(
                actors.policy, team.given(actors, state, team._turns(actors, state, team.action_noise(ROWS))[0]), mask
            )
        assert torch.equal(kind.mode(joint), kind.actor_mode(actors.policy))


def test_under_the_gap_pm_goes_on_meaning_what_it_meant() -> None:
    """An action of which PM says less than of the mode is less likely than the actor has it, free or not."""
    kind = team_of(causal()).joint_policy
    policy, mask = torch.tensor([[[2.0, 1.0, 1.0]]]), torch.ones(1, 1, 3).bool()
    for free in (True, False):
        kind.free = free
        joint: Any = kind.joint(policy, torch.tensor([[[0.0, -1.0, 1.0]]]), mask)
        own = policy.log_softmax(-1)
        odds = (joint.log_pi - own)[0, 0]
        assert odds[1] - odds[0] < 0 < odds[2] - odds[0]


def test_what_comes_of_later_agents_by_hand() -> None:
    value = torch.tensor([[[1.0, 2.0], [3.0, 5.0], [7.0, 11.0]]])  # [1 team, 3 agents, 2 rows]
    found = of_later_agents(value, torch.ones_like(value))
    # Sums of later agents: agent 0: 10, 16; agent 1: 7, 11; agent 2: 0, 0; each less its mean.
    torch.testing.assert_close(found, torch.tensor([[[-3.0, 3.0], [-2.0, 2.0], [0.0, 0.0]]]))
    living = torch.tensor([[[1.0, 1.0], [1.0, 1.0], [1.0, 0.0]]])  # the last agent is dead in the second row
    found = of_later_agents(value, living)
    torch.testing.assert_close(found[0, 0], torch.tensor([2.5, -2.5]))  # 10 and 5


def test_the_schedule_by_hand() -> None:
    """The entropy weight falls evenly in its logarithm, then the reach, then the gap takes over."""
    algorithm = causal(entropy_coef=0.03, first_entropy=3.0, cooled=0.5, first_reach=101.05, pulled=0.9)
    kind = team_of(algorithm).joint_policy
    for progress, heat, reach, free in (
        (0.0, 3.0, 101.05, True),
        (0.25, 0.3, 101.05, True),
        (0.5, 0.03, 101.05, True),
        (0.7, 0.03, 51.05, True),
        (0.9, 0.03, 1.05, False),
        (1.0, 0.03, 1.05, False),
    ):
        algorithm.schedule(progress)
        assert algorithm.freedom.heat == pytest.approx(heat)
        assert algorithm.freedom.reach == pytest.approx(reach)
        assert kind.free is free
    cold = causal(entropy_coef=0.0, cooled=0.5)
    cold.schedule(0.5)
    assert cold.freedom.heat == pytest.approx(0.01)  # an entropy weight of zero has no logarithm


@pytest.mark.parametrize("spec", [tiny_spec(), box_spec()], ids=["discrete", "real-valued"])
def test_the_free_loss_term_by_term(spec: Any) -> None:
    """As `causal_loss` states it, agent by agent and row by row, from distributions of torch's own; the dead count for nothing."""
    algorithm = causal(spec, recurrent_actor=False, chunk_length=1, clip=0.2, first_reach=3.0, entropy_coef=0.05)
    algorithm.schedule(0.8)
    team = team_of(algorithm)
    heat, pull, reach = algorithm.freedom
    assert 0 < pull < 1 < reach < 3
    rollout = random_rollout(algorithm)
    batch = Batch.cut(rollout, torch.randn_like(rollout.value), rollout.value, 1)
    mask, action = batch.mask.flatten(1, 2), batch.action.flatten(1, 2)
    with torch.no_grad():
        actors = team.unroll(batch.obs, mask, batch.actor_memory[:, 0], batch.episode_start)
        joint: Any = team.joint_policy.joint(actors.policy, team.given(actors, batch.state.flatten(0, 2), action), mask)
        loss, numbers = algorithm.policy_loss(batch, algorithm.counts(batch.active))
    b, active = batch.log_prob.flatten(1), batch.active.flatten(1)
    advantage = batch.advantage.flatten(1)[0]
    guide, own = [], []
    for i, space in enumerate(spec.action_spaces):
        if spec.discrete:
            guide.append(torch.distributions.Categorical(logits=joint.log_pi[i]))
            own.append(torch.distributions.Categorical(logits=actors.policy[i]))
        else:
            n = space.n
            spread = joint.std[i, :, :n]
            guide.append(torch.distributions.Independent(torch.distributions.Normal(joint.mean[i, :, :n], spread), 1))
            own.append(torch.distributions.Independent(torch.distributions.Normal(actors.policy[i, :, :n], spread), 1))
    drawn = [action[i] if spec.discrete else action[i, :, : space.n] for i, space in enumerate(spec.action_spaces)]
    log_g = torch.stack([p.log_prob(a) for p, a in zip(guide, drawn, strict=True)])
    log_a = torch.stack([p.log_prob(a) for p, a in zip(own, drawn, strict=True)])
    total, entropy, divergence = 0.0, 0.0, 0.0
    count = int(active.sum())
    for i in range(spec.num_agents):
        kl, h = torch.distributions.kl_divergence(guide[i], own[i]), guide[i].entropy()
        later = torch.zeros_like(advantage)
        for j in range(i + 1, spec.num_agents):
            later += active[j] * (pull * (log_a[j] - b[j]) - heat * b[j])
        later = later - (later * active[i]).sum() / active[i].sum()
        for row in range(len(advantage)):
            if not active[i, row]:
                continue
            led, alone, stray = (float((x - y)[i, row].exp()) for x, y in ((log_g, b), (log_a, b), (log_g, log_a)))
            chosen, plain = float(advantage[row] + later[row]), float(advantage[row])
            near = min(max(min(max(stray, 1 / reach), reach) * alone, 0.8), 1.2)
            pm = min(led * chosen, near * chosen) + heat * float(h[row])
            if not 1 / reach < stray < reach:
                pm -= float(kl[row])
            actor = min(alone * plain, min(max(alone, 0.8), 1.2) * plain) - float(kl[row])
            total -= pm + actor
            entropy, divergence = entropy + float(h[row]), divergence + float(kl[row])
    assert loss.item() == pytest.approx(total / count, rel=1e-3)
    assert numbers["entropy"].item() == pytest.approx(entropy / count, rel=1e-4)
    assert numbers["actor_kl"].item() == pytest.approx(divergence / count, rel=1e-3)


def test_no_gradient_passes_between_pm_and_actors_while_they_are_free() -> None:
    """With the actors' own terms cut off by equal advantages of zero, imitation alone moves actors, and it does not move PM."""
    algorithm = causal(recurrent_actor=False, chunk_length=1)
    team = team_of(algorithm)
    actors, state, mask = step_of(team)
    raw = actors.policy.clone().requires_grad_()
    kind: Any = team.joint_policy
    score = team.given(actors, state, torch.zeros(3, ROWS, dtype=torch.int64))
    joint = kind.joint(kind.policy(raw, mask), score, mask)
    assert torch.autograd.grad(joint.log_pi.sum(), raw, allow_unused=True)[0] is None
    imitation = kind.divergence(kind.still(joint), kind.own(kind.policy(raw, mask), joint)).sum()
    to_pm = torch.autograd.grad(imitation, list(team.pm.parameters()), allow_unused=True, retain_graph=True)
    assert all(gradient is None for gradient in to_pm)
    assert torch.autograd.grad(imitation, raw)[0].abs().sum() > 0


@pytest.mark.parametrize("spec", [tiny_spec(), box_spec()], ids=["discrete", "real-valued"])
def test_every_parameter_learns(spec: Any) -> None:
    algorithm = causal(spec)
    before = {name: p.clone() for name, p in algorithm.team.pm.named_parameters()}
    algorithm.update(random_rollout(algorithm))
    for name, p in algorithm.team.pm.named_parameters():
        assert (p != before[name]).any(), name


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"joint": "gumbel"}, "pm=causal needs joint=gap, and joint is gumbel"),
        ({"signal": 2}, "pm=causal needs signal=0, and signal is 2"),
        ({"ratio": "joint"}, "pm=causal needs ratio=agent, and ratio is joint"),
        ({"cooled": 0.9, "pulled": 0.5}, "cooled is 0.9 and pulled 0.5"),
        ({"cooled": 0.0}, "cooled must lie between 0 and pulled"),
    ],
)
def test_settings_that_do_not_fit_are_refused(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(AgentMixerError, match=said):
        AgentMixerPPO.configure("default", "smacv2").replace({"pm": "causal", **settings}).check()
    AgentMixerPPO.configure("default", "smacv2").replace(settings).check()  # other kinds take no notice


def test_sac_and_mixed_teams_are_refused() -> None:
    with pytest.raises(AgentMixerError, match="pm must not be causal for SAC"):
        AgentMixerSAC.configure("default", "matrix").replace({"pm": "causal", "recurrent_actor": False}).check()
    box, whole = box_spec().action_spaces[0], tiny_spec().action_spaces[0]
    mixed = msgspec.structs.replace(box_spec(), action_spaces=(box, whole))
    with pytest.raises(AgentMixerError, match="pm=causal wants agents that all have Discrete or all have Box actions"):
        tiny_algorithm(mixed, pm="causal", share_parameters=False)
