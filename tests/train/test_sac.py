"""AgentMixer on SAC: what is remembered, what is learned from it, and that runs go on exactly."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from agentmixer_cli.train import train as train_command
from conftest import box_spec, quiet, tiny_spec
from safetensors.torch import load_file

from agentmixer.contract.spec import TaskSpec
from agentmixer.errors import AgentMixerError
from agentmixer.export import exporter as exporting
from agentmixer.runtime.bundle import read_bundle
from agentmixer.tasks import check
from agentmixer.tasks.base import TaskStep
from agentmixer.train import checkpoint, trainer
from agentmixer.train import run as runs
from agentmixer.train.algorithms import AgentMixerSAC
from agentmixer.train.evaluate import evaluate
from agentmixer.train.joint_policy import Gaussian
from agentmixer.train.replay import Replay
from agentmixer.train.run import Run
from agentmixer.train.stream import Stream, begin
from agentmixer.validate.deploy_sim import deploy_sim

SMALL = {
    "num_envs": 4, "rollout_length": 4, "total_steps": 192, "learning_starts": 32, "batch_size": 16, "updates": 2,
    "replay_size": 48, "hidden": 16, "critic_hidden": 16, "eval_interval": 0, "eval_episodes": 2,
    "final_episodes": 2,
}  # fmt: skip
ENVS = 3


def make_algorithm(spec: TaskSpec, folder: Path | None = None, **settings: object) -> AgentMixerSAC:
    config = AgentMixerSAC.configure().replace({**SMALL, "share_parameters": False, **settings})
    algorithm = AgentMixerSAC(spec, config, [torch.Generator().manual_seed(0)])
    if folder:
        algorithm.replay.open(folder)
    return algorithm


def started(task: str, scenario: str, path: Path, **settings: Any) -> Run:
    backend, options = check(task, scenario, None, {})
    config = AgentMixerSAC.configure("default", task).replace(SMALL | settings)
    return runs.create(task, scenario, backend, "agentmixer_sac", "default", 1, "cpu", options, config, path)


def batch_for(spec: TaskSpec, size: int = 5, **given: Any) -> dict[str, torch.Tensor]:
    """Random transitions, everything legal and alive, nothing ended."""
    draw = torch.Generator().manual_seed(1)
    agents, obs, actions = spec.num_agents, max(spec.obs_sizes), max(space.n for space in spec.action_spaces)
    exists = torch.tensor([[i < space.n for i in range(actions)] for space in spec.action_spaces])
    batch = {"reward": torch.randn(size, generator=draw)}
    for lead in ("", "next_"):
        batch[f"{lead}obs"] = torch.randn(agents, size, obs, generator=draw)
        batch[f"{lead}state"] = torch.randn(size, spec.state_size, generator=draw)
        batch[f"{lead}mask"] = exists.unsqueeze(1).repeat(1, size, 1)
        batch[f"{lead}active"] = torch.ones(agents, size, dtype=torch.bool)
    batch["terminated"] = batch["truncated"] = torch.zeros(size, dtype=torch.bool)
    batch["action"] = (
        torch.randint(actions, (agents, size), generator=draw)
        if spec.discrete
        else torch.rand(agents, size, actions, generator=draw) * exists.unsqueeze(1)
    )
    return batch | given


# ---- the replay ----------------------------------------------------------------------------------


def numbered(replay: Replay, numbers: range) -> np.ndarray:
    rows = np.zeros(len(numbers), replay.record)
    rows["x"] = np.array(numbers)[:, None] * [1.0, 10.0]
    return rows


def make_replay(size: int = 7, slack: int = 4) -> Replay:
    return Replay([("x", np.float32, (2,))], size, slack)


@pytest.mark.parametrize("written", [1, 6, 7, 8, 11, 12, 40])
def test_replay_draws_evenly_from_the_newest_and_nothing_else(tmp_path: Path, written: int) -> None:
    replay = make_replay()
    replay.open(tmp_path)
    for first in range(0, written, 3):  # 3 divides neither size nor capacity: writes cross the ring's end
        replay.add(numbered(replay, range(first, min(first + 3, written))))
    assert len(replay) == min(written, 7)
    rows = replay.sample(4000, torch.Generator().manual_seed(0))
    values, counts = np.unique(rows["x"][:, 0], return_counts=True)
    np.testing.assert_array_equal(values, np.arange(max(0, written - 7), written))
    assert (abs(counts - 4000 / len(values)) < 6 * math.sqrt(4000 / len(values))).all()
    np.testing.assert_array_equal(rows["x"][:, 1], rows["x"][:, 0] * 10)


def test_a_reopened_replay_is_as_at_the_checkpoint_unless_too_much_was_written_after_it(tmp_path: Path) -> None:
    replay = make_replay()
    replay.open(tmp_path)
    replay.add(numbered(replay, range(9)))
    replay.add(numbered(replay, range(9, 18)))
    state = replay.state_dict()
    state = {name: value.clone() for name, value in state.items()}
    draw = replay.sample(50, torch.Generator().manual_seed(0))

    replay.add(numbered(replay, range(18, 22)))  # slack
    again = make_replay()
    again.load_state_dict(state)
    again.open(tmp_path)
    np.testing.assert_array_equal(again.sample(50, torch.Generator().manual_seed(0)), draw)

    replay.add(numbered(replay, range(22, 23)))  # one too many
    with pytest.raises(AgentMixerError, match="does not hold the transitions before the run's checkpoint"):
        again.open(tmp_path)


def test_a_replay_that_is_missing_damaged_another_or_too_large_is_named(tmp_path: Path) -> None:
    replay = make_replay()
    replay.open(tmp_path)
    replay.add(numbered(replay, range(9)))
    with pytest.raises(AgentMixerError, match=r"nowhere/replay\.npy cannot be read"):
        replay.open(tmp_path / "nowhere")
    other = make_replay(size=6)
    other.load_state_dict(replay.state_dict())
    with pytest.raises(AgentMixerError, match=r"does not fit its run's config\.toml"):
        other.open(tmp_path)
    (tmp_path / "replay.npy").write_bytes(b"half a file")
    with pytest.raises(AgentMixerError, match=r"replay\.npy cannot be read"):
        replay.open(tmp_path)
    with pytest.raises(AgentMixerError, match="replay_size="):
        make_replay(size=10**15).open(tmp_path / "large")


# ---- targets and losses --------------------------------------------------------------------------


def test_discrete_targets_by_hand() -> None:
    """Two critics that say Q_i(s, a_-i, a) = a + i and 100 more: the lower one counts; even policies over what is legal."""
    spec = tiny_spec(agents=2, actions=3)
    algorithm = make_algorithm(spec, alpha=0.5, gamma=0.9)
    for parameter in [*algorithm.team.actor.head.parameters(), *algorithm.team.pm.head.parameters()]:
        torch.nn.init.zeros_(parameter)
    table = torch.arange(3.0) + torch.arange(2.0).view(2, 1, 1)

    def critic(state: torch.Tensor, given: torch.Tensor) -> torch.Tensor:
        return torch.stack([table + 100, table]).expand(2, 2, len(state), 3)

    algorithm.target = critic  # type: ignore[assignment]
    batch = batch_for(spec, reward=torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0]))
    batch["terminated"] = torch.tensor([False, True, False, False, False])
    batch["truncated"] = torch.tensor([False, False, True, False, False])
    batch["next_mask"][0, 3] = torch.tensor([True, False, True])
    batch["next_active"][1, 4] = False
    entropy, alpha = math.log(3), 0.5
    whole = [1 + alpha * entropy, 2 + alpha * entropy]
    want = torch.tensor([
        [1 + 0.9 * whole[0], 2.0, 3 + 0.9 * whole[0], 4 + 0.9 * (1 + alpha * math.log(2)), 5 + 0.9 * whole[0]],
        [1 + 0.9 * whole[1], 2.0, 3 + 0.9 * whole[1], 4 + 0.9 * whole[1], 5 + 0.9 * 2],
    ])  # fmt: skip
    torch.testing.assert_close(algorithm.targets(batch), want)


def test_continuous_targets_by_hand() -> None:
    """Q = 3 for all: what is left is the entropy of five Gaussian elements, whose mean over draws is known."""
    spec = box_spec()
    algorithm = make_algorithm(spec, alpha=0.5, gamma=0.9)
    torch.nn.init.zeros_(algorithm.team.pm.head.weight)
    algorithm.target = lambda state, given: torch.full((2, 1, len(state), 1), 3.0)  # type: ignore[assignment]
    batch = batch_for(spec, size=20_000)
    batch["next_active"][1, 10_000:] = False
    following = (algorithm.targets(batch)[0] - batch["reward"]) / 0.9
    element = math.log((0.05 + 1.0) / 2) + 0.5 * math.log(2 * math.pi * math.e)
    assert following[:10_000].mean() == pytest.approx(3 + 0.5 * 5 * element, abs=0.03)
    assert following[10_000:].mean() == pytest.approx(3 + 0.5 * 3 * element, abs=0.03)  # small's two are dead


def test_a_cut_off_masked_transition_teaches_nothing_and_others_bootstrap() -> None:
    """Its last observation's mask is unknown. Where nothing is masked, what it is worth is known."""
    for masked in (True, False):
        spec = tiny_spec()
        spec = TaskSpec(**{name: getattr(spec, name) for name in spec.__struct_fields__} | {"has_action_mask": masked})
        algorithm = make_algorithm(spec)
        batch = batch_for(spec, truncated=torch.tensor([True, False, False, False, False]))
        wild = batch | {"reward": batch["reward"] + torch.tensor([1e3, 0, 0, 0, 0])}
        losses = []
        for given in (batch, wild):
            algorithm.team.generators[0].manual_seed(5)
            losses.append(algorithm.critic_loss(given))
        assert (losses[0] == losses[1]) == masked


