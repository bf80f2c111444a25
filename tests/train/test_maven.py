"""MAVEN: the mixer, the latent of an episode, what is learned from sequences, and that runs go on exactly."""

from __future__ import annotations

import itertools
import math
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
from conftest import box_spec, quiet, tiny_spec, unlike_spec
from safetensors.torch import load_file
from test_sac import ENVS, Countdown, OneDecision
from torch import Tensor, nn

from agentmixer.contract.spec import TaskSpec
from agentmixer.errors import AgentMixerError
from agentmixer.export import exporter as exporting
from agentmixer.runtime.bundle import read_bundle
from agentmixer.tasks import check
from agentmixer.tasks.base import TaskStep
from agentmixer.train import checkpoint, sequences, trainer
from agentmixer.train import run as runs
from agentmixer.train.algorithms import MAVEN
from agentmixer.train.epsilon_greedy import EpsilonGreedyJoint
from agentmixer.train.evaluate import evaluate
from agentmixer.train.joint_policy import ILLEGAL, mask_logits
from agentmixer.train.monotonic_mixer import MonotonicMixer
from agentmixer.train.run import Run
from agentmixer.train.stream import Stream, begin
from agentmixer.validate.deploy_sim import deploy_sim

SMALL = {
    "num_envs": 4, "rollout_length": 4, "total_steps": 192, "learning_starts": 32, "batch_size": 3, "updates": 2,
    "replay_size": 48, "hidden": 16, "mixer_hidden": 8, "hyper_hidden": 8, "eval_interval": 0, "eval_episodes": 2,
    "final_episodes": 2, "target_update_interval": 3, "epsilon_steps": 96,
}  # fmt: skip


def make_algorithm(spec: TaskSpec, folder: Path | None = None, **settings: object) -> MAVEN:
    config = MAVEN.configure().replace({**SMALL, "share_parameters": False, **settings})
    algorithm = MAVEN(spec, config, [torch.Generator().manual_seed(0)])
    if folder:
        algorithm.replay.open(folder)
    return algorithm


def begun(algorithm: MAVEN, task: Countdown) -> Stream:
    return begin(algorithm.team, algorithm.memory(task.num_envs), task.reset(0))


def batch_for(algorithm: MAVEN, length: int = 4, count: int = 3) -> dict[str, Tensor]:
    """Random sequences as `draw` gives them, everything legal, alive and known, nothing ended, z by turns."""
    spec, draw = algorithm.team.spec, torch.Generator().manual_seed(1)
    agents, actions, lead = spec.num_agents, algorithm.team.actions, (length, count)
    batch = {"reward": torch.randn(*lead, generator=draw)}
    for name in ("", "next_"):
        batch[f"{name}obs"] = torch.randn(agents, *lead, max(spec.obs_sizes), generator=draw)
        batch[f"{name}state"] = torch.randn(*lead, spec.state_size, generator=draw)
        batch[f"{name}mask"] = torch.ones(agents, *lead, actions, dtype=torch.bool)
        batch[f"{name}active"] = torch.ones(agents, *lead, dtype=torch.bool)
    batch["action"] = torch.randint(actions, (agents, *lead), generator=draw)
    batch["terminated"] = batch["episode_start"] = torch.zeros(lead, dtype=torch.bool)
    batch["known"] = torch.ones(lead, dtype=torch.bool)
    batch["memory"] = torch.randn(agents, count, algorithm.team.actor.body.memory, generator=draw)
    batch["signal"] = torch.eye(algorithm.team.signal).repeat(length * count, 1)[: length * count].view(*lead, -1)
    return algorithm.prepared(batch)


# ---- the mixer -----------------------------------------------------------------------------------


