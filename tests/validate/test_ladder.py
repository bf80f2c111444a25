"""A graph that is the trained actor stands on every rung; one that was nudged falls off the right one."""

from __future__ import annotations

import copy
import functools
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import onnx
import pytest
import torch
from agentmixer_cli.app import app
from bundle_by_hand import any_profile
from conftest import TINY, box_spec, quiet, random_masks, tiny_algorithm, tiny_spec
from hostile import reseal
from onnx import TensorProto, helper, numpy_helper
from torch import nn
from typer.testing import CliRunner

from agentmixer.contract.manifest import Source, Tolerances
from agentmixer.errors import AgentMixerError
from agentmixer.export import exporter as exporting
from agentmixer.export.bundle_writer import certified
from agentmixer.export.graph import check, export_graph
from agentmixer.runtime.bundle import AgentFiles, read_bundle
from agentmixer.runtime.golden import Golden, silence
from agentmixer.train import run as runs
from agentmixer.train import trainer
from agentmixer.train.algorithms import AgentMixerPPO
from agentmixer.train.team import Team
from agentmixer.validate import ladder
from agentmixer.validate.ladder import RungCheck, climb_agent, unusual
from agentmixer.validate.source_run import source_run

SOURCE = Source("0", "agentmixer_ppo", "default", 0, 0, "run", "0", "checkpoint", "0")
STEPS, INDEX = 1020, 1


class Climber(NamedTuple):
    """One exported agent, its trained team, and what it did in play."""

    team: Team
    files: AgentFiles
    played: Golden


@torch.no_grad()
def play(team: Team, spec_masked: bool) -> Golden:
    """Agent INDEX of the team acting on random observations, forgetting every 60 steps."""
    spec, generator = team.spec, np.random.default_rng(1)
    size, space = spec.obs_sizes[INDEX], spec.action_spaces[INDEX]
    obs = np.zeros((spec.num_agents, STEPS, max(spec.obs_sizes)), np.float32)
    obs[INDEX, :, :size] = generator.normal(0, 1, (STEPS, size))
    mask = np.zeros((spec.num_agents, STEPS, team.actions), bool)
    mask[INDEX, :, : space.n] = random_masks(generator, STEPS, space.n) if spec_masked else True
    h, rows = team.memory(1)["actor"], []
    for t in range(STEPS):
        h = h * float(t % 60 != 0)
        raw, _, h = team.actor(torch.from_numpy(obs[:, t : t + 1]), h)
        policy = team.joint_policy.policy(raw, torch.from_numpy(mask[:, t : t + 1]))
        action = team.to_task(team.joint_policy.actor_mode(policy))[INDEX, 0]
        mine = action.long() if spec.discrete else action[: space.n]
        rows.append((mine.numpy(), policy[INDEX, 0, : space.n].numpy(), h[INDEX, 0].numpy()))
    action, policy, state = (np.stack(column) for column in zip(*rows, strict=True))
    reset = np.arange(STEPS) % 60 == 0
    return Golden(obs[INDEX, :, :size], mask[INDEX, :, : space.n], reset, action, policy, state, silence(STEPS))


@functools.cache
def climber(kind: str) -> Climber:
    """A team with random weights and one of its agents, exported; not to be changed."""
    spec = tiny_spec() if kind.startswith("discrete") else box_spec()
    settings = {"recurrent_actor": "memory" in kind, "input_norm": "running" if "running" in kind else "layer"}
    team = tiny_algorithm(spec, share_parameters=spec.discrete, **settings).team
    torch.manual_seed(0)
    for parameter in team.actor.parameters():
        nn.init.normal_(parameter, std=0.4)
    seen = torch.randn(spec.num_agents, 500, max(spec.obs_sizes))
    for i, size in enumerate(spec.obs_sizes):
        seen[i, :, size:] = 0
    team.actor.body.observe(seen)
    actor = team.deployed(INDEX)
    model = export_graph(actor, {"agent": spec.agents[INDEX]})
    data = model.SerializeToString(deterministic=True)
    manifest = certified(exporting._manifest(spec, INDEX, actor, ("team", 0), SOURCE), data)
    files = AgentFiles(manifest, data, b"", any_profile(manifest), "")
    return Climber(team, files, play(team, spec.has_action_mask))


@pytest.fixture(scope="module")
def discrete() -> Climber:
    """Masked, recurrent, one network for all."""
    return climber("discrete, memory")


@pytest.fixture(scope="module")
def boxed() -> Climber:
    """Real-valued, no memory, running normaliser, ragged team."""
    return climber("box, running")


def rungs(
    climber: Climber, change: Callable[[onnx.ModelProto], object] | None = None, conventional: bool = True
) -> dict[str, RungCheck]:
    """The ladder of one agent, whose graph was changed, within the conventions or not."""
    files = climber.files
    if change:
        model = onnx.load_from_string(files.model)
        change(model)
        if conventional:
            check(model)
        files = files._replace(model=model.SerializeToString())
    found = climb_agent(climber.team, files, climber.played, Tolerances())
    return {rung.name: rung for rung in found}