def test_an_agents_value_does_not_read_its_own_action() -> None:
    spec = tiny_spec()
    algorithm = make_algorithm(spec)
    state, action = torch.randn(6, spec.state_size), torch.zeros(3, 6, dtype=torch.int64)
    before = algorithm.values(algorithm.critic, state, action)
    action[1] = 3
    after = algorithm.values(algorithm.critic, state, action)
    assert before.shape == (2, 3, 6, 4)
    assert torch.equal(before[:, 1], after[:, 1])
    assert not torch.isclose(before[:, [0, 2]], after[:, [0, 2]]).all()


def test_the_discrete_policy_gradient_is_that_of_the_expectation() -> None:
    """One agent's logits: dV/dl_a = pi_a (Q_a - alpha log pi_a - V), for the plain softmax that gumbel at score 0 is."""
    spec = tiny_spec(agents=2, actions=3)
    algorithm = make_algorithm(spec, alpha=0.3, joint="gumbel")
    q = torch.randn(2, 5, 3, generator=torch.Generator().manual_seed(2))
    logits = torch.randn(2, 5, 3, generator=torch.Generator().manual_seed(3)).requires_grad_()
    joint = algorithm.team.joint_policy.joint(logits, torch.zeros(2, 5, 3), torch.ones(2, 5, 3, dtype=torch.bool))
    value = algorithm.soft_value(
        lambda state, given: torch.stack([q, q + 1]),  # type: ignore[arg-type]
        joint, torch.zeros(5, spec.state_size), torch.ones(2, 5, dtype=torch.bool),
    )  # fmt: skip
    value.sum().backward()
    with torch.no_grad():
        pi, log_pi = logits.softmax(-1), logits.log_softmax(-1)
        want = pi * (q - 0.3 * log_pi - value.unsqueeze(-1))
    torch.testing.assert_close(logits.grad, want)