def test_the_mixer_is_its_formula() -> None:
    """|W2(s)| elu(|W1(s)| q + b1(s)) + V(s), number by number."""
    mixer, q, state = MonotonicMixer(3, 5, 4, 6), torch.randn(3, 2), torch.randn(2, 5)
    mixer.requires_grad_(False)
    got = mixer(q, state)
    for row, s in enumerate(state):
        w1, w2 = mixer.weight_in(s).abs().view(3, 4), mixer.weight_out(s).abs()
        total = float(mixer.value(s))
        for j in range(4):
            x = float(mixer.bias_in(s)[j]) + sum(float(q[i, row] * w1[i, j]) for i in range(3))
            total += float(w2[j]) * (x if x > 0 else math.exp(x) - 1)
        assert float(got[row]) == pytest.approx(total, abs=1e-5)


def test_the_mixers_value_never_falls_with_a_utility() -> None:
    mixer, q, state = MonotonicMixer(4, 5, 8, 8), 3 * torch.randn(4, 200), 2 * torch.randn(200, 5)
    q.requires_grad_()
    (slope,) = torch.autograd.grad(mixer(q, state).sum(), q)
    assert (slope >= 0).all() and (slope > 0).any()
    for i in range(4):
        raised = q.detach().clone()
        raised[i] += torch.rand(200)
        assert (mixer(raised, state) >= mixer(q, state) - 1e-6).all()


def test_no_joint_action_is_worth_more_than_every_agents_best() -> None:
    """All 64 joint actions of three agents, in 50 states."""
    mixer, q, state = MonotonicMixer(3, 5, 8, 8).requires_grad_(False), torch.randn(3, 50, 4), torch.randn(50, 5)
    worth = {
        joint: mixer(torch.stack([q[i, :, a] for i, a in enumerate(joint)]), state)
        for joint in itertools.product(range(4), repeat=3)
    }
    best = q.argmax(-1)
    for row in range(50):
        values = {joint: float(value[row]) for joint, value in worth.items()}
        own = tuple(best[:, row].tolist())
        assert max(values, key=values.__getitem__) == own or max(values.values()) - values[own] < 1e-6


# ---- exploration ---------------------------------------------------------------------------------


def test_epsilon_falls_in_a_line_and_then_stays() -> None:
    algorithm = make_algorithm(tiny_spec(), total_steps=1000, epsilon_start=1.0, epsilon_end=0.2, epsilon_steps=400)
    found = []
    for progress in (0.0, 0.1, 0.2, 0.4, 0.7, 1.0):
        algorithm.schedule(progress)
        found.append(algorithm.policy.epsilon)
    assert found == pytest.approx([1.0, 0.8, 0.6, 0.2, 0.2, 0.2])


def test_epsilon_greedy_by_hand() -> None:
    """Three legal actions of four: the best has 1 - e + e / 3, the other two e / 3, and the mode is the best at any e."""
    utilities, mask = torch.tensor([[[0.1, 9.0, 0.7, 0.3]]]), torch.tensor([[[True, False, True, True]]])
    for epsilon in (0.0, 0.3, 1.0):
        kind = EpsilonGreedyJoint(epsilon)
        joint = kind.joint(torch.zeros(1, 1, 4), utilities, mask)
        want = torch.tensor([epsilon / 3, 0, 1 - epsilon + epsilon / 3, epsilon / 3])
        torch.testing.assert_close(joint.log_pi.exp()[0, 0], want)
        assert kind.mode(joint).item() == 2
        noise = kind.noise((1, 4000, 4), [torch.Generator().manual_seed(0)])
        drawn = kind.sample(joint._replace(log_pi=joint.log_pi.expand(1, 4000, 4)), noise)
        shares = torch.bincount(drawn.flatten(), minlength=4) / 4000
        torch.testing.assert_close(shares, want, atol=0.03, rtol=0)
        own = kind.actor_sample(mask_logits(utilities, mask).expand(1, 4000, 4), noise)
        assert torch.equal(own, drawn)


# ---- the latent ----------------------------------------------------------------------------------


