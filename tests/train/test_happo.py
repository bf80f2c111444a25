"""HAPPO: agents learn one after the other, from what those before them have left."""

from __future__ import annotations

import re
from pathlib import Path

import msgspec
import pytest
import torch
from conftest import TINY, box_spec, quiet, random_rollout, tiny_spec, unlike_spec
from safetensors.torch import load_file

from agentmixer import tasks
from agentmixer.contract.spec import TaskSpec
from agentmixer.errors import AgentMixerError
from agentmixer.train import blocks, checkpoint, trainer
from agentmixer.train import run as runs
from agentmixer.train.algorithms import HAPPO, MAPPO
from agentmixer.train.rollout import Batch
from agentmixer.train.run import Run


def make(kind: type[MAPPO], spec: TaskSpec, **settings: object) -> MAPPO:
    config = kind.configure().replace({**TINY, "share_parameters": False, **settings})
    return kind(spec, config, [torch.Generator().manual_seed(4)])


@pytest.mark.parametrize("real", [False, True])
def test_with_one_agent_it_is_ppo(real: bool) -> None:
    """Weights of actor and critic after an update of several passes, and what is logged of them."""
    spec = tiny_spec(agents=1)
    if real:
        two = box_spec()
        spec = msgspec.structs.replace(
            two, agents=two.agents[:1], obs_names=two.obs_names[:1], action_spaces=two.action_spaces[:1],
            fallback_actions=two.fallback_actions[:1],
        )  # fmt: skip
    ours, theirs = (make(kind, spec, minibatches=1, max_grad_norm=1e6) for kind in (HAPPO, MAPPO))
    theirs.load([ours.share(0)])
    rollout = random_rollout(ours)
    (got,), (want,) = ours.update(rollout), theirs.update(rollout)
    for name, value in theirs.share(0).items():
        torch.testing.assert_close(ours.share(0)[name], value, rtol=0, atol=2e-6, msg=name)
    assert set(want) - set(got) == {"pm_grad_norm"}
    for name, value in got.items():
        assert value == pytest.approx(want[name], rel=1e-3, abs=1e-5) or name == "actor_grad_norm", name


def test_each_agent_meets_the_ratios_of_those_before_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """The advantage that the m-th agent learns from is A times pi_new / pi_old of each earlier one, worked out from the stored
    log-probabilities and the weights that each was left with."""
    algorithm = make(HAPPO, tiny_spec(agents=3), chunk_length=4, minibatches=2, actor_lr=3e-2)
    assert isinstance(algorithm, HAPPO)
    rollout = random_rollout(algorithm)
    met: list[tuple[int, torch.Tensor]] = []
    real = HAPPO.of_agent

    def spy(self: HAPPO, batch: Batch, agent: int, compound: torch.Tensor) -> Batch:
        met.append((agent, compound.clone()))
        return real(self, batch, agent, compound)

    monkeypatch.setattr(HAPPO, "of_agent", spy)
    algorithm.update(rollout)
    assert sorted(agent for agent, _ in met) == [0, 1, 2]
    assert torch.equal(met[0][1], torch.ones_like(met[0][1]))
    team, kind = algorithm.team, algorithm.team.joint_policy
    starts = rollout.episode_start
    with torch.no_grad():  # the whole rollout as chunks, each from the memory that was recorded before it
        cut = [
            blocks.chunks(array, 4)
            for array in (rollout.obs, rollout.mask, rollout.actor_memory, starts, rollout.action)
        ]
        obs, mask, memory, start, action = cut
        actors = team.unroll(obs, mask.flatten(1, 2), memory[:, 0], start)
        log_prob = kind.log_prob(kind.joint(actors.policy, torch.zeros(()), mask.flatten(1, 2)), action.flatten(1, 2))
    old, active = (blocks.chunks(array, 4) for array in (rollout.log_prob, rollout.active))
    ratio = torch.where(active, (log_prob.view_as(old) - old).exp(), 1.0)
    want = torch.ones_like(ratio[:1])
    for agent, compound in met:
        torch.testing.assert_close(compound, want, rtol=1e-4, atol=1e-5)
        want = want * ratio[agent : agent + 1]
    assert not torch.allclose(want, torch.ones_like(want), atol=0.05)


def test_an_agent_s_steps_move_that_agent_alone() -> None:
    algorithm = make(HAPPO, tiny_spec(agents=3), chunk_length=1)
    assert isinstance(algorithm, HAPPO)
    rollout = random_rollout(algorithm)
    batch = Batch.cut(rollout, *algorithm.advantages(rollout), 1)
    before = {name: value.clone() for name, value in algorithm.team.actor.named_parameters()}
    part, whole = algorithm.of_agent(batch, 1, torch.ones_like(batch.log_prob[:1])), algorithm.team
    algorithm.team = algorithm.singles[1]
    algorithm.descend(part, "actor_1")
    algorithm.team = whole
    for name, value in whole.actor.named_parameters():
        assert torch.equal(value[[0, 2]], before[name][[0, 2]]), name
        assert not torch.equal(value[1], before[name][1]), name


def test_it_goes_on_after_a_break_bit_for_bit(tmp_path: Path) -> None:
    def started(name: str, steps: int) -> Run:
        backend, options = tasks.check("predator_prey", "5x5", None, {})
        config = HAPPO.configure().replace({**TINY, "share_parameters": False, "total_steps": steps, "lr_decay": False, "eval_interval": 0})  # fmt: skip
        return runs.create(
            "predator_prey", "5x5", backend, "happo", "default", 2, "cpu", options, config, tmp_path / name
        )

    whole, broken = started("whole", 512), started("broken", 256)
    assert trainer.train(whole, quiet()) and trainer.train(broken, quiet())
    assert trainer.train(runs.extend(runs.load(broken.path), "512", None), quiet(), resume=True)
    ours, theirs = (load_file(checkpoint.latest(runs.load(run.path))) for run in (whole, broken))
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_what_it_cannot_learn_is_refused() -> None:
    with pytest.raises(AgentMixerError, match="share_parameters must be false for happo"):
        HAPPO.configure("default", "smacv2").replace({"share_parameters": True}).check()
    with pytest.raises(
        AgentMixerError, match=re.escape("happo learns teams whose agents all have Discrete or all have Box")
    ):
        make(HAPPO, unlike_spec())
    assert not HAPPO.configure("default", "smacv2").team.share_parameters