def test_the_continuous_policy_gradient_is_that_of_the_expectation() -> None:
    """Q = -sum a^2 within the bounds: E[Q] = -sum(mean^2 + std^2), and the entropy grows by 1 / std."""
    spec = box_spec()
    algorithm = make_algorithm(spec, alpha=0.1)
    size = 40_000
    mean = torch.tensor([[0.3, -0.2, 0.1], [0.2, 0.1, 0.0]]).unsqueeze(1).requires_grad_()
    std = torch.full((2, 1, 3), 0.1, requires_grad=True)
    exists = torch.tensor([[1.0, 1.0, 1.0], [1.0, 1.0, 0.0]]).unsqueeze(1)
    joint = Gaussian(mean.expand(-1, size, -1), std.expand(-1, size, -1), exists.expand(-1, size, -1))

    def critic(state: torch.Tensor, given: torch.Tensor) -> torch.Tensor:
        value = -given.square().sum(-1, keepdim=True)
        return torch.stack([value, value + 1])

    active = torch.ones(2, size, dtype=torch.bool)
    value = algorithm.soft_value(critic, joint, torch.zeros(size, 11), active)  # type: ignore[arg-type]
    value.mean().backward()
    torch.testing.assert_close(mean.grad, -2 * mean.detach() * exists, atol=0.01, rtol=0)
    torch.testing.assert_close(std.grad, (-2 * std.detach() + 0.1 / std.detach()) * exists, atol=0.02, rtol=0)