@pytest.mark.parametrize("recurrent", [True, False])
def test_an_episode_has_one_latent_for_all_agents_and_sequences_give_what_acted(
    recurrent: bool, tmp_path: Path
) -> None:
    """Without exploration every action is the best by utilities that are computed again along the stored sequence."""
    algorithm = make_algorithm(
        tiny_spec(), tmp_path, rollout_length=8, num_envs=ENVS, noise_dim=3, recurrent_actor=recurrent
    )
    algorithm.policy.epsilon = 0.0
    nn.init.normal_(algorithm.learned.latent.heads.weight)
    task = Countdown(algorithm.team.spec)
    stream, latents = begun(algorithm, task), []
    for rollout in range(2):
        out, _ = algorithm.collect([task], [stream])
        latent, start = out["signal"].argmax(-1), out["episode_start"]
        latents.append((latent, start))
        assert torch.equal(out["state"][..., 0] == 0, start)
        assert rollout == 1 or start[0].all()
        sequences.remember(algorithm.replay, out)
        batch = algorithm.prepared(out | {"memory": out["memory"][:, 0]})
        assert torch.equal(algorithm.learned.utilities(batch)[0].argmax(-1), out["action"].flatten(1, 2))
    latent, start = (torch.cat(parts) for parts in zip(*latents, strict=True))
    changed = latent[1:] != latent[:-1]
    assert not (changed & ~start[1:]).any() and changed.any()
    assert latent.unique().tolist() == [0, 1, 2]


def test_sequences_come_back_as_they_were_collected(tmp_path: Path) -> None:
    algorithm = make_algorithm(tiny_spec(), tmp_path, rollout_length=8, num_envs=ENVS, batch_size=20)
    task = Countdown(algorithm.team.spec)
    out, (finished,) = algorithm.collect([task], [begun(algorithm, task)])
    returned = out["returned"]
    assert torch.equal(~returned.isnan(), out["terminated"] | out["truncated"])
    assert sorted(returned[~returned.isnan()].tolist()) == sorted(finished["return"].tolist())
    sequences.remember(algorithm.replay, out)
    batch = sequences.draw(algorithm.replay, 20, algorithm.team)
    env = [int((out["signal"][0] == own).all(-1).nonzero()) for own in batch["signal"][0]]
    assert set(env) == {0, 1, 2}
    for name, array in batch.items():
        if name == "number":
            continue
        got = out[name][:, 0] if name == "memory" else out[name]
        axis = 1 if name == "memory" else 2 if sequences.transitions.env_axis(name) else 1
        assert torch.equal(array, got.index_select(axis, torch.tensor(env)).to(array.dtype)), name


def test_what_a_cut_off_step_led_to_is_known_only_where_nothing_is_masked(tmp_path: Path) -> None:
    for masked in (True, False):
        spec = msgspec.structs.replace(tiny_spec(), has_action_mask=masked)
        algorithm = make_algorithm(spec, rollout_length=8, num_envs=ENVS)
        task = Countdown(spec)
        out, _ = algorithm.collect([task], [begun(algorithm, task)])
        assert out["truncated"].any()
        assert torch.equal(out["known"], ~out["truncated"] | (not masked))


class Failing(Countdown):
    """Environment 2 fails in its third step and is made anew."""

    env_restarts, lost = 1, None

    def failures(self) -> list[str]:
        return []

    def step(self, actions: Tensor) -> TaskStep:
        failed = (np.arange(ENVS) == 2) & (self.clock == 2)
        self.lost = failed if failed.any() else None  # type: ignore[assignment]
        seen = super().step(actions)
        return seen._replace(truncated=seen.truncated | failed)


def test_a_step_in_which_an_environment_failed_teaches_nothing_and_its_episode_earned_nothing() -> None:
    spec = msgspec.structs.replace(tiny_spec(), has_action_mask=False)
    algorithm = make_algorithm(spec, rollout_length=4, num_envs=ENVS)
    task = Failing(spec)
    out, _ = algorithm.collect([task], [begun(algorithm, task)])
    lost = torch.zeros(4, ENVS, dtype=torch.bool)
    lost[2, 2] = True
    assert out["truncated"][2, 2] and torch.equal(out["known"], ~lost)
    assert torch.equal(out["returned"].isnan(), ~(out["terminated"] | out["truncated"]) | lost)


