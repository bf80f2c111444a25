"""MAT and MAT-Dec: the transformer, who sees what, and that runs go on, end and are exported as others do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
from conftest import TINY, box_spec, quiet, random_masks, tiny_spec, unlike_spec
from safetensors.torch import load_file

from agentmixer.contract.spec import TaskSpec
from agentmixer.errors import AgentMixerError
from agentmixer.export import exporter as exporting
from agentmixer.runtime.bundle import read_bundle
from agentmixer.tasks import check, make
from agentmixer.train import checkpoint, trainer
from agentmixer.train import run as runs
from agentmixer.train.algorithms import ALGORITHMS, MAT, MATDec
from agentmixer.train.run import Run
from agentmixer.train.shown_state import ShownObservations
from agentmixer.train.transformer import Attention, Block, Encoder
from agentmixer.validate.deploy_sim import deploy_sim

ROWS = 6
SMALL = {
    "num_envs": 4, "rollout_length": 8, "total_steps": 96, "minibatches": 2, "epochs": 2, "hidden": 16, "eval_interval": 0,
    "checkpoint_interval": 32, "eval_episodes": 2, "final_episodes": 2,
}  # fmt: skip


def shown(spec: TaskSpec) -> TaskSpec:
    """What a task of this specification shows MAT."""
    return msgspec.structs.replace(spec, state_size=spec.num_agents * max(spec.obs_sizes))


def mat(spec: TaskSpec, kind: type[MAT] = MAT, **settings: object) -> MAT:
    settings = {**TINY, "chunk_length": 1, "share_parameters": spec.discrete, **settings}
    return kind(shown(spec), kind.configure().replace(settings), [torch.Generator().manual_seed(0)])


def masked(spec: TaskSpec, rows: int = ROWS) -> torch.Tensor:
    """Random masks [N, B, A]; all True where actions are real values that exist."""
    actions = max(space.n for space in spec.action_spaces)
    mask = torch.from_numpy(random_masks(np.random.default_rng(1), spec.num_agents, rows, actions))
    return (
        mask
        if spec.discrete
        else torch.tensor([[i < s.n for i in range(actions)] for s in spec.action_spaces])[:, None].expand(-1, rows, -1)
    )


def observed(spec: TaskSpec, rows: int = ROWS) -> torch.Tensor:
    obs = torch.randn(spec.num_agents, rows, max(spec.obs_sizes))
    for i, size in enumerate(spec.obs_sizes):
        obs[i, :, size:] = 0.0
    return obs


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("heads", [1, 2])
def test_attention_is_torchs(heads: int, causal: bool) -> None:
    ours, theirs = Attention(8, heads, causal), torch.nn.MultiheadAttention(8, heads, batch_first=True)
    parts = ours.query, ours.key, ours.value
    for part in (*parts, ours.out):
        torch.nn.init.normal_(part.bias)
    theirs.in_proj_weight.data = torch.cat([part.weight.data for part in parts])
    theirs.in_proj_bias.data = torch.cat([part.bias.data for part in parts])
    theirs.out_proj.weight.data, theirs.out_proj.bias.data = ours.out.weight.data, ours.out.bias.data
    query, key = torch.randn(2, 5, 4, 8)
    hidden = torch.ones(4, 4, dtype=torch.bool).triu(1) if causal else None
    torch.testing.assert_close(ours(query, key), theirs(query, key, key, attn_mask=hidden)[0])


def test_a_block_attends_then_thinks_each_with_a_residual_and_a_norm() -> None:
    x, seen = torch.randn(2, 5, 4, 8)
    for decoder in (False, True):
        block = Block(8, 2, decoder)
        want = torch.nn.functional.layer_norm(x + block.attention(x, x), (8,))
        if decoder:
            want = torch.nn.functional.layer_norm(seen + block.cross(seen, want), (8,))
        want = torch.nn.functional.layer_norm(want + block.mlp(want), (8,))
        torch.testing.assert_close(block(x, seen), want)


@pytest.mark.parametrize("spec", [tiny_spec(), box_spec()], ids=["discrete", "real-valued"])
def test_every_agent_has_a_value_of_all_observations(spec: TaskSpec) -> None:
    encoder, obs = mat(spec).critic, observed(spec)
    assert isinstance(encoder, Encoder) and encoder.critics == spec.num_agents
    state = obs.swapaxes(0, 1).reshape(ROWS, -1)
    value = encoder(state, torch.zeros(spec.num_agents, ROWS, 0))[0]
    assert value.shape == (spec.num_agents, ROWS)
    torch.testing.assert_close(value, encoder.value(encoder.body.embed(obs)))
    for agent in range(spec.num_agents):
        other = obs.clone()
        other[agent, 0, 0] += 1.0
        changed = encoder.value(encoder.body.embed(other)) != value
        assert changed[:, 0].all() and not changed[:, 1:].any()


def test_alike_observations_have_unlike_representations() -> None:
    """Agents that share an embedding are told apart by a bias, once it is learned."""
    body = mat(tiny_spec()).critic.body
    alike = torch.randn(1, ROWS, 7).expand(3, -1, -1)
    torch.testing.assert_close(body.embed(alike)[0], body.embed(alike)[1])
    torch.nn.init.normal_(body.agent_bias)
    assert (body.embed(alike)[0] != body.embed(alike)[1]).any()


def test_the_state_is_what_all_agents_observe() -> None:
    plain, told = make("mamujoco", "Humanoid-9|8", 3), ShownObservations(make("mamujoco", "Humanoid-9|8", 3))
    spec, actions = plain.spec, torch.zeros(2, 3, plain.spec.action_size)
    seen = [(one.reset(5), one.step(actions), one.restore(one.snapshot())) for one in (plain, told)]
    for want, got in zip(*seen, strict=True):
        for name in set(want._fields) - {"state", "final_state"}:
            np.testing.assert_array_equal(getattr(got, name), getattr(want, name))
        for obs, state in ((want.obs, got.state), (want.final_obs, got.final_state)):
            assert state.shape == (3, told.spec.state_size)
            np.testing.assert_array_equal(state.reshape(3, spec.num_agents, -1).swapaxes(0, 1), np.asarray(obs))
    plain.close(), told.close()


def test_mat_decs_actor_sees_its_own_observation_alone() -> None:
    team, obs, mask = mat(tiny_spec(), MATDec).team, observed(tiny_spec()), masked(tiny_spec())
    before = team.step(obs, mask, torch.zeros(3, ROWS, 0)).policy
    obs[1] += 1.0
    changed = (team.step(obs, mask, torch.zeros(3, ROWS, 0)).policy != before).flatten(1).any(1)
    assert changed.tolist() == [False, True, False]


def test_gradients_of_policy_and_of_value_reach_the_encoder() -> None:
    """Those of MAT-Dec's policy do not."""
    for kind, reached in ((MAT, True), (MATDec, False)):
        algorithm = mat(tiny_spec(), kind)
        team, mask = algorithm.team, masked(tiny_spec())
        arguments = observed(tiny_spec())[:, None], mask, torch.zeros(3, ROWS, 0), torch.zeros(1, 1, ROWS)
        team.unroll(*arguments, torch.zeros(3, 1, ROWS, dtype=torch.int64)).policy.sum().backward()
        found = algorithm.critic.body.linears[0].weight.grad
        assert (found is not None and bool(found.any())) == reached