def test_means_beyond_the_bounds_are_pulled_back_where_critics_are_blind() -> None:
    spec = box_spec()
    algorithm = make_algorithm(spec)
    torch.nn.init.constant_(algorithm.team.actor.head.bias, 3.0)
    batch = batch_for(spec)
    loss, _, _ = algorithm.policy_loss(batch)
    algorithm.team.actor.zero_grad()
    loss.backward()
    assert algorithm.team.actor.head.bias.grad is not None
    assert (algorithm.team.actor.head.bias.grad[0] > 0).all()  # descent lowers the means
    assert (algorithm.team.actor.head.bias.grad[1] > 0).tolist() == [True, True, False]


@pytest.mark.parametrize("spec", [tiny_spec(), box_spec()], ids=["discrete", "continuous"])
@pytest.mark.parametrize("signal", [0, 3])
def test_one_step_moves_every_network_and_keeps_the_modes(spec: TaskSpec, signal: int, tmp_path: Path) -> None:
    algorithm = make_algorithm(spec, tmp_path, signal=signal, tau_target=0.25)
    before = {name: [p.clone() for p in module.parameters()] for name, module in algorithm.modules.items()}
    numbers = algorithm._step(batch_for(spec))
    for name in ("actor", "critic", "pm", "target", "entropy_weight"):
        pairs = zip(before[name], algorithm.modules[name].parameters(), strict=True)
        assert any(not torch.equal(old, new) for old, new in pairs), name
    for old, new, target in zip(
        before["target"], algorithm.critic.parameters(), algorithm.target.parameters(), strict=True
    ):
        torch.testing.assert_close(target, 0.75 * old + 0.25 * new)
    # Of real-valued actions the mode is the mean by definition: nothing is measured.
    assert numbers.get("mode_agreement") == (1.0 if spec.discrete else None)
    assert all(torch.isfinite(number) for number in numbers.values())


def test_dead_agents_teach_the_policy_nothing() -> None:
    spec = tiny_spec()
    algorithm = make_algorithm(spec)
    batch = batch_for(spec)
    batch["active"][1] = False
    loss, _, _ = algorithm.policy_loss(batch)
    loss.backward()
    grad = algorithm.team.actor.head.weight.grad
    assert grad is not None
    assert (grad[1] == 0).all() and (grad[0] != 0).any() and (grad[2] != 0).any()