def test_agents_are_deployed_with_the_latent_that_earned_most_lately() -> None:
    algorithm = make_algorithm(tiny_spec(), noise_dim=3)
    latent = algorithm.learned.latent
    assert latent.best == 0
    latent.record(torch.tensor([0, 2, 2, 0]), torch.tensor([-5.0, -6.0, -2.0, -5.0]))  # -5, none, -4
    assert latent.best == 2
    for _ in range(100):
        latent.record(torch.tensor([2, 0, 1]), torch.tensor([-9.0, -5.0, -7.0]))
    assert latent.best == 0
    assert latent.episodes.tolist() == pytest.approx(
        [2 * 0.99**100 + (1 - 0.99**100) / 0.01, (1 - 0.99**100) / 0.01, 2 * 0.99**100 + (1 - 0.99**100) / 0.01],
        rel=1e-4,
    )


@pytest.mark.parametrize("shared", [True, False])
def test_a_deployed_agent_acts_by_its_utilities_under_the_chosen_latent(shared: bool) -> None:
    algorithm = make_algorithm(tiny_spec(), share_parameters=shared)
    latent, team = algorithm.learned.latent, algorithm.team
    nn.init.normal_(latent.heads.weight), nn.init.normal_(latent.heads.bias)
    latent.record(torch.tensor([0, 1]), torch.tensor([1.0, 2.0]))
    latent.fold_into(team.actor.head)
    obs, mask, memory = torch.randn(3, 6, 7), torch.rand(3, 6, 4) < 0.6, torch.randn(3, 6, 16)
    mask[..., 1] = True
    features, after = team.actor.body(obs, memory)
    want = mask_logits(latent.of(features, torch.ones(6, dtype=torch.int64)), mask)
    assert not torch.allclose(want, mask_logits(latent.of(features, torch.zeros(6, dtype=torch.int64)), mask))
    alone, _ = team.act_alone(obs, mask, memory, greedy=True)
    assert torch.equal(alone, want.argmax(-1))
    for i in range(3):
        action, logits, state = team.deployed(i)(obs[i], mask[i], memory[i])
        torch.testing.assert_close(logits, want[i])
        torch.testing.assert_close(state, after[i])
        assert torch.equal(action, want[i].argmax(-1))


# ---- targets and losses --------------------------------------------------------------------------


class Table(nn.Module):
    """Utilities that depend on z, agent and action alone: table [Z, N, A]."""

    def __init__(self, table: Tensor):
        super().__init__()
        self.table = table

    def of(self, features: Tensor, latent: Tensor) -> Tensor:
        return self.table[latent].transpose(0, 1)


class Total(nn.Module):
    """The sum of utilities."""

    def forward(self, utilities: Tensor, state: Tensor) -> Tensor:
        return utilities.sum(0)


def test_targets_by_hand() -> None:
    """The learning networks choose the last legal action, the target networks say that action a of agent i is worth
    100 z + 10 i + a, and the team's value is the sum."""
    algorithm = make_algorithm(tiny_spec(agents=2, actions=3), gamma=0.9)
    batch = batch_for(algorithm, 6, 1)
    algorithm.learned.latent = Table(torch.arange(3.0).expand(2, 2, 3))
    worth = 100 * torch.arange(2.0).view(2, 1, 1) + 10 * torch.arange(2.0).view(1, 2, 1) + torch.arange(3.0)
    algorithm.target.latent, algorithm.target.mixer = Table(worth), Total()
    batch["reward"] = torch.tensor([[1.0], [2.0], [3.0], [4.0], [5.0], [6.0]])
    batch["terminated"] = torch.tensor([0, 1, 0, 0, 0, 0]).bool().view(6, 1)
    batch["next_mask"][0, 2, 0, 2] = False  # agent 0 may not take what is best
    batch["next_active"][1, 3] = False
    batch["next_mask"][1, 4, 0] = torch.tensor([True, False, False])
    batch["next_mask"][0, 5] = False  # nothing is allowed
    assert batch["latent"].tolist() == [0, 1, 0, 1, 0, 1]
    want = [1 + 0.9 * 14, 2.0, 3 + 0.9 * 13, 4 + 0.9 * 102, 5 + 0.9 * 12, 6 + 0.9 * 112]
    got = algorithm.targets(batch, torch.zeros(2, 6, 16))
    torch.testing.assert_close(got, torch.tensor(want))