def add(name: str, value: float, where: int | tuple[int, ...] = 0) -> Callable[[onnx.ModelProto], None]:
    def change(model: onnx.ModelProto) -> None:
        tensor = next(item for item in model.graph.initializer if item.name == name)
        array = numpy_helper.to_array(tensor).copy()
        array[where] += value
        tensor.CopyFrom(numpy_helper.from_array(array, name))

    return change


def failed(found: dict[str, RungCheck]) -> list[str]:
    return [name for name, rung in found.items() if not rung.passed]


@pytest.mark.parametrize("kind", ["discrete, memory", "discrete", "box, memory", "box, running"])
def test_what_was_exported_stands_on_every_rung(kind: str) -> None:
    here = climber(kind)
    found = rungs(here)
    assert failed(found) == []
    assert ("free-running" in found) == ("memory" in kind)
    assert found["single step"].observations == found["played observations"].observations == STEPS >= 1000
    assert found["batches"].observations == sum(range(2, 65))
    assert found["free-running"].observations == 200 if "memory" in kind else True
    # 19 of a kind and four spikes an element, from one memory or two; those without an answer are named.
    size, memories = here.played.obs.shape[1], 2 if "memory" in kind else 1
    extremes = found["extreme observations"]
    assert extremes.observations + len(extremes.undetermined) == (19 + 4 * size) * memories
    for rung in found.values():
        assert rung.subject == here.files.manifest.agent
        assert rung.largest_error is not None and rung.largest_error < 1e-4
        assert rung.different_actions == rung.near_ties
    assert found["batches"].different_bits is not None


def test_a_nudged_bias_falls_at_the_first_step(discrete: Climber) -> None:
    found = rungs(discrete, add("head.bias", 1e-3))
    assert failed(found) == ["single step", "played observations", "extreme observations", "free-running"]
    first = found["single step"].first
    assert first is not None and (first["index"], first["observation"]) == (0, "episode 0, step 0 of play")
    assert found["single step"].largest_error == pytest.approx(1e-3, rel=0.01)


def test_nudged_memory_passes_where_nothing_is_remembered(discrete: Climber) -> None:
    """From no memory, what it is multiplied by cannot matter: a single step is not enough."""
    found = rungs(discrete, add("gru_hidden.weight", 0.05, (40, 0)))
    assert failed(found) == ["played observations", "extreme observations", "free-running"]
    first = found["played observations"].first
    assert first is not None and first["observation"].startswith("episode 0, step ") and first["index"] > 0
    extreme = found["extreme observations"].first
    assert extreme is not None and extreme["observation"].endswith("memory of play")


def test_a_nudged_clamp_is_met_by_extremes_alone(boxed: Climber) -> None:
    """The normaliser clamps at 9 deviations instead of 10, where play never comes."""

    def change(model: onnx.ModelProto) -> None:
        for name in next(node for node in model.graph.node if node.op_type == "Clip").input[1:]:
            tensor = next(item for item in model.graph.initializer if item.name == name)
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) * np.float32(0.9), name))

    found = rungs(boxed, change)
    assert failed(found) == ["extreme observations"]
    first = found["extreme observations"].first
    assert first is not None and first["observation"] == "all 1e+06"
    assert [e["value"] for e in first["unusual"]] == [1e6] * 3
    assert {e["element"] for e in first["unusual"]} == set("abc")
    assert found["extreme observations"].different_actions == 0  # counted for discrete actions only
    assert first["expected"] != first["got"]