# ---- what is stored ------------------------------------------------------------------------------


class Countdown:
    """Environment e's episodes last e + 2 steps. Everything seen counts steps; odd environments are cut off."""

    restarts = False

    def __init__(self, spec: TaskSpec) -> None:
        self.spec, self.num_envs, self.clock = spec, ENVS, np.zeros(ENVS, int)

    def _look(self, ended: np.ndarray, final: np.ndarray) -> TaskStep:
        odd = np.arange(ENVS) % 2 == 1
        spec = self.spec
        agents, widest = spec.num_agents, max(space.n for space in spec.action_spaces)

        def view(clock: np.ndarray, *lead: int, size: int) -> np.ndarray:
            return np.tile(clock.astype(np.float32)[:, None], (*lead, 1, size))

        return TaskStep(
            obs=view(self.clock, agents, size=max(spec.obs_sizes)), state=view(self.clock, size=spec.state_size),
            action_mask=np.ones((agents, ENVS, widest), bool), active=np.ones((agents, ENVS), bool),
            reward=final.astype(np.float32), terminated=ended & ~odd, truncated=ended & odd, won=ended & ~odd,
            final_obs=view(final, agents, size=max(spec.obs_sizes)), final_state=view(final, size=spec.state_size),
        )  # fmt: skip

    def reset(self, seed: int, episodes: np.ndarray | None = None) -> TaskStep:
        self.clock = np.zeros(ENVS, int)
        return self._look(np.zeros(ENVS, bool), self.clock)

    def step(self, actions: torch.Tensor) -> TaskStep:
        final = self.clock + 1
        ended = final >= np.arange(ENVS) + 2
        self.clock = np.where(ended, 0, final)
        return self._look(ended, final)

    def snapshot(self) -> dict[str, np.ndarray]:
        return {}

    def restore(self, arrays: dict[str, np.ndarray]) -> TaskStep:
        raise NotImplementedError

    def close(self) -> None: ...


@pytest.mark.parametrize("spec", [tiny_spec(), box_spec()], ids=["discrete", "continuous"])
def test_what_is_remembered_is_what_happened(spec: TaskSpec, tmp_path: Path) -> None:
    algorithm = make_algorithm(spec, tmp_path, rollout_length=12, num_envs=ENVS, batch_size=200)
    task = Countdown(spec)
    out, (finished,) = algorithm.collect([task], [begun(algorithm, task)])
    assert sorted(finished["return"].tolist()) == [3.0] * 6 + [6.0] * 4 + [10.0] * 3
    algorithm.remember(out)
    assert int(algorithm.replay.written) == 36
    batch = algorithm.draw()
    # The state before, the reward and the state after count 0, 1, 1 or 1, 2, 2 and so on, also where episodes end.
    clock = batch["state"][:, 0]
    assert torch.equal(batch["next_state"][:, 0], clock + 1)
    assert torch.equal(batch["reward"], clock + 1)
    assert torch.equal(batch["obs"][:, :, 0], clock.expand(spec.num_agents, -1))
    assert torch.equal(batch["next_obs"][:, :, 0], (clock + 1).expand(spec.num_agents, -1))
    assert batch["terminated"].any() and batch["truncated"].any()
    assert (clock[batch["terminated"]] != 2).all() and (clock[batch["truncated"]] == 2).all()
    # Every remembered action is one that was taken, in its own transition.
    for t in range(12):
        for env in range(ENVS):
            row = algorithm.replay.ring[t * ENVS + env]
            np.testing.assert_array_equal(row["action"], out["action"][:, t, env].numpy())
            np.testing.assert_array_equal(row["state"], out["state"][t, env].numpy())
    if not spec.discrete:
        assert out["action"].abs().max() == 1.0  # clamped as the task does it