def test_the_loss_by_hand() -> None:
    """Values: the mean squared error of what is known. The latent: cross-entropy of the discriminator's guess from the
    state and the Boltzmann policies; the utility and the policy of an agent that cannot act count as 0."""
    algorithm = make_algorithm(tiny_spec(agents=2, actions=3), mi_coef=0.25)
    nn.init.normal_(algorithm.learned.latent.heads.weight)
    batch = batch_for(algorithm, 2, 2)
    batch["known"][1, 0], batch["active"][1, 0, 1], batch["mask"][0, 1, 1, 2] = False, False, False
    learned, errors, surprises = algorithm.learned, [], []
    with torch.no_grad():
        utilities, memory = learned.utilities(batch)
        target = algorithm.targets(batch, memory)
        for row in (0, 1, 3):
            step, env = divmod(row, 2)
            acts = [bool(batch["active"][i, step, env]) for i in (0, 1)]
            q = [float(utilities[i, row, batch["action"][i, step, env]]) * acts[i] for i in (0, 1)]
            state = batch["state"][row : row + 1]
            value = learned.mixer(torch.tensor(q).unsqueeze(1), state)
            errors.append(float(value - target[row]) ** 2)
            policies = [utilities[i, row].exp() / utilities[i, row].exp().sum() * acts[i] for i in (0, 1)]
            guess = algorithm.discriminator(torch.cat([state[0], *policies]))
            surprises.append(float(guess.exp().sum().log() - guess[row % 2]))
    with torch.no_grad():
        loss, numbers = algorithm.loss(batch)
    assert float(utilities[0, 3, 2]) == ILLEGAL
    assert float(numbers["td_loss"]) == pytest.approx(sum(errors) / 3, rel=1e-4)
    assert float(numbers["latent_loss"]) == pytest.approx(sum(surprises) / 3, rel=1e-4)
    assert float(loss) == pytest.approx(sum(errors) / 3 + 0.25 * sum(surprises) / 3, rel=1e-4)
    wild = batch | {"reward": batch["reward"] + torch.tensor([[0, 0], [1e3, 0]])}
    assert torch.equal(algorithm.loss(wild)[0].detach(), loss)


def test_a_team_that_is_paid_for_it_plays_so_that_its_latent_can_be_told() -> None:
    """States and observations are the same under both; only what the team does can tell."""
    algorithm = make_algorithm(tiny_spec(agents=2), mi_coef=1.0, actor_lr=2e-2, recurrent_actor=False)
    batch = batch_for(algorithm, 2, 4)
    for name in ("obs", "next_obs", "state", "next_state", "memory", "reward"):
        batch[name] = torch.zeros_like(batch[name])
    told = [float(algorithm._step(batch)["latent_loss"]) for _ in range(50)]
    assert told[0] > 0.6 and told[-1] < 0.4


def test_target_networks_become_the_learning_ones_after_an_interval() -> None:
    algorithm = make_algorithm(tiny_spec(), target_update_interval=2)
    before, batch = [p.clone() for p in algorithm.target.parameters()], batch_for(algorithm)
    algorithm._step(batch)
    for old, new in zip(before, algorithm.target.parameters(), strict=True):
        assert torch.equal(old, new)
    assert any(not torch.equal(o, p) for o, p in zip(before, algorithm.learned.parameters(), strict=True))
    algorithm._step(batch)
    for new, learned in zip(algorithm.target.parameters(), algorithm.learned.parameters(), strict=True):
        assert torch.equal(new, learned)
    assert int(algorithm.target.get_buffer("steps")) == 2