def test_a_row_that_looks_at_its_batch_is_refused_and_would_be_caught(
    discrete: Climber, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A hundredth of the difference to the batch's first row: nothing at all in a batch of one."""

    def change(model: onnx.ModelProto) -> None:
        graph = model.graph
        at, head = next((i, node) for i, node in enumerate(graph.node) if "head.weight" in node.input)
        out, head.output[0] = head.output[0], "alone"
        for name, value in (("zero", [0]), ("one", [1])):
            graph.initializer.append(helper.make_tensor(name, TensorProto.INT64, [1], value))
        graph.initializer.append(helper.make_tensor("share", TensorProto.FLOAT, [], [0.01]))
        nodes = [
            helper.make_node("Slice", ["alone", "zero", "one", "zero"], ["row"]),
            helper.make_node("Sub", ["alone", "row"], ["gap"]),
            helper.make_node("Mul", ["gap", "share"], ["little"]),
            helper.make_node("Add", ["alone", "little"], [out]),
        ]
        for offset, node in enumerate(nodes):
            graph.node.insert(at + 1 + offset, node)

    with pytest.raises(AgentMixerError, match="agent_1: the model holds"):
        rungs(discrete, change, conventional=False)
    monkeypatch.setattr(ladder, "Agent", lambda files, seed: None)  # where the guard would have stood
    found = rungs(discrete, change, conventional=False)
    assert failed(found) == ["batches"]
    first, bits = found["batches"].first, found["batches"].different_bits
    assert first is not None and first["observation"] == "row 1 of a batch of 2 (episode 0, step 1 of play)"
    assert bits is not None and bits > 1000


def test_swapped_near_ties_are_counted_and_pass(discrete: Climber) -> None:
    """A head that likes all actions alike: the trained actor takes the first that is legal, the graph, moved by half
    the tolerance, another."""
    twin = discrete._replace(team=copy.deepcopy(discrete.team))
    head = twin.team.actor.head
    nn.init.zeros_(head.weight), nn.init.zeros_(head.bias)
    mask = twin.played.action_mask
    twin = twin._replace(
        played=twin.played._replace(policy=np.where(mask, 0, np.float32(-1e10)), action=mask.argmax(1)),
    )

    def change(model: onnx.ModelProto) -> None:
        for item in model.graph.initializer:
            if item.name.startswith("head"):
                array = np.zeros_like(numpy_helper.to_array(item))
                if array.ndim == 1:
                    array[-1] = 5e-6
                item.CopyFrom(numpy_helper.from_array(array, item.name))

    found = rungs(twin, change)
    assert failed(found) == []
    moved = int((mask[:, -1] & mask[:, :-1].any(1)).sum())
    assert found["single step"].near_ties == found["single step"].different_actions == moved > 100


def test_an_overflow_of_the_graph_alone_fails(discrete: Climber) -> None:
    found = rungs(discrete, add("norm.weight", 3e38))
    assert not found["single step"].passed
    json.dumps(vars(found["single step"]), allow_nan=False)


def test_what_the_trained_network_cannot_answer_is_named_and_left_out() -> None:
    """A padded team's layer normalisation adds up all elements: three of the largest numbers there are overflow."""
    extremes = rungs(climber("box, memory"))["extreme observations"]
    greatest = [f"all {sign}3.4e+38, {memory}" for memory in ("no memory", "memory of play") for sign in ("", "-")]
    assert extremes.undetermined == greatest


def test_the_most_unusual_elements_come_first() -> None:
    """By hand: c never varied in play and is new; a is 4 deviations away, b 1, d as always."""
    played = np.array([[0.0, 0.0, 5.0, 7.0], [2.0, 20.0, 5.0, 7.0]], np.float32)
    found = unusual(np.array([5.0, 20.0, 5.5, 7.0], np.float32), played, ("a", "b", "c", "d"))
    assert [item["element"] for item in found] == ["c", "a", "b"]
    assert found[1] == {"element": "a", "value": 5.0, "mean_in_play": 1.0, "sd_in_play": 1.0}
    assert [item["element"] for item in unusual(np.array([1, 10, 5, 8], np.float32), played, tuple("abcd"))] == ["d"]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of climbing and its bundle."""
    path = tmp_path_factory.mktemp("ladder")
    config = AgentMixerPPO.configure().replace(
        {**TINY, "eval_interval": 0, "final_episodes": 2, "recurrent_actor": False}
    )
    run = runs.create("matrix", "climbing", "jax", "agentmixer_ppo", "default", 1, "cpu", {}, config, path / "run")
    assert trainer.train(run, quiet())
    exporting.export(run, path / "bundle")
    return path


def test_the_command_climbs_and_keeps_a_report(made: Path) -> None:
    result = CliRunner().invoke(app, ["parity", str(made / "bundle")], env={"COLUMNS": "160"})
    assert result.exit_code == 0, result.output
    assert result.output.splitlines()[-1] == "verdict: PASS"
    report = json.loads((made / "bundle/reports/parity.json").read_text())
    assert report["passed"] is True
    assert {rung["subject"] for rung in report["checks"]} == {"agent_0", "agent_1"}
    assert all(rung["status"] == "passed" for rung in report["checks"])
    printed = CliRunner().invoke(app, ["parity", str(made / "bundle"), "--json"])
    assert json.loads(printed.stdout)["checks"] == report["checks"]
    assert printed.stderr.startswith("recording 1088 steps\n")


def test_the_command_names_who_fell_and_where(made: Path, tmp_path: Path) -> None:
    """agent_1's weights are nudged and every digest made to agree; the run has moved."""
    bundle = Path(shutil.copytree(made / "bundle", tmp_path / "bundle"))
    folder = bundle / "agents/agent_1"
    model = onnx.load(folder / "policy.onnx")
    add("head.bias", 0.5, 2)(model)
    (folder / "policy.onnx").write_bytes(model.SerializeToString())
    reseal(bundle)
    read_bundle(bundle)
    moved = Path(shutil.copytree(made / "run", tmp_path / "moved"))
    result = CliRunner().invoke(app, ["parity", str(bundle), "--run", str(moved)], env={"COLUMNS": "160"})
    assert result.exit_code == 1
    assert result.output.splitlines()[-1].startswith("verdict: FAIL: ")
    assert "FAIL single step, agent_1: first at episode 0, step 0 of play; expected action " in result.output
    assert "agent_0" not in "".join(line for line in result.output.splitlines() if line.startswith("FAIL"))


def test_without_its_run_there_is_nothing_to_compare_with(made: Path) -> None:
    with pytest.raises(AgentMixerError, match="--run DIR"):
        source_run(read_bundle(made / "bundle"), Path(os.devnull) / "nowhere")
