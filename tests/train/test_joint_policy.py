"""The joint policy of eq. 12 and its traps."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from conftest import random_masks, random_rollout, tiny_algorithm, tiny_spec
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

from agentmixer.train.algorithms import AgentMixerPPO
from agentmixer.train.joint_policy import ILLEGAL, Categorical, GapJoint, GumbelJoint, mask_logits, sample
from agentmixer.train.policy_modifiers import MixerPM
from agentmixer.train.rollout import Batch


def joint(kind: GumbelJoint | GapJoint, logits: torch.Tensor, score: torch.Tensor, mask: object = None) -> Categorical:
    mask = torch.ones_like(logits, dtype=torch.bool) if mask is None else mask
    assert isinstance(mask, torch.Tensor)
    return kind.joint(kind.policy(logits, mask), score, mask)


def test_equation_12_by_hand() -> None:
    pi, score, tau = [0.7, 0.2, 0.1], [0.5, -1.0, 2.0], 2.0
    weights = []
    for p, x in zip(pi, score, strict=True):
        u = 1 / (1 + math.exp(-x))
        g = -math.log(-math.log(u))
        weights.append(math.exp((math.log(p) + g) / tau))
    want = torch.tensor([math.log(w / sum(weights)) for w in weights])
    got = joint(GumbelJoint(tau), torch.tensor(pi).log(), torch.tensor(score)).log_pi
    torch.testing.assert_close(got, want)


def test_equation_12_as_the_authors_scale_it_by_hand() -> None:
    """u = .5 sigmoid(.3 x): g is then at most -log(-log .5) = .37, whatever PM says; an unscaled u lets it reach 15."""
    pi, score = [0.7, 0.2, 0.1], [0.5, -1.0, 2.0]
    weights = [
        p * math.exp(-math.log(-math.log(0.5 / (1 + math.exp(-0.3 * x))))) for p, x in zip(pi, score, strict=True)
    ]
    got = joint(GumbelJoint(1.0, 0.5, 0.3), torch.tensor(pi).log(), torch.tensor(score)).log_pi
    torch.testing.assert_close(got, torch.tensor([math.log(w / sum(weights)) for w in weights]))
    most = {
        scale: float(GumbelJoint(1.0, scale).scores(torch.zeros(1), torch.tensor([1e9]))) for scale in (0.5, 0.95, 1.0)
    }
    assert most == pytest.approx({0.5: 0.3665, 0.95: 2.970, 1.0: 15.0}, abs=1e-3)


def test_a_flat_score_leaves_the_actors_policy_as_it_is() -> None:
    logits = torch.randn(4, 6)
    for kind, flat in ((GumbelJoint(1.0), 0.3), (GapJoint(), 0.0)):
        torch.testing.assert_close(joint(kind, logits, torch.full((4, 6), flat)).log_pi, logits.log_softmax(-1))


def test_extreme_scores_stay_finite_with_finite_gradients() -> None:
    score = torch.tensor([-1e4, 0.0, 1e4, 30.0], requires_grad=True)
    for kind in (GumbelJoint(1.0), GapJoint(), GapJoint(0.5)):
        logits = torch.tensor([0.0, 50.0, -50.0, ILLEGAL], requires_grad=True)
        mask = torch.tensor([True, True, True, False])
        out = kind.joint(logits, score, mask)
        (out.log_pi[:3].sum() + kind.entropy(out)).backward()
        assert out.log_pi.isfinite().all()
        for leaf in (score, logits):
            assert leaf.grad is not None
            assert leaf.grad.isfinite().all()


def test_illegal_actions_have_no_probability_and_no_part_in_entropy() -> None:
    mask = torch.tensor([True, False, True, False])
    for kind in (GumbelJoint(1.0), GapJoint(), GapJoint(0.5)):
        out = joint(kind, torch.zeros(4), torch.tensor([0.0, 9.0, 0.0, 9.0]), mask)
        assert out.log_pi.exp()[~mask].sum() == 0
        torch.testing.assert_close(kind.entropy(out), torch.tensor(math.log(2)))
        many = Categorical(out.scores.expand(500, 4), out.log_pi.expand(500, 4))
        assert set(kind.sample(many, kind.noise((500, 4), [torch.Generator().manual_seed(0)])).tolist()) == {0, 2}


def test_sampling_follows_the_probabilities() -> None:
    log_pi = torch.tensor([0.5, 0.3, 0.2]).log().expand(20_000, 3)
    drawn = sample(log_pi, GapJoint().noise((20_000, 3), [torch.Generator().manual_seed(1)]))
    share = torch.bincount(drawn, minlength=3) / 20_000
    # Three standard errors of a share of .5 are .0106.
    torch.testing.assert_close(share, torch.tensor([0.5, 0.3, 0.2]), atol=0.011, rtol=0)


def test_equation_12_does_not_guarantee_the_mode() -> None:
    # Actor prefers 0; g of scores (-3, 3) is (-1.1, 3.0): the joint policy prefers 1. It must be measured.
    log_pi = torch.tensor([0.6, 0.4]).log()
    for tau in (1.0, 0.01):
        out = joint(GumbelJoint(tau), log_pi, torch.tensor([-3.0, 3.0]))
        assert (log_pi.argmax(), out.scores.argmax()) == (0, 1)


@given(st.integers(0, 2**31), st.floats(-12, 4), st.floats(-3, 3))
def test_the_gap_keeps_the_actors_mode_whatever_the_state_and_mask(seed: int, closeness: float, spread: float) -> None:
    """Also where two logits differ in their last bits, or not at all, and where PM says the most extreme things."""
    generator = np.random.default_rng(seed)
    logits = generator.normal(size=(64, 9)) * 10**closeness + generator.normal() * 3
    logits[::3] = np.round(logits[::3], 2)  # ties
    score = generator.normal(size=(64, 9)) * 10**spread
    mask = torch.from_numpy(random_masks(generator, 64, 9))
    kind = GapJoint()
    policy = kind.policy(torch.from_numpy(logits.astype(np.float32)), mask)
    out = kind.joint(policy, torch.from_numpy(score.astype(np.float32)), mask)
    assert torch.equal(kind.mode(out), policy.argmax(-1))
    assert kind.agree(out, policy).all()
    assert mask.gather(-1, kind.mode(out).unsqueeze(-1)).all()
    torch.testing.assert_close(out.log_pi.exp().sum(-1), torch.ones(64))


def test_the_gap_by_hand() -> None:
    # Distances 0, 1, 2 from the mode; factors exp(3 tanh(score / 3)).
    factors = [math.exp(3 * math.tanh(x / 3)) for x in (5.0, -1.0, 0.5)]
    weights = [math.exp(-d * f) for d, f in zip((0, 1, 2), factors, strict=True)]
    want = torch.tensor([math.log(w / sum(weights)) for w in weights])
    got = joint(GapJoint(), torch.tensor([1.0, 0.0, -1.0]), torch.tensor([5.0, -1.0, 0.5]))
    torch.testing.assert_close(got.log_pi, want)


@pytest.mark.parametrize(
    ("schedule", "middle"),
    [
        ("constant", 2.0),
        ("linear", 1.25),
        ("cosine", 1.25),
        ("exponential", 1.0),
        ("late", 2 - 1.5 / (math.exp(2.5) + 1)),
    ],
)
def test_temperature_schedules_by_hand(schedule: str, middle: float) -> None:
    end = 2.0 if schedule == "constant" else 0.5
    kind = GumbelJoint(2.0)
    for progress, want in ((0.0, 2.0), (0.5, middle), (1.0, end)):
        kind.anneal(2.0, 0.5, schedule, progress)
        assert kind.tau == pytest.approx(want)


def test_the_temperature_follows_the_run() -> None:
    algorithm = tiny_algorithm(joint="gumbel", tau=2.0, tau_end=0.5, tau_schedule="linear")
    algorithm.schedule(0.5)
    assert isinstance(algorithm.team.joint_policy, GumbelJoint)
    assert algorithm.team.joint_policy.tau == 1.25


def test_mode_agreement_is_measured_over_living_agents() -> None:
    algorithm = tiny_algorithm(tiny_spec(agents=2, actions=2))
    batch = _batch(algorithm, size=4)

    def flipped(policy: torch.Tensor, score: object, mask: object) -> Categorical:
        scores = torch.stack([policy[0], policy[1].flip(-1)])
        return Categorical(scores, scores.log_softmax(-1))

    algorithm.team.joint_policy.joint = flipped  # type: ignore[method-assign]
    batch.mask[:] = True
    _, numbers = policy_loss(algorithm, batch)
    assert numbers["mode_agreement"] == 0.5
    batch.active[1] = False
    _, numbers = policy_loss(algorithm, batch)
    assert numbers["mode_agreement"] == 1.0


def test_given_the_state_the_joint_policy_is_a_product_without_hidden_noise() -> None:
    """Whatever was drawn between, and whatever the generators did, the same state makes the same joint policy."""
    algorithm = tiny_algorithm(signal=2)
    batch, team = _batch(algorithm, size=5), algorithm.team
    mask = batch.mask[:, 0]
    actors = team.step(batch.obs[:, 0], mask, batch.actor_memory[:, 0])
    first = team.joint(actors, batch.state[0, 0], batch.signal[0, 0], mask)
    torch.randn(100)
    team.generators[0].manual_seed(99)
    again = team.joint(actors, batch.state[0, 0], batch.signal[0, 0], mask)
    assert torch.equal(first.scores, again.scores)
    # What does vary is told: another signal makes another joint policy.
    other = team.joint(actors, batch.state[0, 0], batch.signal[0, 0] + 1.0, mask)
    assert not torch.equal(first.scores, other.scores)


def test_pm_tells_policies_apart_beside_illegal_actions() -> None:
    """With -1e10 in its input the encodings of different policies come out bit-identical; with probabilities not."""
    pm = MixerPM(agents=1, state=3, policy=4, features=2, actions=4, width=8, agent_hidden=4, channel_hidden=8)
    mask = torch.tensor([True, True, False, False])
    policies = [mask_logits(torch.tensor([a, -a, 0.0, 0.0]), mask) for a in (0.5, 2.0)]
    raw = [F.layer_norm(pm.policy_encoder(p.view(1, 1, 4)), (8,)) for p in policies]
    assert torch.equal(raw[0], raw[1])
    ours = [pm(torch.zeros(1, 3), p.softmax(-1).view(1, 1, 4), torch.zeros(1, 1, 2))[0] for p in policies]
    assert not torch.equal(ours[0], ours[1])


def test_actors_learn_through_the_logit_sum_alone() -> None:
    """The actors' gradient with PM in place equals the gradient with PM's score held constant."""
    algorithm = tiny_algorithm()
    torch.nn.init.normal_(algorithm.team.pm.head.weight)
    batch = _batch(algorithm, size=6)

    def gradients() -> list[torch.Tensor]:
        algorithm.team.actor.zero_grad()
        policy_loss(algorithm, batch)[0].backward()
        return [p.grad.clone() for p in algorithm.team.actor.parameters() if p.grad is not None]

    whole = gradients()
    pm = algorithm.team.pm.forward
    algorithm.team.pm.forward = lambda *arguments: (pm(*arguments)[0].detach(), None)  # type: ignore[method-assign]
    for a, b in zip(whole, gradients(), strict=True):
        torch.testing.assert_close(a, b)


def test_the_joint_ratio_does_not_make_the_step_grow_with_the_team() -> None:
    """Copies of one agent with one advantage: each copy's gradient is the single agent's, whatever N is."""

    settings = {"ratio": "joint", "share_parameters": False, "team_critic": False, "entropy_coef": 0.0}
    team, single = (tiny_algorithm(tiny_spec(agents=n), **settings) for n in (4, 1))
    for ours, theirs in zip(team.team.actor.parameters(), single.team.actor.parameters(), strict=True):
        ours.data = theirs.data.expand_as(ours).clone()
    for algorithm in (team, single):
        for p in algorithm.team.pm.parameters():
            p.data.zero_()
    batch = _batch(single, size=6)
    with torch.no_grad():  # the behaviour policy is the current one: all ratios are 1
        logits, _, _ = single.team.actor(batch.obs[:, 0], batch.actor_memory[:, 0])
        log_pi = mask_logits(logits, batch.mask[:, 0]).log_softmax(-1)
        batch.log_prob[:, 0] = log_pi.gather(-1, batch.action[:, 0].unsqueeze(-1)).squeeze(-1)
    common = ("state", "signal", "episode_start", "pm_memory")
    copies = Batch(**{k: v if k in common else v.expand(4, *v.shape[1:]).clone() for k, v in batch._asdict().items()})
    policy_loss(team, copies)[0].backward()
    policy_loss(single, batch)[0].backward()
    assert team.team.actor.head.weight.grad is not None
    # The mean over agents makes the loss's gradient a joint one; each copy gets what the single agent gets.
    torch.testing.assert_close(team.team.actor.head.weight.grad[2:3], single.team.actor.head.weight.grad)


def test_dead_agents_do_not_matter_to_the_policy_and_are_valued_while_anybody_lives() -> None:
    """What the team earns after a death is part of what the death is worth. With nobody alive nothing is learned."""
    for settings in ({"ratio": "agent"}, {"ratio": "joint", "share_parameters": False, "team_critic": False}):
        algorithm = tiny_algorithm(**settings)
        batch = _batch(algorithm, size=6)
        batch.active[0, :, ::2] = False
        losses = []
        for scale in (1.0, 100.0):
            changed = Batch(*(array.clone() for array in batch))
            changed.log_prob[0, :, ::2] *= scale
            if changed.advantage.shape[0] > 1:
                changed.advantage[0, :, ::2] *= scale
            changed.returns[0, :, ::2] *= scale
            alive = algorithm.counts(changed.active)
            losses.append([algorithm.policy_loss(changed, alive)[0], algorithm.value_loss(changed, alive)])
            changed.active[:, :, ::2] = False
            losses[-1] += [algorithm.value_loss(changed, algorithm.counts(changed.active))]
        for loss in (0, 2):
            torch.testing.assert_close(losses[0][loss], losses[1][loss])
        assert losses[1][1] > losses[0][1] + 0.1


def test_an_agent_dead_all_along_a_rollout_does_no_harm() -> None:
    algorithm = tiny_algorithm(
        share_parameters=False, team_critic=False, chunk_length=1, num_envs=2, rollout_length=3, minibatches=1
    )
    rollout = random_rollout(algorithm)
    rollout.active[1] = False
    (numbers,) = algorithm.update(rollout)
    assert all(np.isfinite(list(numbers.values())))


def policy_loss(algorithm: AgentMixerPPO, batch: Batch) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    return algorithm.policy_loss(batch, algorithm.counts(batch.active))


def _batch(algorithm: AgentMixerPPO, size: int) -> Batch:
    """A random update batch with chunks of one step."""
    spec = algorithm.team.spec
    generator = np.random.default_rng(5)
    agents, critics, actions = spec.num_agents, algorithm.critic.critics, spec.action_spaces[0].n

    def normal(*shape: int) -> torch.Tensor:
        return torch.from_numpy(generator.normal(size=shape).astype(np.float32))

    mask = torch.from_numpy(random_masks(generator, agents, 1, size, actions))
    return Batch(
        **{
            "obs": normal(agents, 1, size, spec.obs_sizes[0]),
            "mask": mask,
            "action": mask.float().argmax(-1),
            "log_prob": -normal(agents, 1, size).abs(),
            "active": torch.ones(agents, 1, size, dtype=torch.bool),
            "actor_memory": normal(agents, 1, size, algorithm.team.actor.body.memory),
            "critic_memory": normal(critics, 1, size, algorithm.critic.body.memory),
            "pm_memory": normal(1, 1, size, algorithm.team.pm.memory),
            "value": normal(critics, 1, size),
            "returns": normal(critics, 1, size),
            "advantage": normal(critics, 1, size),
            "state": normal(1, 1, size, spec.state_size),
            "signal": normal(1, 1, size, algorithm.team.signal),
            "episode_start": torch.zeros(1, 1, size),
        }
    )