# ---- whole runs ----------------------------------------------------------------------------------


def test_it_learns_a_monotonic_matrix_game(tmp_path: Path) -> None:
    payoff = np.array([[0.0, 1.0, 2.0], [1.0, 2.0, 4.0], [1.0, 3.0, 8.0]])
    task = OneDecision(tiny_spec(agents=2, actions=3), lambda action: payoff[action[0], action[1]])
    algorithm = make_algorithm(
        task.spec, tmp_path, rollout_length=1, batch_size=32, updates=4, learning_starts=64, replay_size=4000,
        actor_lr=3e-3, target_update_interval=20, recurrent_actor=False,
    )  # fmt: skip
    stream = begun(algorithm, task)
    for _ in range(30):
        algorithm.schedule(0.5)
        algorithm.update(algorithm.collect([task], [stream])[0])  # type: ignore[list-item]
    assert evaluate(algorithm.team, task, 16, 0).returns.mean() == 8.0  # type: ignore[arg-type]


def started(task: str, scenario: str, path: Path, **settings: Any) -> Run:
    backend, options = check(task, scenario, None, {})
    config = MAVEN.configure("default", task).replace(SMALL | settings)
    return runs.create(task, scenario, backend, "maven", "default", 1, "cpu", options, config, path)


def metrics(run: Run) -> list[str]:
    lines = (run.path / "metrics.jsonl").read_text().splitlines()
    return [line.split('"steps_per_second"')[0] for line in lines]


@pytest.mark.usefixtures("short_episodes")
def test_a_killed_run_resumes_to_the_same_numbers(tmp_path: Path) -> None:
    """The replay of 12 sequences has been overwritten by the end, also between the checkpoint and the kill."""
    unbroken, killed = (
        started("predator_prey", "5x5", tmp_path / name, checkpoint_interval=64) for name in ("unbroken", "killed")
    )
    trainer.train(unbroken, quiet())
    real = checkpoint.save

    def die_instead(run: Run, step: int, *rest: Any) -> None:
        if step >= 192:
            raise SystemError("killed")
        real(run, step, *rest)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checkpoint, "save", die_instead)
        with pytest.raises(SystemError):
            trainer.train(killed, quiet())
    assert runs.steps_done(killed) == 128
    assert trainer.train(runs.load(killed.path), quiet(), resume=True)

    assert metrics(killed) == metrics(unbroken)
    ours, theirs = (load_file(checkpoint.latest(run)) for run in (killed, unbroken))
    assert ours.keys() == theirs.keys()
    for name in ours:
        assert torch.equal(ours[name], theirs[name]), name


def test_trained_exported_deployed(tmp_path: Path) -> None:
    run = started("matrix", "climbing", tmp_path / "run", noise_dim=3)
    assert trainer.train(run, quiet())
    exported = exporting.export(runs.load(run.path), tmp_path / "bundle")
    assert all(parity.passed for kinds in exported.parity.values() for parity in kinds.values())
    verdict = deploy_sim(read_bundle(exported.path), episodes=2, deadline_s=10)
    assert verdict.passed, verdict.parity
    assert verdict.parity.different == 0


@pytest.mark.parametrize("spec", [box_spec(), unlike_spec()], ids=["real-valued", "unlike"])
def test_a_team_with_other_actions_than_discrete_is_refused(spec: TaskSpec) -> None:
    with pytest.raises(AgentMixerError, match=r"maven learns teams whose agents all have Discrete actions.*mappo"):
        make_algorithm(spec)


def test_settings_that_do_not_fit_each_other_are_refused() -> None:
    for settings, words in (
        ({"learning_starts": 300_000}, "raise replay_size"),
        (
            {"rollout_length": 40, "replay_size": 30, "learning_starts": 30},
            "less than one sequence of rollout_length, 40",
        ),
    ):
        with pytest.raises(AgentMixerError, match=words):
            MAVEN.configure().replace(settings).check()