def test_a_number_that_is_not_finite_is_reported_with_its_environment_and_step() -> None:
    class Broken(Countdown):
        def step(self, actions: torch.Tensor) -> TaskStep:
            seen = super().step(actions)
            if seen.reward[2] == 3:
                seen.final_state[2, 0] = np.nan
            return seen

    task = Broken(tiny_spec())
    algorithm = make_algorithm(task.spec, rollout_length=8)
    with pytest.raises(AgentMixerError, match="environment 2 returned a state that is not finite at step 2 "):
        algorithm.collect([task], [begun(algorithm, task)])


# ---- whole runs ----------------------------------------------------------------------------------


def begun(algorithm: AgentMixerSAC, task: Countdown) -> Stream:
    return begin(algorithm.team, algorithm.memory(task.num_envs), task.reset(0))


class OneDecision(Countdown):
    """Episodes of one step whose reward is a function of the actions."""

    def __init__(self, spec: TaskSpec, reward: Any) -> None:
        super().__init__(spec)
        self.num_envs, self.reward = 16, reward

    def _seen(self, reward: np.ndarray, ended: bool) -> TaskStep:
        spec, envs = self.spec, self.num_envs
        widest = max(space.n for space in spec.action_spaces)
        obs = np.ones((spec.num_agents, envs, max(spec.obs_sizes)), np.float32)
        state = np.ones((envs, spec.state_size), np.float32)
        mask = np.array([[[i < space.n for i in range(widest)]] * envs for space in spec.action_spaces])
        over, no = np.full(envs, ended), np.zeros(envs, bool)
        return TaskStep(obs, state, mask, np.ones((spec.num_agents, envs), bool), reward, over, no, no, obs, state)

    def reset(self, seed: int, episodes: np.ndarray | None = None) -> TaskStep:
        return self._seen(np.zeros(self.num_envs, np.float32), False)

    def step(self, actions: torch.Tensor) -> TaskStep:
        return self._seen(self.reward(actions.numpy()).astype(np.float32), True)


def learn(algorithm: AgentMixerSAC, task: OneDecision, rollouts: int) -> float:
    """The actors' own return after `rollouts` rollouts."""
    stream = begun(algorithm, task)
    for _ in range(rollouts):
        algorithm.update(algorithm.collect([task], [stream])[0])  # type: ignore[arg-type]
    return float(evaluate(algorithm.team, task, 16, 0).returns.mean())


LEARNER = {
    "batch_size": 32, "updates": 8, "rollout_length": 1, "replay_size": 5000, "learning_starts": 256,
    "actor_lr": 3e-3, "critic_lr": 3e-3, "hidden": 16, "critic_hidden": 32, "pm_width": 8, "pm_channel_hidden": 16,
}  # fmt: skip


@pytest.mark.parametrize("joint", ["gap", "gumbel"])
def test_it_learns_a_matrix_game(tmp_path: Path, joint: str) -> None:
    payoff = np.array([[1.0, 0.0, 0.0], [0.0, 2.0, 0.0], [0.0, 0.0, 5.0]])
    task = OneDecision(tiny_spec(agents=2, actions=3), lambda action: payoff[action[0], action[1]])
    algorithm = make_algorithm(task.spec, tmp_path, joint=joint, **LEARNER)
    assert learn(algorithm, task, 50) == 5.0


def test_it_learns_real_valued_actions(tmp_path: Path) -> None:
    """The best actions, in the task's own units, lie within the bounds, on one and off centre."""
    best = np.array([[1.0, 4.0, -1.4], [0.3, -0.1, 0.0]])[:, None]
    half = np.array([3.0, 0.5])[:, None, None]
    exists = np.array([[1, 1, 1], [1, 1, 0]])[:, None]
    task = OneDecision(box_spec(), lambda a: -(np.square((a - best) / half) * exists).sum((0, 2)))
    algorithm = make_algorithm(task.spec, tmp_path, **LEARNER, alpha=0.01, target_std=0.06)
    assert learn(algorithm, task, 80) > -0.05