def test_what_does_not_fit_is_refused() -> None:
    for key in ("recurrent_actor", "recurrent_critic"):
        with pytest.raises(AgentMixerError, match="must be false for MAT, which has no memory"):
            MAT.configure().replace({key: True}).check()
    with pytest.raises(AgentMixerError, match="team_critic must be false for MAT"):
        MATDec.configure("paper", "smacv2").replace({"team_critic": True}).check()
    with pytest.raises(AgentMixerError, match="heads is 3, which does not divide hidden, 64"):
        MAT.configure().replace({"heads": 3}).check()
    with pytest.raises(
        AgentMixerError, match=r"must all have Discrete or all Box actions.*use agentmixer_ppo or mappo"
    ):
        mat(unlike_spec())
    with pytest.raises(AgentMixerError, match="cannot share one network; add --set share_parameters=false"):
        mat(box_spec(), share_parameters=True)


def started(algorithm: str, task: str, scenario: str, path: Path, **settings: Any) -> Run:
    backend, options = check(task, scenario, None, {})
    config = ALGORITHMS[algorithm].configure("default", task).replace(SMALL | settings).fitted(SMALL)
    return runs.create(task, scenario, backend, algorithm, "default", 1, "cpu", options, config, path)


def metrics(run: Run) -> list[str]:
    lines = (run.path / "metrics.jsonl").read_text().splitlines()
    return [line.split('"steps_per_second"')[0] for line in lines]


@pytest.mark.usefixtures("short_episodes")
@pytest.mark.parametrize(
    ("algorithm", "task", "scenario"),
    [
        ("mat", "predator_prey", "5x5"),
        ("armappo", "predator_prey", "5x5"),
        ("mat", "mamujoco", "Reacher-2x1"),
        ("mat_dec", "mamujoco", "Reacher-2x1"),
    ],
)
def test_a_killed_run_resumes_to_the_same_numbers(
    tmp_path: Path, algorithm: str, task: str, scenario: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    unbroken, killed = (started(algorithm, task, scenario, tmp_path / name) for name in ("unbroken", "killed"))
    assert trainer.train(unbroken, quiet())
    real = checkpoint.save

    def die_instead(run: Any, step: int, *rest: Any) -> None:
        if step >= 96:
            raise SystemError("killed")
        real(run, step, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "save", die_instead)
        with pytest.raises(SystemError):
            trainer.train(killed, quiet())
    assert runs.steps_done(killed) == 64
    assert trainer.train(runs.load(killed.path), quiet(), resume=True)

    assert metrics(killed) == metrics(unbroken) and len(metrics(killed)) == 3
    ours, theirs = (load_file(checkpoint.latest(run)) for run in (killed, unbroken))
    assert ours.keys() == theirs.keys()
    for name in ours:
        assert torch.equal(ours[name], theirs[name]), name
    first = load_file(killed.checkpoint_files[0])
    for module in ("actor", "critic"):
        assert any(not torch.equal(first[name], ours[name]) for name in ours if name.startswith(f"model.{module}"))

    if algorithm == "mat_dec":
        exported = exporting.export(killed, tmp_path / "bundle")
        assert all(parity.passed for kinds in exported.parity.values() for parity in kinds.values())
        verdict = deploy_sim(read_bundle(exported.path), episodes=2, deadline_s=10)
        assert verdict.passed and verdict.parity.different == 0
    else:
        words = f"an agent of {algorithm} needs the actions of other agents to act, so none can be exported on its own"
        with pytest.raises(AgentMixerError, match=words):
            exporting.export(killed, tmp_path / "bundle")