def metrics(run: Run) -> list[str]:
    lines = (run.path / "metrics.jsonl").read_text().splitlines()
    return [line.split('"steps_per_second"')[0] for line in lines]


@pytest.mark.usefixtures("short_episodes")
@pytest.mark.parametrize(("task", "scenario"), [("predator_prey", "5x5"), ("mamujoco", "Hopper-3x1")])
def test_a_killed_run_resumes_to_the_same_numbers(tmp_path: Path, task: str, scenario: str) -> None:
    """The replay of 48 has been overwritten twice by the end, once between the checkpoint and the kill."""
    unbroken, killed = (
        started(task, scenario, tmp_path / name, checkpoint_interval=64) for name in ("unbroken", "killed")
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
    assert trainer.train(runs.extend(runs.load(killed.path), "256", None), quiet(), resume=True)


@pytest.mark.parametrize(("task", "scenario"), [("mamujoco", "Hopper-3x1"), ("matrix", "climbing")])
def test_trained_exported_deployed(task: str, scenario: str, tmp_path: Path) -> None:
    run = started(task, scenario, tmp_path / "run")
    assert trainer.train(run, quiet())
    assert runs.load(run.path) == run
    exported = exporting.export(runs.load(run.path), tmp_path / "bundle")
    assert all(parity.passed for kinds in exported.parity.values() for parity in kinds.values())
    verdict = deploy_sim(read_bundle(exported.path), episodes=2, deadline_s=10)
    assert verdict.passed, verdict.parity
    assert verdict.parity.different == 0


def test_settings_that_do_not_fit_each_other_are_refused() -> None:
    for settings, words in (
        ({"std_low": 1.0}, "must be below std_high"),
        ({"learning_starts": 300_000}, "raise replay_size"),
        ({"recurrent_actor": True}, "recurrent_actor must be false for SAC"),
    ):
        with pytest.raises(AgentMixerError, match=words):
            AgentMixerSAC.configure().replace(settings).check()


def test_the_command_line_names_the_nearest_algorithm_and_refuses_one_for_a_run_that_goes_on() -> None:
    for arguments, words in (
        ({"algorithm": "agentmixer_sax"}, "unknown algorithm 'agentmixer_sax'.*'agentmixer_sac'"),
        ({"algorithm": "agentmixer_sac", "preset": "paper"}, "unknown preset 'paper'.*default"),
        ({"algorithm": "agentmixer_sac", "resume": True}, "leave out --set, --env-arg, --algorithm"),
    ):
        with pytest.raises(AgentMixerError, match=words):
            train_command("matrix", "climbing", **arguments)  # type: ignore[arg-type]


def test_a_signal_that_lasts_an_episode_is_refused() -> None:
    with pytest.raises(AgentMixerError, match="signal_per must be step for SAC"):
        AgentMixerSAC.configure().replace({"signal": 2, "signal_per": "episode"}).check()


def test_a_run_that_ends_before_it_learns_is_judged_all_the_same(tmp_path: Path) -> None:
    run = started(
        "matrix", "climbing", tmp_path / "run", total_steps=64, learning_starts=1000, replay_size=1000, pm="none"
    )
    assert trainer.train(run, quiet())
    assert run.summary is not None
    assert "mode_agreement" not in json.loads((run.path / "metrics.jsonl").read_text().splitlines()[-1])


def test_a_batch_may_be_a_single_transition(tmp_path: Path) -> None:
    """Of a dimension of one numpy leaves the stride as it is, here a record of 2 bytes beyond a multiple of 4."""
    algorithm = make_algorithm(tiny_spec(agents=2), tmp_path, batch_size=1, num_envs=ENVS, rollout_length=4)
    task = Countdown(algorithm.team.spec)
    collected, _ = algorithm.collect([task], [begun(algorithm, task)])
    algorithm.remember(collected)
    batch = algorithm.draw()
    assert batch["obs"].shape == (2, 1, 7) and batch["state"].shape == (1, 11)
